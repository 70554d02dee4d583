"""Diagnose a training run: read its facts with the named queries, apply the rules, and read rollouts as examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diva_grpo.pipeline.diagnosis.facts import Facts, Graded, Gradient, Groups, RewardFunction, Scored
from diva_grpo.pipeline.diagnosis.rules import WITHOUT_GAIN, Finding, find
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.database import quoted
from diva_grpo.pipeline.store.queries import answers
from diva_grpo.pipeline.store.sql import locked, select
from diva_grpo.schemas.exceptions import ConfigError

_QUERIES = ("training", "gradients", "reward_functions", "graded", "unknown_problems", "scores")
_EXAMPLES = 3

_EXAMPLES_OF = """
SELECT r.step, r.problem_id, r.variant_id, r.kind, r.hint_steps, r.hint_total, r.sample, r.reward, r.accuracy,
       r.completion_tokens, r.finish, r.graded_outcome, r.graded_answer, r.graded_how, p.prompt,
       coalesce(p.opening, '') || r.completion AS completion
FROM (
    SELECT * FROM rollouts LEFT JOIN (SELECT variant_id, kind, hint_steps, hint_total FROM variants) USING (variant_id)
    WHERE run_id = {run_id} AND ({condition})
) r LEFT JOIN prompts p ON p.run_id = r.run_id AND p.problem_id = r.problem_id AND p.variant_id = r.variant_id
QUALIFY row_number() OVER (PARTITION BY r.problem_id ORDER BY r.completion IS NULL, r.step DESC, r.slot, r.sample) = 1
ORDER BY r.completion IS NULL, r.step DESC, r.problem_id LIMIT {limit}
"""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of diagnosing a training run.

    Attributes:
        run_id: id of the training run; empty if it has no store.
        facts: the facts to which the rules were applied.
        findings: what is wrong, in the order in which a user should look at it.
        examples: for each finding, up to three rollouts as dictionaries by column. Rollouts with a stored completion
            come first, then the latest.
    """

    run_id: str
    facts: Facts
    findings: Sequence[Finding]
    examples: Sequence[Sequence[dict[str, Any]]]

    @property
    def without_gain(self) -> bool:
        """Whether a finding says that the policy did not become better on the originals."""
        return any(finding.rule.cause in WITHOUT_GAIN for finding in self.findings)


def diagnose(store: VariantStore, run_id: str) -> Diagnosis:
    """Find out what is wrong with a training run.

    Args:
        store: store with the run's rollouts.
        run_id: id of the run.

    Raises:
        QueryError: a query takes too long.
        StoreError: a part file is damaged.
    """
    facts = read_facts(store, run_id)
    findings = find(facts)
    return Diagnosis(run_id, facts, findings, _examples(store, run_id, findings))


def read_facts(store: VariantStore, run_id: str) -> Facts:
    """Read the facts of a run from a store. Arguments and errors are those of `diagnose`."""
    rows = answers(store, _QUERIES, {"run_id": run_id})
    for of_query in rows.values():
        for row in of_query:
            del row["run_id"]
    return Facts(
        groups=[Groups(**row) for row in rows["training"]],
        gradients=[Gradient(**row) for row in rows["gradients"]],
        functions=[RewardFunction(**row) for row in rows["reward_functions"]],
        graded=[Graded(**row) for row in rows["graded"]],
        unknown={row["problem_id"]: row["rollouts"] for row in rows["unknown_problems"]},
        scores=[
            Scored(row["step"], row["split"], row["accuracy"], row["standard_error"])
            for row in rows["scores"]
        ],
    )


def training_run(store: VariantStore, run_id: str | None = None) -> str:
    """Return the id of a training run with rollouts in the store.

    Args:
        store: the store.
        run_id: id of the run; default the run that started last.

    Raises:
        ConfigError: the store has no rollouts of this run, or none at all.
    """
    runs = store.query(
        "SELECT r.run_id FROM (SELECT DISTINCT run_id FROM rollouts) r LEFT JOIN runs t USING (run_id) "
        "ORDER BY t.started_at DESC NULLS LAST, r.run_id"
    )
    names = [name for (name,) in runs]
    if not names:
        raise ConfigError("the store has no rollouts: `diva train` records them")
    if run_id is not None and run_id not in names:
        raise ConfigError(
            f"--run {run_id}: the store has no rollouts of it; it has those of {', '.join(names[:5])}"
        )
    return run_id or names[0]


def _examples(store: VariantStore, run_id: str, findings: Sequence[Finding]) -> list[list[dict[str, Any]]]:
    asked = [
        _EXAMPLES_OF.format(run_id=quoted(run_id), condition=finding.rule.examples, limit=_EXAMPLES)
        for finding in findings
    ]
    if not asked:
        return []
    with locked(store, "\n".join(asked)) as connection:
        return [select(store, connection, sql).to_pylist() for sql in asked]
