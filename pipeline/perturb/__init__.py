"""Perturbed images: recipes of operations, rendered to the same pixels every time (method.md, section 3)."""

from pipeline.perturb.deltas import designed_delta
from pipeline.perturb.operations import OPERATIONS, make_operation
from pipeline.perturb.render import drawn_text, follow, render
from pipeline.perturb.rules import HIDES_WRITING, refusal, unsuited

__all__ = [
    "HIDES_WRITING",
    "OPERATIONS",
    "designed_delta",
    "drawn_text",
    "follow",
    "make_operation",
    "refusal",
    "render",
    "unsuited",
]
