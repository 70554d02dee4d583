"""What the flows share: shards of problems as Prefect tasks, on any task runner, within one budget.

A task gets a configuration and an `Order`, which are small and can be pickled, and opens store, teacher and
references where it runs. Within the flow's own process these are the flow's (`Workplace`), so that a purse, a meter
and an index over all texts are there once. What a task has done is in the store; it returns counts alone, so that
nothing is lost with a result.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from prefect import State, Task, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.futures import PrefectFuture, as_completed

from diva_grpo.flows.runs.hooks import Progress, released
from diva_grpo.flows.runs.runners import submitting
from diva_grpo.pipeline.session.spending import Spending
from diva_grpo.pipeline.session.work import TeacherRun, shards, tell
from diva_grpo.pipeline.stages.top_up import Need
from diva_grpo.pipeline.stages.verify import References
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.meter import Meter, shown
from diva_grpo.pipeline.teacher.prices import Purse
from diva_grpo.pipeline.teacher.wire.batch.exchange import SHARD_SIZE as BATCH_SHARD_SIZE
from diva_grpo.pipeline.teacher.wire.live import endpoint_name
from diva_grpo.schemas.config import FlowConfig, ProblemsConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.exceptions import BudgetError, ConfigError, OutageError
from diva_grpo.schemas.records import Variant

Counts = dict[str, dict[str, int]]
"""What came of a stage, by stage: variants by status, labels by kind."""

C = TypeVar("C", bound=FlowConfig)


@dataclass(frozen=True, slots=True)
class Order:
    """What a task is to do, beside its configuration.

    Attributes:
        number: of the shard, from 1.
        problem_ids: the shard.
        run_id: of the run in `runs`.
        began_ns: when the run began, in nanoseconds since 1970: what was accepted until then is what variants are
            compared with, whichever shards ended since.
        allowance: dollars that the task may spend where it runs in a process of its own; None for any.
        needs: of `top_up`: what its problems are short of.
        training_run: of `top_up`: whose live difficulty says so.
    """

    number: int
    problem_ids: tuple[str, ...]
    run_id: str
    began_ns: int
    allowance: float | None = None
    needs: tuple[Need, ...] = ()
    training_run: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a task in another process has spent and sent, for the meter of its run."""

    sent: int
    reused: int
    failures: dict[str, int]
    outages: dict[str, int]
    spent: float


@dataclass(frozen=True, slots=True)
class ShardDone:
    """What came of a shard.

    Attributes:
        counts: by stage.
        stopped: what the purse said when it was empty; None where all was done.
        usage: where the task ran in another process.
    """

    counts: Counts
    stopped: str | None = None
    usage: Usage | None = None


ShardTask = Task[[C, Order], ShardDone]
Finished = tuple[Order, ShardDone]
Submit = Callable[[Order], PrefectFuture[ShardDone]]


@dataclass(slots=True)
class Workplace:
    """What tasks of one run share within a process.

    Attributes:
        run_id: of the run.
        store: of the run.
        teacher: the endpoint, with the run's meter and purse.
        references: what variants are compared with; see `Order.began_ns`.
    """

    run_id: str
    store: VariantStore
    teacher: TeacherRun
    references: References = field(default_factory=References)

    @classmethod
    def of(cls, config: FlowConfig, run_id: str, meter: Meter) -> Self:
        """A workplace whose teacher has its share of the endpoint's concurrency and rates.

        Raises:
            ConfigError: the endpoint or the limits cannot work.
        """
        spending = Spending(config.max_cost, config.batch, config.batch_size)
        teacher = spending.teacher(shared(config.teacher, config.workers), meter)
        return cls(run_id, VariantStore(config.store), teacher)


_HERE: ContextVar[dict[str, Workplace] | None] = ContextVar("workplaces", default=None)
"""The workplace of the flow by its run, for tasks in its process; threads of a task runner inherit it.

Prefect's own threads copy it too and live on: so it is emptied at the end of the run, or a store would stay open.
"""


