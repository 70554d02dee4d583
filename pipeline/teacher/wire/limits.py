"""How many requests may go to an endpoint, and how fast: what the user set, and what the endpoint's 429s say.

Concurrency is a window that opens by one for each answer up to the first 429 (it doubles within the time of an
answer), then by one for each window of answers, and is halved by a 429: additive increase, multiplicative decrease,
as in TCP. Where answers come fast, no window is small enough for a limit of requests a minute. So a 429 also sets a
pace, somewhat below the rate at which the endpoint had just accepted requests, which then grows slowly.

Retries of 429s are not counted; a pause before the next request, for all at once, takes their place. Rates are
evened out over the minute, since endpoints enforce them by the second; `aiolimiter` lets a whole minute's requests
go at once, and cannot be told afterwards how many tokens a request has cost.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable

_FIRST_WINDOW = 16
_RECENT_S = 60.0
"""Time over which the rate of accepted requests is taken: the one over which endpoints count."""
_BELOW, _FLOOR, _CUT = 0.95, 0.5, 0.85
"""Pace after a 429: at most and at least as a share of the accepted rate, and as a share of the pace before."""
_GROWTH_PER_S, _GROWTH_PER_REQUEST = 0.01, 0.006
"""Growth of the pace at first, by what is slower: seconds, so that 429s are seldom, or requests, so that they are few.

It becomes faster the longer none has come, so that a pace far too low does not stay so.
"""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
"""Pause after a 429 without `Retry-After`; it doubles from one to the next until a request is accepted."""
_PROBE_S = 1.0
"""Time within which an endpoint refuses a request; an answer may take much longer."""
_HEADROOM, _BURST_S = 0.98, 0.9
"""Share of a set rate that is used; and seconds of it that may be sent at once after a rest.

