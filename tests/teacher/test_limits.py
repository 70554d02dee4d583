"""Limits by a clock of the test's own: minutes of traffic with servers that count in every known way."""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diva_grpo.pipeline.teacher.wire.limits import Bucket, Limits

Counting = Literal["sliding minute", "fixed minute", "bucket of a second", "bucket of a minute", "at random"]


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Server:
    """Lets `per_minute` requests through; how it counts them is what servers differ in.

    With `at random` it refuses each request with the probability `share`, at any pace.
    """

    per_minute: float
    counting: Counting
    tells: bool
    taken: deque[float] = field(default_factory=deque)
    level: float | None = None
    at: float = 1000.0
    share: float = 0.2
    luck: random.Random = field(default_factory=lambda: random.Random(0))

    def takes(self, now: float) -> tuple[bool, float | None]:
        """Whether a request is let through, and what Retry-After would say."""
        if self.counting == "at random":
            return self.luck.random() >= self.share, 0.05
        if self.counting.startswith("bucket"):
            most = self.per_minute if "minute" in self.counting else max(1.0, self.per_minute / 60)
            level = most if self.level is None else self.level
            self.level = min(most, level + (now - self.at) * self.per_minute / 60)
            self.at = now
            if self.level >= 1:
                self.level -= 1
                return True, None
            return False, (1 - self.level) * 60 / self.per_minute
        start = now - 60 if self.counting == "sliding minute" else now // 60 * 60
        while self.taken and self.taken[0] <= start:
            self.taken.popleft()
        if len(self.taken) < self.per_minute:
            self.taken.append(now)
            return True, None
        return False, self.taken[0] + 60 - now if self.counting == "sliding minute" else start + 60 - now


@dataclass
class Traffic:
    """What came of a time of sending as fast as the limits allow."""

    taken_by_minute: list[int]
    limited: int
    most_at_once: int

    @property
    def sent(self) -> int:
        return sum(self.taken_by_minute) + self.limited


