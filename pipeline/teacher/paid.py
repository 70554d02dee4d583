"""An exchange that checks the budget of the run before each request, and counts what the request cost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import cached_property
from typing import Any

from diva_grpo.pipeline.teacher.meter import Meter
from diva_grpo.pipeline.teacher.prices import PriceTable
from diva_grpo.pipeline.teacher.tokens import TokenCounter
from diva_grpo.pipeline.teacher.wire.endpoint import endpoint_name
from diva_grpo.pipeline.teacher.wire.live import outage
from diva_grpo.pipeline.teacher.wire.outcome import Exchange, Outcome
from diva_grpo.schemas.config import TeacherConfig
from diva_grpo.schemas.exceptions import OutageError


class PaidExchange:
    """Sends requests while the budget of the run allows it, and counts their cost.

    Args:
        inner: the exchange that sends the requests.
        config: settings of the endpoint.
        prices: the price table. If the budget is limited, it must contain the endpoint's model.
        meter: the run's meter, which holds its budget.
    """

    def __init__(self, inner: Exchange, config: TeacherConfig, prices: PriceTable, meter: Meter) -> None:
        self._inner, self._config, self._prices = inner, config, prices
        self._meter, self._budget = meter, meter.budget
        self._outage: OutageError | None = None
        """The error that all further requests get. None while the endpoint accepts requests."""
        self._in_flight = 0
        self._ended = asyncio.Event()

    @property
    def concurrency(self) -> int:
        """The concurrency of the inner exchange."""
        return self._inner.concurrency

    async def send(self, parameters: dict[str, Any], key: str) -> Outcome:
        """Send one request and count its cost.

        With a strict budget, the largest possible cost of the request is reserved first. If the budget does not
        suffice for that, the method waits until requests in flight have ended.

        Raises:
            BudgetError: the budget is spent. With a strict budget: what is left may not cover this request.
            OutageError: the endpoint refuses every request.
        """
        if self._outage:
            raise self._outage
        if not self._budget.strict:
            self._budget.admit()
            return await self._sent(parameters, key)
        price = self._prices.of(self._config.model) if self._budget.limit is not None else None
        most = self._counter.most(parameters, price) if price else 0.0
        while not self._budget.bind(most):
            if not self._in_flight:
                raise self._budget.exhausted(most)
            # A request usually costs less than was reserved for it. So the budget may suffice when one has ended.
            await self._ended.wait()
        self._in_flight += 1
        try:
            return await self._sent(parameters, key)
        finally:
            self._budget.free(most)
            self._in_flight -= 1
            self._ended.set()
            self._ended = asyncio.Event()

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
        """The cost of an exchange in dollars, by a local token count.

        It is used if the endpoint reports no token counts. Without it, such a run would never reach its limit.
        """
        price = self._prices.of(self._config.model)
        assert price  # `Endpoint` refuses a limited budget without a price
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
