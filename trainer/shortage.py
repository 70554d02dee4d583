"""Where a training run is short of variants: no accepted one is near the offset that selection would like.

The rule is `contract.md`'s, and what selection wants is `trainer.method.selection`'s own: the table of targets of one
variant, and the delta nearest to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.snapshot import Deltas
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.method.difficulty import FloatArray
from diva_grpo.trainer.method.selection import wanted_delta

WINDOW_STEPS: Final = 200
"""Last steps of a run in which a problem must have been seen."""
TOLERANCE: Final = 1.5
"""Levels that the nearest delta may be from the wanted one."""


@dataclass(frozen=True, slots=True)
class Shortages:
    """The problems that are short of variants, worst first (then by id).

    Attributes:
        run_id: of the training run.
        seen: problems that the run saw in the window, short or not.
        problem_ids: S of them.
        wanted_S: (S,) the delta that one variant should have, in levels.
        nearest_S: (S,) delta of the nearest accepted variant; NaN where there is none.
        distance_S: (S,) between the two; infinite where there is none.
    """

    run_id: str
    seen: int
    problem_ids: list[str]
    wanted_S: FloatArray
    nearest_S: FloatArray
    distance_S: FloatArray


def training_run(store: VariantStore, run_id: str | None = None) -> str:
    """The training run of that name, or the one that was started or resumed last.

    Raises:
        ConfigError: there is none that has recorded a difficulty.
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


def nearest(deltas: Deltas, wanted_P: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """The delta of each problem's variant that is nearest to the wanted one.

    Args:
        deltas: of the accepted variants of P problems.
        wanted_P: (P,) wanted deltas, in levels.

    Returns:
        (P,) nearest deltas, NaN for a problem without a variant; and (P,) their distances, infinite for those.
    """
    wanted = np.asarray(wanted_P, np.float64)
    distance_V = np.abs(deltas.delta_V - wanted[deltas.owner_V])
    order = np.lexsort((distance_V, deltas.owner_V))
    owners, firsts = np.unique(deltas.owner_V[order], return_index=True)
    best = order[firsts]
    nearest_P, distance_P = np.full(len(wanted), np.nan), np.full(len(wanted), np.inf)
    nearest_P[owners], distance_P[owners] = deltas.delta_V[best], distance_V[best]
    return nearest_P, distance_P


def find_shortages(
    store: VariantStore,
    run_id: str,
    *,
    window_steps: int = WINDOW_STEPS,
    tolerance: float = TOLERANCE,
    problem_filter: str | None = None,
) -> Shortages:
    """The problems of a training run that are short of variants, by live difficulty.

    Args:
        store: with the run's records.
        run_id: of the run.
        window_steps: only problems that were seen in so many last steps of the run.
        tolerance: levels that the nearest delta may be from the wanted one.
        problem_filter: an SQL condition on `problems`.

    Raises:
        ConfigError: the condition is no SQL.
        StoreError: a part is damaged.
    """
    store.problems(where=problem_filter, limit=1)  # says in one line what is wrong with the condition
    rows = store.query(
        "SELECT problem_id, difficulty FROM live_difficulty WHERE run_id = ? "
        "AND step > (SELECT max(step) FROM difficulty_events WHERE run_id = ?) - ? "
        f"AND problem_id IN (SELECT problem_id FROM problems WHERE ({problem_filter or 'true'})) "
        "ORDER BY problem_id",
        [run_id, run_id, window_steps],
    )
    ids = [problem_id for problem_id, _ in rows]
    wanted_P = wanted_delta(np.array([difficulty for _, difficulty in rows], np.float64))
    nearest_P, distance_P = nearest(store.snapshot().deltas(ids), wanted_P)
    short = np.flatnonzero(distance_P > tolerance + 1e-9)  # deltas are differences of rounded numbers
    worst_first = short[np.argsort(-distance_P[short], kind="stable")]
    return Shortages(
        run_id,
        len(ids),
        [ids[number] for number in worst_first],
        wanted_P[worst_first],
        nearest_P[worst_first],
        distance_P[worst_first],
    )