def _traffic(limits: Limits, clock: Clock, server: Server, latency_s: float, minutes: int) -> Traffic:
    start, end = clock.now, clock.now + 60 * minutes
    returning: list[tuple[float, int, float, bool, float | None]] = []
    traffic = Traffic([0] * minutes, 0, 0)
    number = 0
    while clock.now < end:
        wait = limits.wait(0.0)
        if wait <= 0:
            number += 1
            sent_at = limits.enter(0.0)
            taken, retry_after = server.takes(clock.now)
            if taken:
                traffic.taken_by_minute[int((clock.now - start) // 60)] += 1
            else:
                traffic.limited += 1
            # A refusal comes at once, an answer takes its time.
            back = clock.now + (latency_s if taken else 0.02)
            heapq.heappush(returning, (back, number, sent_at, taken, retry_after))
            traffic.most_at_once = max(traffic.most_at_once, len(returning))
            continue
        step = clock.now + wait + 0.001  # no event loop is exact
        if returning and returning[0][0] <= step:
            back, _, sent_at, taken, retry_after = heapq.heappop(returning)
            clock.now = max(clock.now, back)
            limits.leave()
            if taken:
                limits.accepted(sent_at)
            else:
                limits.limited(sent_at, retry_after if server.tells else None)
        else:
            assert step < math.inf
            clock.now = step
    return traffic


COUNTINGS: tuple[Counting, ...] = (
    "sliding minute",
    "fixed minute",
    "bucket of a second",
    "bucket of a minute",
)


@pytest.mark.parametrize("counting", COUNTINGS)
@pytest.mark.parametrize("per_minute", [60, 600, pytest.param(6000, marks=pytest.mark.slow)])
def test_rate_that_is_told_is_used_and_kept(counting: Counting, per_minute: int) -> None:
    clock = Clock()
    limits = Limits(256, requests_per_minute=per_minute, clock=clock)
    traffic = _traffic(limits, clock, Server(per_minute, counting, tells=True), 0.5, 3)
    assert traffic.limited <= 0.01 * traffic.sent
    assert sum(traffic.taken_by_minute) >= 0.95 * 3 * per_minute


@pytest.mark.parametrize("tells", [True, False], ids=["Retry-After", "no Retry-After"])
@pytest.mark.parametrize("counting", COUNTINGS)
@pytest.mark.parametrize(
    ("per_minute", "latency_s"),
    [(300, 1.0), (600, 2.0), (1200, 1.0), pytest.param(3000, 0.3, marks=pytest.mark.slow)],
)
def test_rate_that_is_not_told_is_found(
    counting: Counting, tells: bool, per_minute: int, latency_s: float
) -> None:
    clock = Clock()
    traffic = _traffic(Limits(64, clock=clock), clock, Server(per_minute, counting, tells), latency_s, 5)
    assert sum(traffic.taken_by_minute[1:]) >= 0.8 * 4 * per_minute, traffic
    assert traffic.limited <= 0.05 * traffic.sent, traffic


@pytest.mark.parametrize("tells", [True, False], ids=["Retry-After", "no Retry-After"])
@pytest.mark.parametrize("counting", COUNTINGS)
@pytest.mark.parametrize("latency_s", [0.2, 1.0])
def test_small_rate_that_is_not_told_is_used_at_the_cost_of_429s(
    counting: Counting, tells: bool, latency_s: float
) -> None:
    """DESIGN.md states this cost, and what to do about it."""
    clock = Clock()
    traffic = _traffic(Limits(64, clock=clock), clock, Server(60, counting, tells), latency_s, 5)
    assert sum(traffic.taken_by_minute[1:]) >= 0.85 * 4 * 60, traffic
    assert traffic.limited <= 0.35 * traffic.sent, traffic


@pytest.mark.parametrize("tells", [True, False], ids=["Retry-After", "no Retry-After"])
@pytest.mark.parametrize("latency_s", [0.2, 2.0])
def test_429s_at_any_pace_do_not_slow_the_work_for_ever(tells: bool, latency_s: float) -> None:
    """In the tenth minute. Before it the pace is cut, and found again: that takes minutes where answers are slow."""
    clock = Clock()
    traffic = _traffic(Limits(32, clock=clock), clock, Server(0, "at random", tells), latency_s, 10)
    assert traffic.taken_by_minute[-1] >= 0.5 * 60 * 32 / latency_s, traffic


@pytest.mark.parametrize("tells", [True, False], ids=["Retry-After", "no Retry-After"])
def test_nine_429s_of_ten_slow_the_work_and_do_not_stop_it(tells: bool) -> None:
    """NeMo DataDesigner stalled here."""
    clock = Clock()
    server = Server(0, "at random", tells, share=0.9)
    by_minute = _traffic(Limits(32, clock=clock), clock, server, 0.2, 60).taken_by_minute
    assert sum(by_minute) >= 60
    assert all(sum(by_minute[i : i + 10]) > 0 for i in range(50))


def test_another_begins_where_one_has_ended() -> None:
    clock = Clock()
    first = Limits(64, clock=clock)
    _traffic(first, clock, Server(600, "sliding minute", tells=True), 2.0, 3)
    second = Limits(64, clock=clock)
    second.resume(first.state())
    traffic = _traffic(second, clock, Server(600, "bucket of a second", tells=True), 2.0, 1)
    assert traffic.limited <= 3, "as many as it takes to learn the limit were sent again"
    assert traffic.taken_by_minute[0] >= 0.8 * 600


def test_window_opens_with_answers_and_is_halved_by_a_429() -> None:
    clock = Clock()
    limits = Limits(64, clock=clock)

    def open_places() -> int:
        number = 0
        while limits.wait(0) <= 0:
            limits.enter(0)
            number += 1
        return number

    assert open_places() == 16
    clock.now += 1
    for _ in range(16):
        limits.leave()
        limits.accepted(clock.now - 1)
    assert open_places() == 32
    limits.leave()
    limits.limited(clock.now, None)
    clock.now += 60
    assert open_places() == 0, "31 are in flight, 16 may be"


def test_429s_of_one_moment_count_once() -> None:
    clock = Clock()
    limits = Limits(64, clock=clock)
    sent = [limits.enter(0) for _ in range(16)]
    clock.now += 0.1
    for at in sent:
        limits.leave()
        limits.limited(at, None)
    assert limits.state()[0] == 8
    assert 0.3 < limits.wait(0) <= 0.5


@given(st.floats(0, 300), st.floats(0, 20))
def test_retry_after_is_waited_for(retry_after_s: float, later_s: float) -> None:
    clock = Clock()
    limits = Limits(4, clock=clock)
    at = limits.enter(0)
    clock.now += 0.1
    limits.leave()
    limits.limited(at, retry_after_s)
    clock.now += later_s
    assert limits.wait(0) >= retry_after_s - later_s - 1e-6


def test_tokens_a_minute_are_kept_with_what_answers_really_cost() -> None:
    clock = Clock()
    limits = Limits(8, tokens_per_minute=6000, clock=clock)
    spent, start = 0.0, clock.now
    while clock.now < start + 600:
        if (wait := limits.wait(10)) > 0:
            clock.now += wait + 0.001
            continue
        limits.enter(10)  # ten times too low
        limits.leave(90)
        limits.accepted(clock.now)
        spent += 100
    assert 0.95 * 60_000 <= spent <= 60_000


@settings(max_examples=50)
@given(
    st.floats(0.1, 100), st.floats(1, 50), st.lists(st.tuples(st.floats(0, 5), st.floats(0, 80)), max_size=40)
)
def test_bucket_never_gives_more_than_its_rate(
    rate: float, burst: float, moves: list[tuple[float, float]]
) -> None:
    clock = Clock()
    bucket = Bucket(rate, burst, clock)
    taken, start, last = 0.0, clock.now, 0.0
    for pause, amount in moves:
        clock.now += pause
        if bucket.wait(amount) <= 0:
            bucket.take(amount)
            taken, last = taken + amount, amount
    assert taken <= burst + (clock.now - start) * rate + max(0.0, last - burst) + 1e-6
