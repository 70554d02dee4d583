"""Scores of a model on held-out problems, and the policy as a solver."""
