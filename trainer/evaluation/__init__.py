"""Evaluation of a model on held-out problems, and the solver that answers with a local model."""
