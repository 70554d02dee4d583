"""The facts of a training run that has no store, computed from its records while it runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from diva_grpo.pipeline.diagnosis.facts import (
    Facts,
    Graded,
    Gradient,
    Groups,
    PromptClass,
    RewardFunction,
    pooled,
)
from diva_grpo.pipeline.store.derived import DERIVED_SQL
from diva_grpo.pipeline.store.files.database import open_database
from diva_grpo.pipeline.store.queries import queries
from diva_grpo.schemas.arrow import columns_to_table
from diva_grpo.schemas.records import Record, Rollout, TrainStep
from diva_grpo.schemas.views import Group

logger = logging.getLogger(__name__)

MAX_STEPS = 512
"""Steps of a run that are kept apart. If there are more, neighbouring steps are merged in pairs."""

_ADDED = ("groups", "rollouts", "judged_groups", "rewarded_groups", "unjudged", "truncated_not_right", "no_answer",
          "graded", "all_right", "all_wrong", "silent", "steps")  # fmt: skip


class FactsInMemory:
    """Takes the records of a training run as a store does, and keeps only the facts that a diagnosis needs.

    The facts of new records are computed by the queries that `read_facts` uses on a store. Then the records are
    dropped, so the memory does not grow with the length of the run.

    Args:
        kinds: kind of each variant that the run may use, by variant_id.
        max_steps: number of steps that are kept apart, see `MAX_STEPS`.
    """

    def __init__(self, kinds: Mapping[str, str], max_steps: int = MAX_STEPS) -> None:
        self._variants = pa.table({
            "variant_id": pa.array(list(kinds), pa.string()), "kind": pa.array(list(kinds.values()), pa.string())
        })  # fmt: skip
        self._max_steps = max_steps
        self.clear()

    def clear(self) -> None:
        """Forget the run, because another one begins."""
        self._stride = 1
        self._last_step: dict[PromptClass, int] = {}
        self._groups: dict[tuple[int, PromptClass], Groups] = {}
        self._gradients: dict[int, Gradient] = {}
        self._functions: dict[str, RewardFunction] = {}
        self._graded: dict[tuple[str, str | None], Graded] = {}

    def append_columns(self, record: type[Record], batches: Sequence[Mapping[str, Any]]) -> None:
        """Add the facts of rollouts or training steps; other records are ignored.

        If DuckDB fails, for example because memory is exhausted, the records are left out with a warning.

        Args:
            record: type of the records.
            batches: as for `VariantStore.append_columns`. All rollouts of a group must come in one call.
        """
        names = {Rollout: ("training", "reward_functions", "graded"), TrainStep: ("gradients",)}.get(record)
        if not names or not batches:
            return
        table = columns_to_table(record, batches, datetime.now(UTC))
        try:
            rows = self._answers(record, table, names)
        except duckdb.Error as error:
            logger.warning("the diagnosis of the run leaves out %d records: %s", len(table), error)
            return
        for row in rows.get("training", ()):
            groups = Groups(**row)
            # A step may generate twice: its row then counts one step.
            known = groups.step == self._last_step.get(groups.prompt)
            self._last_step[groups.prompt] = groups.step
            self._add_groups(replace(groups, steps=0) if known else groups)
        for row in rows.get("gradients", ()):
            self._add_gradient(Gradient(**row))
        for row in rows.get("reward_functions", ()):
            self._add_function(RewardFunction(**row))
        for row in rows.get("graded", ()):
            self._add_graded(Graded(**row))
        self._merge_steps()

    def facts(self) -> Facts:
        """Return the facts of the records so far."""
        return Facts(
            groups=[self._groups[key] for key in sorted(self._groups)],
            gradients=[self._gradients[step] for step in sorted(self._gradients)],
            functions=list(self._functions.values()),
            graded=sorted(self._graded.values(), key=lambda row: -row.rollouts),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the facts for a checkpoint, as lists and dictionaries of numbers and texts."""
        rows = (self._groups, self._gradients, self._functions, self._graded)
        return {
            "stride": self._stride,
            "last_step": self._last_step,
            "rows": [[asdict(row) for row in kept.values()] for kept in rows],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the facts by those that `state_dict` returned."""
        self.clear()
        self._stride, self._last_step = state["stride"], dict(state["last_step"])
        groups, gradients, functions, graded = state["rows"]
        self._groups = {(row["step"], row["prompt"]): Groups(**row) for row in groups}
        self._gradients = {row["step"]: Gradient(**row) for row in gradients}
        self._functions = {row["function"]: RewardFunction(**row) for row in functions}
        self._graded = {(row["graded_outcome"], row["graded_how"]): Graded(**row) for row in graded}

    def _answers(
        self, record: type[Record], table: pa.Table, names: Sequence[str]
    ) -> dict[str, list[dict[str, Any]]]:
        with open_database() as connection:
            # Several threads would add numbers in any order, and a resumed run would differ in the last digit.
            connection.execute("SET threads = 1")
            connection.register("variants", self._variants)
            connection.register(record.table, table)
            if record is Rollout:
                connection.execute(f"CREATE TEMP VIEW {Group.view} AS {DERIVED_SQL[Group.view]}")
            asked = {
                name: f"SELECT * EXCLUDE run_id FROM ({queries()[name].sql.rstrip(';')})" for name in names
            }
            return {name: connection.sql(sql).to_arrow_table().to_pylist() for name, sql in asked.items()}

    def _add_groups(self, row: Groups) -> None:
        row = replace(row, step=row.step // self._stride * self._stride)
        known = self._groups.get((row.step, row.prompt))
        self._groups[row.step, row.prompt] = _merged_groups(known, row) if known else row

    def _add_gradient(self, row: Gradient) -> None:
        row = replace(row, step=row.step // self._stride * self._stride)
        known = self._gradients.get(row.step)
        self._gradients[row.step] = _merged_gradients(known, row) if known else row

    def _add_function(self, row: RewardFunction) -> None:
        if known := self._functions.get(row.function):
            least = [value for value in (known.least, row.least) if value is not None]
            most = [value for value in (known.most, row.most) if value is not None]
            row = RewardFunction(
                row.function,
                known.groups + row.groups,
                known.differing + row.differing,
                min(least, default=None),
                max(most, default=None),
            )
        self._functions[row.function] = row

    def _add_graded(self, row: Graded) -> None:
        key = row.graded_outcome, row.graded_how
        if known := self._graded.get(key):
            row = Graded(*key, known.rollouts + row.rollouts, known.truncated + row.truncated)
        self._graded[key] = row

    def _merge_steps(self) -> None:
        while len({step for step, _ in self._groups} | self._gradients.keys()) > self._max_steps:
            self._stride *= 2
            groups, gradients = [*self._groups.values()], [*self._gradients.values()]
            self._groups, self._gradients = {}, {}
            for row in groups:
                self._add_groups(row)
            for gradient in gradients:
                self._add_gradient(gradient)


def _merged_groups(one: Groups, other: Groups) -> Groups:
    """Return the groups of two rows as one row, with the step of the first."""
    rows = (one, other)
    accuracy = pooled(part for row in rows if (part := row.accuracies))
    reward = pooled(part for row in rows if (part := row.rewards))
    added = {name: sum(getattr(row, name) for row in rows) for name in _ADDED}
    return Groups(
        step=one.step,
        prompt=one.prompt,
        accuracy=accuracy and accuracy.mean,
        accuracy_variance=accuracy.variance if accuracy else 0.0,
        reward=reward and reward.mean,
        reward_variance=reward.variance if reward else 0.0,
        completion_tokens=sum(row.completion_tokens * row.groups for row in rows) / added["groups"],
        **added,
    )


def _merged_gradients(one: Gradient, other: Gradient) -> Gradient:
    """Return two rows as one, with the step of the first: means of loss and entropy, and the larger gradient."""
    rows, steps = (one, other), one.steps + other.steps
    entropies = [(row.entropy, row.steps) for row in rows if row.entropy is not None]
    return Gradient(
        one.step,
        sum(row.loss * row.steps for row in rows) / steps,
        max(row.grad_norm for row in rows),
        sum(e * n for e, n in entropies) / sum(n for _, n in entropies) if entropies else None,
        sum(row.seconds for row in rows),
        steps,
    )
