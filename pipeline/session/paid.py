"""An exchange that is paid for: where the budget of a run is spent, nothing is sent any more."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import cached_property
from typing import Any

from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.prices import PriceTable
from diva_grpo.pipeline.teacher.tokens import TokenCounter
from diva_grpo.pipeline.teacher.wire.live import endpoint_name, outage
from diva_grpo.pipeline.teacher.wire.outcome import Exchange, Outcome
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.exceptions import OutageError


class PaidExchange:
    """Sends what the budget of a run allows, and counts what it costs.

    Args:
        inner: sends.
        config: the endpoint.
        prices: has the price of its model where the budget is limited.
        meter: of the run, holds its budget.
    """

    def __init__(self, inner: Exchange, config: TeacherConfig, prices: PriceTable, meter: Meter) -> None:
        self._inner, self._config, self._prices = inner, config, prices
        self._meter, self._budget = meter, meter.budget
        self._outage: OutageError | None = None
        """Why nothing is sent any more."""
        self._in_flight = 0
        self._ended = asyncio.Event()

    @property
    def concurrency(self) -> int:
        """That of the exchange that sends."""
        return self._inner.concurrency

    async def send(self, parameters: dict[str, Any], key: str) -> Outcome:
        """Make one exchange.

        Raises:
            BudgetError: the budget is spent.
            OutageError: the endpoint refuses every request.
        """
        if self._outage:
            raise self._outage
        if not self._budget.strict:
            self._budget.admit()
            return await self._sent(parameters, key)
        most = self._most(parameters)
        while not self._budget.bind(most):
            if not self._in_flight:
                raise self._budget.exhausted(most)
            # What is under way costs less than it might: then there may be enough.
            await self._ended.wait()
        self._in_flight += 1
        try:
            return await self._sent(parameters, key)
        finally:
            self._budget.free(most)
            self._in_flight -= 1
            self._ended.set()
            self._ended = asyncio.Event()

    def _most(self, parameters: dict[str, Any]) -> float:
        """Dollars that a request can cost at most; prompt tokens by our own count."""
        price = self._prices.of(self._config.model)
        if price is None or self._budget.limit is None:
            return 0.0
        longest = parameters.get("max_completion_tokens") or parameters.get("max_tokens") or 0
        return price.cost(self._counter.request(parameters, price.images), longest)

    async def _sent(self, parameters: dict[str, Any], key: str) -> Outcome:
        outcome = await self._inner.send(parameters, key)
        if outcome.to_do:
            self._outage = outage(endpoint_name(self._config), outcome, outcome.to_do)
        cost = self._prices.cost(self._config.model, outcome)
        if cost is None and outcome.answered and self._budget.limit is not None:
            cost = self._counted(parameters, outcome)
        self._meter.exchanged(outcome, cost)
        return replace(outcome, cost_usd=cost)

    def _counted(self, parameters: dict[str, Any], outcome: Outcome) -> float:
        """Dollars by our own count, where an endpoint does not count: else it would never reach a limit."""
        price = self._prices.of(self._config.model)
        assert price  # a limited budget needs one, see `Endpoint`
        prompt = self._counter.request(parameters, price.images)
        completion = self._counter.text(outcome.content or "") + price.thinks
        return price.cost(prompt, completion, outcome.price_share)

    @cached_property
    def _counter(self) -> TokenCounter:
        return TokenCounter(self._config.model)

    def forget(self, receipt: str) -> None:
        """See `Exchange`."""
        self._inner.forget(receipt)

    def finish(self) -> int:
        """See `Exchange`."""
        return self._inner.finish()

    async def close(self) -> None:
        """See `Exchange`."""
        await self._inner.close()
