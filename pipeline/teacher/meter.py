"""Progress of a run: its counts, shown on a terminal or in a log, and by `diva status` in another process."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.liveness import write_state
from diva_grpo.pipeline.teacher.prices import Budget
from diva_grpo.pipeline.teacher.wire.outcome import Outcome
from diva_grpo.schemas.exceptions import TeacherError

_WINDOW_S = 60.0
"""Seconds over which the rate is measured.

Not the whole run, because one that continues an earlier run is much faster at first: the journal has its answers.
"""

Show = Callable[[str], None]


class Meter:
    """Counts of one run. Threads may share it.

    Args:
        unit: unit of the work, in the plural, such as "problems". `count` ignores other units.
        total: number of units of the whole run; None if unknown.
        budget: budget of the run; by default without a limit.
        stage: name of the stage whose results are shown, see `tell`.
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
        """Number of requests that the journal has answered."""
        self.failures: Counter[str] = Counter()
        self.results: Counter[str] = Counter()
        """Results of the stage, such as the number of variants by status."""
        self.reasons: Counter[str] = Counter()
        """Reasons why variants of this run failed, see `failed`."""
        self.outages: Counter[str] = Counter()
        """Number of requests by outcome that failed because of credit, key, model or network."""
        self.note = ""
        """Text that says what the run is waiting for; empty if `watch` is to be used."""
        self.watch: Callable[[], str] | None = None
        """Returns a text that says what the exchanges are waiting for; empty if nothing."""
        self._samples: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def count(self, unit: str, done: int = 1) -> None:
        """Add newly done units, if `unit` is the unit of the meter."""
        if unit == self.unit:
            with self._lock:
                self.done += done

    def tell(self, stage: str, results: Mapping[str, int]) -> None:
        """Add the results of a stage, if it is the meter's stage."""
        if stage == self.stage:
            with self._lock:
                self.results.update(results)

    def failed(self, reasons: Iterable[str | None]) -> None:
        """Count variants that failed, by reason."""
        with self._lock:
            self.reasons.update(reason or "no reason" for reason in reasons)

    def exchanged(self, outcome: Outcome, dollars: float | None) -> None:
        """Count one exchange with the endpoint, and pay its cost from the budget.

        Args:
            outcome: outcome of the exchange.
            dollars: its cost; None if unknown.
        """
        self.sent += outcome.attempts
        if outcome.outcome != "ok":
            self.failures[outcome.outcome] += 1
        self.budget.pay(dollars)

    def raise_for_outages(self) -> None:
        """Fail the run if requests failed because of credit, key, model or network.

        Raises:
            TeacherError: there are such requests.
        """
        if self.outages:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.outages.most_common())
            raise TeacherError(
                f"{self.outages.total():,} requests failed ({kinds}): run the same command again, which asks them again"
            )

    def rate(self) -> float:
        """Units per second over about the last minute.

        Each call also adds a measurement, so it should be called about once per second.
        """
        now = time.monotonic()
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()
        (first, before), (last, after) = self._samples[0], self._samples[-1]
        return (after - before) / (last - first) if last > first else 0.0

    def state(self) -> dict[str, Any]:
        """All counts, in the form that `diva status` reads."""
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
    """The state of a run (see `Meter.state`) as one line of text."""
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
    """Write the state of a run to the store about once per second, for other processes, and show it regularly.

    Args:
        meter: meter of the run.
        store: store of the run.
        run_id: id of the run, from `VariantStore.run`.
        show: called with a line of text every `every_s` seconds, as soon as the run waits for something, and at the
            end of the run if it was called before. None shows nothing.
        every_s: seconds between two lines.

    Yields:
        The meter.
    """
    ended = threading.Event()
    lines = 0

    def tick() -> None:
        nonlocal lines
        shown_at, waited = time.monotonic(), False
        while not ended.wait(min(1.0, every_s)):
            state = meter.state()
            write_state(store.root, run_id, state)
            waits = bool(state["note"])
            if show and (time.monotonic() - shown_at >= every_s or (waits and not waited)):
                shown_at, lines = time.monotonic(), lines + 1
                show(state_line(state))
            waited = waits

    write_state(store.root, run_id, meter.state())
    ticker = threading.Thread(target=tick, name="meter", daemon=True)
    ticker.start()
    try:
        yield meter
    finally:
        ended.set()
        ticker.join()
        if show and lines:  # a short run shows only its result
            show(state_line(meter.state()))
