"""Perturbed images: recipes of operations, rendered to the same pixels every time (method.md, section 3)."""

from pipeline.perturb.operations import OPERATIONS, make_operation
from pipeline.perturb.render import drawn_text, follow, render

__all__ = ["OPERATIONS", "drawn_text", "follow", "make_operation", "render"]
