"""The texts with which variants are compared, apart from their own problem: held-out sets, and all other problems."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from diva_grpo.pipeline.checks import EvaluationSets, OtherProblems, read_evaluation_sets
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import VerifyConfig


@dataclass(frozen=True, slots=True)
class References:
    """The texts with which the checks compare variants. Made once for a run and used for all of its shards.

    Attributes:
        others: the texts of all problems of the store and of their accepted variants. The texts of variants that pass
            the checks without a model are added. None if the check `duplicate` is off.
        evaluation_sets: the questions that no variant may contain. None if the check `decontamination` is off or no
            set was given.
        lock: must be held while variants are compared and those that pass are added.
    """

    others: OtherProblems | None = None
    evaluation_sets: EvaluationSets | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    @classmethod
    def of(
        cls, store: VariantStore, config: VerifyConfig, *, variant_parts: Sequence[str] | None = None
    ) -> References:
        """Read the texts that the checks of a configuration need.

        Args:
            store: the store with the problems and variants.
            config: names the checks and the held-out sets.
            variant_parts: read variants from these parts only, see `VariantStore.variant_parts`. None reads all parts.

        Raises:
            SourceError: a held-out set cannot be read.
            ConfigError: a held-out set has no question.
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
        """Return a copy for one caller. Variants that are added to the copy are not added to the original."""
        return References(None if self.others is None else OtherProblems(self.others), self.evaluation_sets)