def shared(teacher: TeacherConfig, workers: int) -> TeacherConfig:
    """The settings of one of several tasks that use an endpoint at once: each has its share of the limits."""
    rates = {
        name: rate / workers
        for name in ("requests_per_minute", "tokens_per_minute")
        if (rate := getattr(teacher, name)) is not None
    }
    return teacher.model_copy(update={"concurrency": max(1, teacher.concurrency // workers), **rates})


def endpoint_tag(teacher: TeacherConfig) -> str:
    """The tag of all tasks that ask an endpoint: its name, or its host where it has none.

    `prefect concurrency-limit create TAG 2` lets two tasks use it at once, of whatever flows.
    """
    name = endpoint_name(teacher)
    return f"endpoint:{urlsplit(name).netloc or name}"


@lru_cache(maxsize=2)
def _references(store: str, checks: VerifyConfig, began_ns: int) -> References:
    """References of a run in another process than the flow's, which has many of its shards to do."""
    opened = VariantStore(store)
    return References.of(opened, checks, variant_parts=opened.variant_parts(began_ns))


def _strict(config: FlowConfig) -> bool:
    """Whether the purse sets aside what a request may cost; a batch does so by itself."""
    return config.strict_budget and not config.batch


@lru_cache(maxsize=8)
def _meter(order: Order, strict: bool) -> Meter:
    """The meter of a task in another process than the flow's, through all of its retries."""
    return Meter("problems", purse=Purse(order.allowance, strict=strict))


def worked(
    config: FlowConfig,
    order: Order,
    checks: VerifyConfig | None,
    do: Callable[[Workplace], Counts],
) -> ShardDone:
    """Do the work of a task where it runs: at the flow's own workplace, or at one of this process.

    Args:
        config: of the flow.
        order: the shard.
        checks: of the verification, if the task verifies.
        do: the work.
    """
    here = (_HERE.get() or {}).get(order.run_id)
    apart = here is None
    if here is None:
        here = Workplace.of(config, order.run_id, _meter(order, _strict(config)))
        if checks is not None:
            here.references = _references(str(config.store), checks, order.began_ns)
    stopped, counts = None, Counts()
    try:
        with released():
            counts = do(replace(here, references=here.references.layered()))
    except BudgetError as error:
        stopped = str(error)
    meter = here.teacher.meter
    usage = (
        Usage(meter.sent, meter.reused, dict(meter.failures), dict(meter.outages), meter.purse.spent)
        if apart
        else None
    )
    return ShardDone(counts, stopped, usage)


def _may_pass(shard: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether to try again: an endpoint may come back, a wrong setting stays wrong."""
    return not isinstance(state.result(raise_on_failure=False), ConfigError | OutageError)


SHARD_TASK: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [10, 60],
    "retry_condition_fn": _may_pass,
    "cache_policy": NO_CACHE,  # the store remembers what is done
    "persist_result": False,  # and keeps it: a part appears whole or not at all
}
"""Options of every task over a shard."""


@dataclass(slots=True)
class Run:
    """A flow at work on the shards of one run.

    Attributes:
        config: of the flow.
        run_id: in `runs`.
        meter: of the run.
        began_ns: see `Order`.
        totals: by stage, what came of the shards so far.
    """

    config: FlowConfig
    run_id: str
    meter: Meter
    began_ns: int
    totals: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def counts(self) -> Counts:
        """The totals as plain dictionaries."""
        return {stage: dict(counts) for stage, counts in self.totals.items()}

    def orders(self, problem_ids: Sequence[str]) -> list[Order]:
        """The problems in shards."""
        # A batch may take a day: as many problems as may be share one.
        size = max(self.config.shard_size, BATCH_SHARD_SIZE) if self.config.batch else self.config.shard_size
        return [
            Order(number, tuple(shard), self.run_id, self.began_ns)
            for number, shard in enumerate(shards(problem_ids, size), 1)
        ]

    def work_off(self, task: ShardTask[Any], orders: Sequence[Order], shown_stage: str = "verified") -> None:
        """Run a task for each order, as many at once as the configuration says.

        Args:
            task: of the flow.
            orders: its shards.
            shown_stage: whose counts the meter shows.

        Raises:
            BudgetError: the run has spent what it may; what was in flight then has been answered and kept.
        """
        log = get_run_logger()
        ready = task.with_options(
            task_run_name=f"shard {{order.number}} of {len(orders)}",
            timeout_seconds=self.config.timeout_s,
            tags=[endpoint_tag(self.config.teacher)],
        )
        progress = Progress(self.config, self.meter, len(orders))
        results = _in_turn(ready, self.config, orders)
        if self.config.workers > 1:
            results = _on_runner(ready, self, orders)
        for order, done in results:
            for stage, counts in done.counts.items():
                self.totals[stage].update(counts)
            self.meter(len(order.problem_ids))
            tell(self.meter, self.totals[shown_stage] - self.meter.results)
            progress.shard_ended()
            log.info("shard %d of %d: %d problems done", order.number, len(orders), len(order.problem_ids))

    def take(self, usage: Usage) -> None:
        """Count what a task in another process has sent and spent."""
        self.meter.sent += usage.sent
        self.meter.reused += usage.reused
        self.meter.failures.update(usage.failures)
        self.meter.outages.update(usage.outages)
        self.meter.purse.pay(usage.spent)


@contextmanager
def running(verb: str, config: FlowConfig, problems: int, checks: VerifyConfig | None) -> Iterator[Run]:
    """Record a run of a flow, show how far it is, and open its workplace.

    Args:
        verb: kind of the run.
        config: of the flow.
        problems: how many it works on.
        checks: of its verification, if it has one.

    Raises:
        ConfigError: the endpoint or the limits cannot work.
        SourceError: an evaluation set cannot be read.
        TeacherError: at the end, where requests failed for want of credit, key, model or network.
    """
    meter = Meter("problems", problems, Purse(config.max_cost, strict=_strict(config)))
    here = Workplace.of(config, "", meter)
    store = here.store
    with (
        store.run(verb, config.model_dump_json(), config.teacher.model) as here.run_id,
        shown(meter, store, here.run_id, get_run_logger().info),
    ):
        began_ns = store.catalogue.now_ns(Variant.table) - 1  # before all that this run writes
        if checks is not None:
            here.references = References.of(store, checks, variant_parts=store.variant_parts(began_ns))
        places = {here.run_id: here}
        token = _HERE.set(places)
        try:
            yield Run(config, here.run_id, meter, began_ns)
            meter.raise_for_outages()
        finally:
            places.clear()
            _HERE.reset(token)


def chosen_problems(config: ProblemsConfig) -> list[str]:
    """Ids of the problems that a flow is to work on.

    Raises:
        ConfigError: the filter is no SQL.
    """
    store = VariantStore(config.store)
    return [p.problem_id for p in store.problems(where=config.problem_filter, limit=config.limit)]


def _in_turn(task: ShardTask[Any], config: FlowConfig, orders: Sequence[Order]) -> Iterator[Finished]:
    """Results of tasks that run one after the other, in this thread."""
    for order in orders:
        done = task(config, order)
        if done.stopped is not None:
            raise BudgetError(done.stopped)
        yield order, done


def _on_runner(task: ShardTask[Any], run: Run, orders: Sequence[Order]) -> Iterator[Finished]:
    """Results of tasks on the task runner of the configuration."""
    with submitting(task, run.config) as submit:
        yield from _at_once(lambda order: submit(config=run.config, order=order), run, orders)


def _at_once(submit: Submit, run: Run, orders: Sequence[Order]) -> Iterator[Finished]:
    """Results of tasks as they end; none is begun once the purse is empty.

    A task in another process cannot see the purse. Of what is left it is allowed an equal share, and where that
    was not enough it gets all that the others have left, once nothing else is under way.
    """
    purse, workers = run.meter.purse, run.config.workers
    waiting, stopped, had_all = deque(orders), deque[Order](), set[int]()
    flying: dict[PrefectFuture[ShardDone], Order] = {}
    while True:
        while len(flying) < workers and not purse.is_empty:
            if waiting:
                bound = sum(order.allowance or 0.0 for order in flying.values())
                order, share = waiting.popleft(), (purse.left - bound) / (workers - len(flying))
            elif stopped and not flying:
                order, share = stopped.popleft(), purse.left
                had_all.add(order.number)
            else:
                break
            order = replace(order, allowance=None if purse.limit is None else share)
            flying[submit(order)] = order
        if not flying:
            break
        future = next(as_completed(list(flying)))
        order, done = flying.pop(future), future.result()
        if done.usage is not None:
            run.take(done.usage)
        if done.stopped is None:
            yield order, done
        elif done.usage is None or order.number in had_all:
            raise BudgetError(done.stopped)
        else:
            stopped.append(order)
    if waiting or stopped:
        raise purse.exhausted()
