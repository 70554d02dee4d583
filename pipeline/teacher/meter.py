"""How far a run is: counted as it goes, shown on a terminal, in a log, and to `diva status` of another process."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.liveness import write_state
from diva_grpo.pipeline.teacher.prices import Budget
from diva_grpo.pipeline.teacher.wire.outcome import Outcome
from diva_grpo.schemas.exceptions import TeacherError

_WINDOW_S = 60.0
"""Seconds over which the rate is taken: a run that continues from a journal begins much faster than it stays."""

Show = Callable[[str], None]


class Meter:
    """Counts of one run. Threads may share it.

    Args:
        unit: of the work, in the plural; what is counted in another unit is passed over.
        total: units of the whole run; None where nobody knows.
        budget: what it spends from.
        stage: whose results are shown, see `tell`.
    """

    def __init__(
        self, unit: str, total: int | None = None, budget: Budget | None = None, stage: str = ""
    ) -> None:
        self.unit, self.total, self.stage = unit, total, stage
        self._lock = threading.Lock()
        self.budget = budget or Budget()
        self.done = 0
        self.sent = 0
        self.reused = 0
        """Requests that the journal has answered."""
        self.failures: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        """What came of the work: variants by status, labels by kind."""
        self.outages: Counter[str] = Counter()
        """Requests that failed for want of credit, key, model or network, by outcome."""
        self.note = ""
        """What is waited for."""
        self.watch: Callable[[], str] | None = None
        """Tells what an exchange waits for."""
        self._samples: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def count(self, unit: str, done: int = 1) -> None:
        """Count units that are newly done, where the run is counted in these."""
        if unit == self.unit:
            with self._lock:
                self.done += done

    def tell(self, stage: str, results: Mapping[str, int]) -> None:
        """Add what came of a stage, where its results are those shown."""
        if stage == self.stage:
            with self._lock:
                self.results.update(results)

    def exchanged(self, outcome: Outcome, dollars: float | None) -> None:
        """Count one exchange with the endpoint."""
        self.sent += outcome.attempts
        if outcome.outcome != "ok":
            self.failures[outcome.outcome] += 1
        self.budget.pay(dollars)

    def raise_for_outages(self) -> None:
        """Let a run end as failed in which requests failed whatever they asked.

        Raises:
            TeacherError: some did.
        """
        if self.outages:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.outages.most_common())
            raise TeacherError(
                f"{self.outages.total():,} requests failed ({kinds}): run the same command again, which asks them again"
            )

    def rate(self) -> float:
        """Units a second, of late. Called once a second or so, it also keeps the time."""
        now = time.monotonic()
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def state(self) -> dict[str, Any]:
        """All figures, as `diva status` reads them."""
        rate = self.rate()
        left = None if self.total is None or not rate else max(0, self.total - self.done) / rate
        return {
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "rate": round(rate, 3),
            "results": dict(self.results),
            "sent": self.sent,
            "reused": self.reused,
            "failures": self.failures.total(),
            "usd": round(self.budget.spent, 6),
            "max_usd": self.budget.limit,
            "left_s": None if left is None else round(left),
            "note": self.note or (self.watch() if self.watch else ""),
            "at": time.time(),
        }


def state_line(state: Mapping[str, Any]) -> str:
    """A run's state on one line."""
    of_total = f"/{state['total']:,}" if state["total"] is not None else ""
    parts = [f"{state['done']:,}{of_total} {state['unit']}", f"{state['rate']:.1f}/s"]
    parts += [", ".join(f"{count:,} {name}" for name, count in state["results"].items())]
    parts += [f"{state['sent']:,} sent" + (f", {state['failures']:,} failed" if state["failures"] else "")]
    parts += [f"{state['reused']:,} from the journal" if state["reused"] else ""]
    limit = f" of ${state['max_usd']:g}" if state["max_usd"] is not None else ""
    parts += [f"${state['usd']:.4f}{limit}"]
    parts += [f"{timedelta(seconds=state['left_s'])} left" if state["left_s"] else ""]
    return " · ".join(part for part in [*parts, state["note"]] if part)


@contextmanager
def shown(
    meter: Meter, store: VariantStore, run_id: str, show: Show | None = None, every_s: float = 30.0
) -> Iterator[Meter]:
    """Keep a run's state readable for other processes, and show it from time to time.

    Args:
        meter: of the run.
        store: where the run is.
        run_id: as `VariantStore.run` gave it.
        show: told of the state's line every so often, and at the end of a run that took longer than that.
        every_s: seconds between two lines.
    """
    ended = threading.Event()
    lines = 0

    def tick() -> None:
        nonlocal lines
        shown_at = time.monotonic()
        while not ended.wait(min(1.0, every_s)):
            state = meter.state()
            write_state(store.root, run_id, state)
            if show and time.monotonic() - shown_at >= every_s:
                shown_at, lines = time.monotonic(), lines + 1
                show(state_line(state))

    write_state(store.root, run_id, meter.state())
    ticker = threading.Thread(target=tick, name="meter", daemon=True)
    ticker.start()
    try:
        yield meter
    finally:
        ended.set()
        ticker.join()
        if show and lines:  # a short run needs no progress: its result comes at once
            show(state_line(meter.state()))