Together a minute's requests stay below the rate, wherever the endpoint's minute begins.
"""

Clock = Callable[[], float]


class Bucket:
    """A token bucket that may run into debt: what a request costs may be known only afterwards.

    Args:
        rate: tokens a second.
        burst: most tokens that a rest can save up.
        clock: seconds, from any origin.
    """

    def __init__(self, rate: float, burst: float, clock: Clock = time.monotonic) -> None:
        self.rate, self._burst, self._clock = rate, burst, clock
        self._level, self._at = burst, clock()

    def wait(self, amount: float) -> float:
        """Seconds until so many may be taken; a larger amount than the burst only needs a full bucket."""
        self._fill()
        return max(0.0, (min(amount, self._burst) - self._level) / self.rate)

    def take(self, amount: float) -> None:
        """Take tokens; a negative amount gives them back."""
        self._fill()
        self._level = min(self._burst, self._level - amount)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self.rate)
        self._at = now


def _minutely(rate: float | None, clock: Clock) -> Bucket | None:
    """The bucket of a rate a minute that the user set."""
    if rate is None:
        return None
    per_s = rate * _HEADROOM / 60
    return Bucket(per_s, max(1.0, per_s * _BURST_S), clock)


class Limits:
    """What one URL and key may be sent, and when. It waits for nothing itself: `wait` says how long to.

    Args:
        most: most requests at once.
        requests_per_minute: None for no limit of one's own.
        tokens_per_minute: likewise.
        clock: seconds, from any origin.
    """

    def __init__(
        self,
        most: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._most, self._clock = most, clock
        self._requests, self._tokens = (
            _minutely(requests_per_minute, clock),
            _minutely(tokens_per_minute, clock),
        )
        self._pace: Bucket | None = None
        self._window = float(min(most, _FIRST_WINDOW))
        self._in_flight = 0
        self._started = clock()
        self._accepted: deque[float] = deque()
        self._most_accepted = 0
        """In any minute."""
        self._refused_at = self._paced_at = -math.inf
        """When the last 429 was reacted to (those of requests sent before it say nothing new), and the pace was cut."""
        self._refused_in_a_row, self._since_cut = 0, 0
        self._paused_until = 0.0
        self._probe_until: float | None = None
        """After a pause, one request tries first: until then the others wait for its refusal."""

    def wait(self, tokens: float) -> float:
        """Seconds until a request may go, as things are; infinite where one must come back first.

        Args:
            tokens: about how many it will cost.
        """
        if self._in_flight >= int(self._window):
            return math.inf
        waits = [bucket.wait(amount) for bucket, amount in self._buckets(tokens)]
        probing_until = self._probe_until if self._refused_in_a_row else None
        return max(0.0, max(self._paused_until, probing_until or 0.0) - self._clock(), *waits)

    def paused_s(self) -> float:
        """Seconds that a 429 still holds back every request."""
        return max(0.0, self._paused_until - self._clock())

    def enter(self, tokens: float) -> float:
        """A request goes; returns the moment. Every entry needs its `leave`."""
        self._in_flight += 1
        if self._refused_in_a_row and self._probe_until is None:
            self._probe_until = self._clock() + _PROBE_S
        for bucket, amount in self._buckets(tokens):
            bucket.take(amount)
        return self._clock()

    def leave(self, tokens_over: float = 0.0) -> None:
        """A request has come back.

        Args:
            tokens_over: how many more tokens it cost than `enter` was told.
        """
        self._in_flight -= 1
        if self._tokens and tokens_over:
            self._tokens.take(tokens_over)

    def accepted(self, sent_at: float) -> None:
        """The endpoint took a request.

        Args:
            sent_at: what `enter` returned.
        """
        now = self._clock()
        if self._pace and self._accepted:
            self._since_cut += 1
            by_time = _GROWTH_PER_S * (now - self._accepted[-1]) * (1 + (now - self._paced_at) / 10)
            by_number = _GROWTH_PER_REQUEST * (1 + self._since_cut / 20)
            self._pace.rate *= 1 + min(by_time, by_number)
        self._accepted.append(now)
        while self._accepted[0] < now - _RECENT_S:
            self._accepted.popleft()
        self._most_accepted = max(self._most_accepted, len(self._accepted))
        if sent_at > self._refused_at:
            self._refused_in_a_row = 0
        self._window = min(self._most, self._window + (1 if self._pace is None else 1 / self._window))

    def limited(self, sent_at: float, retry_after_s: float | None) -> None:
        """The endpoint answered 429.

        Args:
            sent_at: what `enter` returned.
            retry_after_s: seconds by the answer's `Retry-After`.
        """
        now = self._clock()
        if sent_at > self._refused_at:
            # Where nothing was accepted since the last one, the endpoint is shut for a time: that is no fault of
            # the pace, and only waiting helps.
            if self._refused_in_a_row == 0:
                self._paced_at, self._since_cut = now, 0
                self._window = max(1.0, self._window / 2)
                self._set_pace(self._pace_below(now))
            self._refused_at, self._probe_until = now, None
            # A Retry-After that was waited for in vain was too short.
            if retry_after_s is None or self._refused_in_a_row:
                pause = min(_FIRST_PAUSE_S * 2**self._refused_in_a_row, _LONGEST_PAUSE_S)
                # Not all clients of an endpoint should come back in the same moment.
                self._pause(now + pause * random.uniform(0.75, 1.0))
            self._refused_in_a_row += 1
        if retry_after_s is not None:
            self._pause(now + retry_after_s)

    def _pace_below(self, now: float) -> float:
        """Requests a second, somewhat fewer than were tried, but hardly fewer than were accepted."""
        recent = sum(at > now - _RECENT_S for at in self._accepted)
        rate = max(1, recent) / min(_RECENT_S, max(1.0, now - self._started))
        tried = self._pace.rate if self._pace else math.inf
        # Some endpoints answer 429 at any pace: cut after cut, the work would come to a halt.
        floor = _FLOOR * max(rate, self._most_accepted / _RECENT_S)
        return max(floor, min(_BELOW * rate, _CUT * tried))

    def state(self) -> list[float | None]:
        """Window and pace, for another `Limits` of the same endpoint to begin with."""
        return [self._window, self._pace.rate if self._pace else None]

    def resume(self, state: list[float | None]) -> None:
        """Begin where another one has ended."""
        window, rate = state
        self._window = min(self._most, max(1.0, window or 1.0))
        if rate is not None:
            self._set_pace(rate)

    def _set_pace(self, rate: float) -> None:
        self._pace = Bucket(rate, max(1.0, 0.1 * rate), self._clock)

    def _pause(self, until: float) -> None:
        self._paused_until = max(self._paused_until, until)

    def _buckets(self, tokens: float) -> list[tuple[Bucket, float]]:
        pairs = ((self._requests, 1.0), (self._pace, 1.0), (self._tokens, tokens))
        return [(bucket, amount) for bucket, amount in pairs if bucket]
