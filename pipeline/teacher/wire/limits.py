"""Rate limits of an endpoint: those that the user set, and those that are learnt from responses with status 429.

The number of concurrent requests is limited by a window. Until the first 429 it grows by one with each answer, so it
doubles within the time of an answer. After that it grows by one with each full window of answers, and each 429 halves
it: additive increase, multiplicative decrease, as in TCP. If answers come fast, no window is small enough for a limit
in requests per minute. So a 429 also sets a pace (requests per second), a little below the rate at which the endpoint
accepted requests until then. The pace then grows slowly.

The number of retries after a 429 is not limited. Instead, a 429 delays all further requests by a pause. Requests are
spread evenly over the minute, because endpoints enforce their limits by the second. `aiolimiter` does not fit: it sends
the requests of a whole minute at once, and it cannot be told afterwards how many tokens a request has cost.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from collections.abc import Callable

_FIRST_WINDOW = 16
_RECENT_S = 60.0
"""Seconds over which the rate of accepted requests is measured; endpoints count per minute, too."""
_BELOW, _FLOOR, _CUT = 0.95, 0.5, 0.85
"""The pace after a 429: its largest and smallest value as fractions of the accepted rate, and its largest value as a
fraction of the previous pace."""
_GROWTH_PER_S, _GROWTH_PER_REQUEST = 0.01, 0.006
"""Relative growth of the pace per second and per request, soon after it was cut. The slower of the two applies.

The limit per second makes 429s rare in time, the limit per request makes them rare among the requests. The growth
becomes faster the longer no 429 has come, so that a pace that is much too low recovers.
"""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
"""Pause after a 429 without `Retry-After`. It doubles with each further 429 until a request is accepted."""
_SHORT_RUN, _SHORT_RUNS = 8, 4
"""A 429 is independent of the pace if it came after fewer accepted requests than the first, so often in a row."""
_SLOWEST = 0.25
"""The smallest pace after a 429, in requests per second. An endpoint may refuse nine of ten at any pace."""
_TRIAL, _MOST_BEFORE, _MOST_DURING = 40, 0.35, 0.5
"""Number of outcomes over which the share of 429s is measured, its largest value at which twice the pace is tried, and
the largest one at which the higher pace is kept."""
_PROBE_S = 1.0
"""Seconds within which an endpoint usually refuses a request. An answer may take much longer."""
_HEADROOM, _BURST_S = 0.98, 0.9
"""Fraction of the user's rate that is used, and how many seconds' worth of it may be sent at once after a rest.

