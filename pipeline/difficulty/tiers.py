"""The paper's three tiers of difficulty, and the kinds of variants that each tier uses (arXiv 2603.01106)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from diva_grpo.schemas.config import IMAGE_KINDS
from diva_grpo.schemas.records import Kind


class Tier(IntEnum):
    """One of three ranges of a problem's difficulty for the policy."""

    EASY = 0
    MEDIUM = 1
    HARD = 2


TIER_KINDS: Final[Mapping[Tier, frozenset[str]]] = MappingProxyType(
    {
        Tier.EASY: frozenset({Kind.HARDER, *IMAGE_KINDS}),
        Tier.MEDIUM: frozenset({Kind.REWORD}),
        Tier.HARD: frozenset({Kind.THINK_STEP}),
    }
)
"""The kinds of variants that are used for problems of each tier."""


def tier_of(difficulty: float) -> Tier:
    """Return the tier of a difficulty: easy below 4, medium from 4 to 6, hard above 6."""
    return Tier((difficulty >= 4) + (difficulty > 6))
