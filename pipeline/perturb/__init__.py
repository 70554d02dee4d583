"""Perturb images. A recipe lists the operations, and rendering it gives the same pixels every time."""

from diva_grpo.pipeline.perturb.operations import OPERATIONS, make_operation
from diva_grpo.pipeline.perturb.render import drawn_text, follow, render
from diva_grpo.pipeline.perturb.rules import HIDES_WRITING, refusal, unsuited

__all__ = [
    "HIDES_WRITING",
    "OPERATIONS",
    "drawn_text",
    "follow",
    "make_operation",
    "refusal",
    "render",
    "unsuited",
]
