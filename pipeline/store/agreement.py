"""How well measured difficulty agrees with the level that people gave a problem (MathVision's 1 to 5)."""

from __future__ import annotations

from dataclasses import dataclass

from diva_grpo.pipeline.store import VariantStore

# Equal values share the mean of their ranks, as Spearman's coefficient has it; where one of the two does not vary
# there is no coefficient.
HUMAN_AGREEMENT = """
WITH labelled AS (
    SELECT p.source, l.solver_model, p.human_level AS human, l.difficulty AS measured
    FROM problems p JOIN labels l ON l.subject_id = p.problem_id WHERE p.human_level IS NOT NULL
), ranked AS (
    SELECT source, solver_model,
        rank() OVER (PARTITION BY source, solver_model ORDER BY human)
            + (count(*) OVER (PARTITION BY source, solver_model, human) - 1) / 2 AS human_rank,
        rank() OVER (PARTITION BY source, solver_model ORDER BY measured)
            + (count(*) OVER (PARTITION BY source, solver_model, measured) - 1) / 2 AS measured_rank
    FROM labelled
)
SELECT source, solver_model, count(*) AS problems,
    CASE WHEN count(DISTINCT human_rank) > 1 AND count(DISTINCT measured_rank) > 1
        THEN corr(human_rank, measured_rank) END AS spearman
FROM ranked GROUP BY source, solver_model ORDER BY source, solver_model
"""
"""One row for each source with human levels and each solver: source, solver_model, problems, spearman."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one source and one solver.

    Attributes:
        problems: labelled problems with a human level.
        spearman: rank correlation of level and measured difficulty, -1 to 1; None where one does not vary.
    """

    source: str
    solver_model: str
    problems: int
    spearman: float | None


def human_agreement(store: VariantStore) -> list[Agreement]:
    """Rank correlation of human level and measured difficulty, by source and solver."""
    return [Agreement(*row) for row in store.query(HUMAN_AGREEMENT)]
