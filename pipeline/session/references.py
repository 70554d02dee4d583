"""What variants are compared with beside their own problem: held-out sets, and the texts of all problems."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from diva_grpo.pipeline.checks import EvaluationSets, OtherProblems, read_evaluation_sets
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import VerifyConfig


@dataclass(frozen=True, slots=True)
class References:
    """Made once for a run, and used for all of its shards.

    Attributes:
        others: texts of all problems of the store; grows as variants pass. None compares with none.
        evaluation_sets: the questions that no variant may contain; None where the user named none.
        lock: held while variants are compared, and those that pass are added.
    """

    others: OtherProblems | None = None
    evaluation_sets: EvaluationSets | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def of(
        cls, store: VariantStore, config: VerifyConfig, *, variant_parts: Sequence[str] | None = None
    ) -> References:
        """What the checks of a configuration need.

        Args:
            store: the store.
            config: the checks.
            variant_parts: the parts of `variants` that count, see `VariantStore.variant_parts`; None is all.

        Raises:
            SourceError: an evaluation set cannot be read.
            ConfigError: an evaluation set has no question.
        """
        others = None
        if "duplicate" in config.checks:
            others = OtherProblems()
            problems = {problem.problem_id: problem for problem in store.problems()}
            others.add((problem, problem.text) for problem in problems.values())
            texts = store.query(
                "SELECT problem_id, text FROM variants WHERE status = 'accepted' "
                "AND kind IN ('reword', 'harder') AND text IS NOT NULL ORDER BY variant_id",
                variant_parts=variant_parts,
            )
            others.add((problems[problem_id], text) for problem_id, text in texts if problem_id in problems)
        wanted = "decontamination" in config.checks and config.evaluation_sets
        return cls(others, read_evaluation_sets(config.evaluation_sets) if wanted else None)

    def layered(self) -> References:
        """The same, with what passes from now on known to the copy alone."""
        return References(None if self.others is None else OtherProblems(self.others), self.evaluation_sets)
