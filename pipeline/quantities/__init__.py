"""Read quantities, LaTeX and JSON escapes. The grader, the checks and the teacher's replies share this package."""
