"""Quantities of a text, and the LaTeX that they stand in."""