With both, the requests of any minute stay below the rate, whenever the endpoint's minute begins.
"""

Clock = Callable[[], float]


class Bucket:
    """A token bucket whose level may become negative, because the cost of a request may be known only afterwards.

    Args:
        rate: tokens per second.
        burst: capacity in tokens.
        clock: returns the time in seconds, from any origin.
    """

    def __init__(self, rate: float, burst: float, clock: Clock = time.monotonic) -> None:
        self.rate, self._burst, self._clock = rate, burst, clock
        self._level, self._at = burst, clock()

    def wait(self, amount: float) -> float:
        """Seconds until this amount may be taken. For more than the capacity, a full bucket is enough."""
        self._fill()
        return max(0.0, (min(amount, self._burst) - self._level) / self.rate)

    def take(self, amount: float) -> None:
        """Take tokens; a negative amount returns them."""
        self._fill()
        self._level = min(self._burst, self._level - amount)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._at) * self.rate)
        self._at = now


def _minutely(rate: float | None, clock: Clock) -> Bucket | None:
    """The bucket for a rate per minute that the user set; None without a rate."""
    if rate is None:
        return None
    per_s = rate * _HEADROOM / 60
    return Bucket(per_s, max(1.0, per_s * _BURST_S), clock)


class Limits:
    """Limits of the requests with one URL and key. It does not wait itself: `wait` returns how long to wait.

    Args:
        most: largest number of requests in flight.
        requests_per_minute: limit set by the user; None for none.
        tokens_per_minute: limit set by the user; None for none.
        clock: returns the time in seconds, from any origin.
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
        self._outcomes: deque[bool] = deque(maxlen=_TRIAL)
        """Whether each of the last requests was refused."""
        self._short_runs = 0
        """Number of 429s in a row that came soon after the one before; negative after a trial that failed."""
        self._is_trying = False
        """Whether requests are sent although 429s come, see `_is_independent_of_the_pace`."""
        self._refused_at = self._paced_at = -math.inf
        """Times of the last 429 that had an effect, and of the last cut of the pace.

        A 429 of a request that was sent before the first of these times has no effect: it tells nothing new.
        """
        self._refused_in_a_row, self._since_cut = 0, 0
        self._paused_until = 0.0
        self._probe_until: float | None = None
        """After a pause, one request is sent first. The others wait until this time, to see whether it is refused."""

    def wait(self, tokens: float) -> float:
        """Seconds until a request may be sent; infinite if a request in flight must end first.

        Args:
            tokens: estimated number of tokens that the request will use.
        """
        if self._in_flight >= int(self._window):
            return math.inf
        waits = [bucket.wait(amount) for bucket, amount in self._buckets(tokens)]
        probing_until = self._probe_until if self._refused_in_a_row else None
        return max(0.0, max(self._paused_until, probing_until or 0.0) - self._clock(), *waits)

    def paused_s(self) -> float:
        """Remaining seconds of the pause after a 429, during which no request may be sent; 0 if there is none."""
        return max(0.0, self._paused_until - self._clock())

    def enter(self, tokens: float) -> float:
        """Note that a request is sent; returns the time. `leave` must be called when the request has ended.

        Args:
            tokens: estimated number of tokens that the request will use.
        """
        self._in_flight += 1
        if self._refused_in_a_row and self._probe_until is None:
            self._probe_until = self._clock() + _PROBE_S
        for bucket, amount in self._buckets(tokens):
            bucket.take(amount)
        return self._clock()

    def leave(self, tokens_over: float = 0.0) -> None:
        """Note that a request has ended.

        Args:
            tokens_over: number of tokens that it used in addition to the estimate given to `enter`.
        """
        self._in_flight -= 1
        if self._tokens and tokens_over:
            self._tokens.take(tokens_over)

    def accepted(self, sent_at: float) -> None:
        """Note that the endpoint accepted a request; the window and the pace grow.

        Args:
            sent_at: the time that `enter` returned for this request.
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
        if sent_at > self._refused_at:
            self._refused_in_a_row = 0
            self._outcomes.append(False)
            if self._is_trying and len(self._outcomes) == _TRIAL:
                self._try_twice_the_pace()
        self._window = min(self._most, self._window + (1 if self._pace is None else 1 / self._window))

    def limited(self, sent_at: float, retry_after_s: float | None) -> None:
        """Note that the endpoint answered 429: requests pause, and the window and the pace may be cut.

        Args:
            sent_at: the time that `enter` returned for this request.
            retry_after_s: seconds from the header `Retry-After`; None without one.
        """
        now = self._clock()
        if sent_at > self._refused_at:
            self._outcomes.append(True)
            if self._is_independent_of_the_pace():
                if retry_after_s is not None:
                    self._pause(now + retry_after_s)
                return
            # If nothing was accepted since the last 429, the endpoint refuses everything for a time. Then a lower pace
            # does not help, only waiting does.
            if self._refused_in_a_row == 0:
                self._paced_at, self._since_cut = now, 0
                self._window = max(1.0, self._window / 2)
                self._set_pace(self._pace_below())
            self._refused_at, self._probe_until = now, None
            # If requests are still refused after the time in `Retry-After`, that time was too short.
            if retry_after_s is None or self._refused_in_a_row:
                # After 429s at any pace, the next request is no more likely to be refused than one after a long pause.
                longest = _LONGEST_PAUSE_S if self._short_runs < _SHORT_RUNS else 2 * _FIRST_PAUSE_S
                pause = min(_FIRST_PAUSE_S * 2**self._refused_in_a_row, longest)
                # A random part, so that the clients of an endpoint do not all continue at the same moment.
                self._pause(now + pause * random.uniform(0.75, 1.0))
            self._refused_in_a_row += 1
        if retry_after_s is not None:
            self._pause(now + retry_after_s)

    def _is_independent_of_the_pace(self) -> bool:
        """Whether 429s come at any pace, so that neither a lower one nor a pause helps; called for each 429.

        This is tried when several 429s came soon after the one before although the pace was cut each time: the pace is
        doubled for `_TRIAL` outcomes. If few of them are 429s it is doubled again, else it is cut as usual.
        """
        if self._is_trying:
            self._is_trying = sum(self._outcomes) <= _MOST_DURING * _TRIAL
            self._short_runs = _SHORT_RUNS if self._is_trying else -_TRIAL
            return self._is_trying
        if self._refused_in_a_row or self._pace is None:
            return False
        self._short_runs = self._short_runs + 1 if self._since_cut < _SHORT_RUN else min(0, self._short_runs)
        few = sum(self._outcomes) <= _MOST_BEFORE * len(self._outcomes)
        if self._short_runs >= _SHORT_RUNS and few:
            self._is_trying = True
            self._try_twice_the_pace()
        return self._is_trying

    def _try_twice_the_pace(self) -> None:
        assert self._pace
        self._outcomes.clear()
        self._set_pace(2 * self._pace.rate)

    def _accepted_rate(self) -> float:
        """Requests per second that were accepted within the last minute."""
        now = self._clock()
        recent = sum(at > now - _RECENT_S for at in self._accepted)
        return max(1, recent) / min(_RECENT_S, max(1.0, now - self._started))

    def _pace_below(self) -> float:
        """The pace after a 429, in requests per second: below the previous pace and below the accepted rate."""
        rate = self._accepted_rate()
        tried = self._pace.rate if self._pace else math.inf
        return max(_SLOWEST, _FLOOR * rate, min(_BELOW * rate, _CUT * tried))

    def state(self) -> list[float | None]:
        """The window and the pace, as input for `resume` of a later `Limits` object; the pace may be None."""
        return [self._window, self._pace.rate if self._pace else None]

    def resume(self, state: list[float | None]) -> None:
        """Start with the window and pace of an earlier `Limits` object, see `state`."""
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
