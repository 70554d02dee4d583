"""Quantities in texts and answers, and LaTeX."""
