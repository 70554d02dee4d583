"""Find the problems for which a training run lacks variants.

A problem is short of variants if no accepted variant has an offset near the wanted one. The wanted offset is the one
that the selector `paper` uses for a single variant (`pipeline.difficulty.target`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diva_grpo.pipeline.difficulty.scale import FloatArray
from diva_grpo.pipeline.difficulty.target import nearest_delta, wanted_delta
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import ConfigError


@dataclass(frozen=True, slots=True)
class Shortages:
    """The problems that are short of variants, those with the largest distance first, then by id.

    Attributes:
        run_id: id of the training run.
        seen: number of problems that the run saw in the window, short or not.
        problem_ids: the ids of the S problems that are short.
        wanted_S: (S,) the offset that a variant should have, in levels.
        nearest_S: (S,) the offset of the nearest accepted variant, in levels; NaN if there is none.
        distance_S: (S,) the distance between the two; infinite if there is no accepted variant.
    """

    run_id: str
    seen: int
    problem_ids: list[str]
    wanted_S: FloatArray
    nearest_S: FloatArray
    distance_S: FloatArray


def training_run(store: VariantStore, run_id: str | None = None) -> str:
    """Return the id of the training run: the given one, or the one that was started or resumed last.

    Raises:
        ConfigError: no training run, or not the given one, has recorded a difficulty.
    """
    rows = store.query(
        "SELECT run_id FROM attempts WHERE run_id IN (SELECT run_id FROM difficulty_events) "
        "GROUP BY run_id ORDER BY max(started_at) DESC, run_id"
    )
    known = [name for (name,) in rows]
    if not known:
        raise ConfigError(
            "no training run of this store has recorded a difficulty yet: `diva train` does every "
            "--store_flush_steps steps"
        )
    if run_id is not None and run_id not in known:
        raise ConfigError(f"no training run {run_id!r} in this store; the last ones: {', '.join(known[:3])}")
    return run_id or known[0]


def find_shortages(
    store: VariantStore,
    run_id: str,
    *,
    window_steps: int,
    tolerance: float,
    problem_filter: str | None = None,
) -> Shortages:
    """Find the problems of a training run that are short of variants, by their live difficulty.

    Args:
        store: the store with the records of the run.
        run_id: id of the training run.
        window_steps: consider only problems that the run saw in its last `window_steps` steps.
        tolerance: a problem is short if the nearest offset is further than this from the wanted one, in levels.
        problem_filter: an SQL condition on `problems`; None for all problems.

    Raises:
        ConfigError: the condition is not valid SQL.
        StoreError: a part is damaged.
    """
    store.problems(where=problem_filter, limit=1)  # raises a one-line error if the condition is invalid
    rows = store.query(
        "SELECT problem_id, difficulty FROM live_difficulty WHERE run_id = ? "
        "AND step > (SELECT max(step) FROM difficulty_events WHERE run_id = ?) - ? "
        f"AND problem_id IN (SELECT problem_id FROM problems WHERE ({problem_filter or 'true'})) "
        "ORDER BY problem_id",
        [run_id, run_id, window_steps],
    )
    ids = [problem_id for problem_id, _ in rows]
    wanted_P = wanted_delta(np.array([difficulty for _, difficulty in rows], np.float64))
    deltas = store.snapshot().deltas(ids)
    nearest_P, distance_P = nearest_delta(deltas.owner_V, deltas.delta_V, wanted_P)
    short = np.flatnonzero(distance_P > tolerance + 1e-9)  # 1e-9 for rounding errors of the offsets
    worst_first = short[np.argsort(-distance_P[short], kind="stable")]
    return Shortages(
        run_id,
        len(ids),
        [ids[number] for number in worst_first],
        wanted_P[worst_first],
        nearest_P[worst_first],
        distance_P[worst_first],
    )
