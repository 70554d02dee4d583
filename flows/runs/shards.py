"""What the flows share: shards of problems as Prefect tasks, on any task runner, within one budget.

A task gets a configuration and an `Order`, which are small and can be pickled, and opens store, teacher and
references where it runs. Within the flow's own process these are the flow's (its `Session`), so that a client, a
budget, a meter and an index over all texts are there once. What a task has done is in the store; it returns counts
alone, so that nothing is lost with a result.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from prefect import State, Task, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.futures import PrefectFuture, as_completed

from diva_grpo.flows.runs.hooks import Progress, released
from diva_grpo.flows.runs.runners import submitting
from diva_grpo.pipeline.session.references import References
from diva_grpo.pipeline.session.session import Session, shards
from diva_grpo.pipeline.session.spending import Spending
from diva_grpo.pipeline.stages.curate import Curated, Stages, curate_shard
from diva_grpo.pipeline.stages.top_up import Need
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.meter import Meter, shown
from diva_grpo.pipeline.teacher.prices import Budget
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
        stopped: what the budget said when it was empty; None where all was done.
        usage: where the task ran in another process.
    """

    counts: Counts
    stopped: str | None = None
    usage: Usage | None = None


ShardTask = Task[[C, Order], ShardDone]
Finished = tuple[Order, ShardDone]
Submit = Callable[[Order], PrefectFuture[ShardDone]]

_HERE: ContextVar[dict[str, Session] | None] = ContextVar("sessions", default=None)
"""The session of the flow by its run, for tasks in its process; threads of a task runner inherit it.

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


@lru_cache(maxsize=8)
def _meter(order: Order, strict: bool) -> Meter:
    """The meter of a task in another process than the flow's, through all of its retries."""
    return Meter("problems", budget=Budget(order.allowance, strict=strict))


@lru_cache(maxsize=2)
def _references(store: str, checks: VerifyConfig, began_ns: int) -> References:
    """References of a run in another process than the flow's, which has many of its shards to do."""
    opened = VariantStore(store)
    return References.of(opened, checks, variant_parts=opened.variant_parts(began_ns))


def _session(config: FlowConfig, meter: Meter, began_ns: int, workers: int = 1) -> Session:
    """A session for a flow, or for one of its tasks in another process.

    Raises:
        ConfigError: the endpoint or the limits cannot work.
    """
    teacher, solver = shared(config.teacher, workers), getattr(config, "solver", None)
    return Spending.of(config).session(
        VariantStore(config.store), meter, teacher, solver and shared(solver, workers), began_ns
    )


def worked(config: FlowConfig, order: Order, do: Callable[[Session], Counts] | None = None) -> ShardDone:
    """Do the work of a task where it runs: in the flow's own session, or in one of this process.

    Args:
        config: of the flow.
        order: the shard.
        do: the work; default all stages of the configuration.
    """
    stages = Stages.of(config)
    do = do or (lambda session: counts_of(stages, curate_shard(session, stages, order.problem_ids)))
    here = (_HERE.get() or {}).get(order.run_id)
    if here is not None:
        return _done(here, do)
    meter = _meter(order, Spending.of(config).strict)
    with _session(config, meter, order.began_ns, config.workers) as apart:
        if stages.verify is not None:
            apart.use(stages.verify, _references(str(config.store), stages.verify, order.began_ns))
        done = _done(apart, do)
    spent = Usage(meter.sent, meter.reused, dict(meter.failures), dict(meter.outages), meter.budget.spent)
    return replace(done, usage=spent)


def _done(session: Session, do: Callable[[Session], Counts]) -> ShardDone:
    try:
        with released():
            return ShardDone(do(session))
    except BudgetError as error:
        return ShardDone({}, str(error))


def counts_of(stages: Stages, made: Curated) -> Counts:
    """What came of the stages that there were; `short`, where enough was to be supplied, by kind."""
    counts = {
        "generated": stages.generate and dict(made.generated),
        "verified": stages.verify and dict(made.verified),
        "short": made.shortages and dict(Counter(str(shortage.kind) for shortage in made.shortages)),
        "labelled": stages.label and dict(made.labelled),
    }
    return {stage: found for stage, found in counts.items() if isinstance(found, dict)}


def _may_pass(shard: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether to try again: an endpoint may come back, a wrong setting stays wrong, and a run that ends has ended."""
    over = any(session.is_stopped for session in (_HERE.get() or {}).values())
    return not over and not isinstance(state.result(raise_on_failure=False), ConfigError | OutageError)


SHARD_TASK: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [10, 60],
    "retry_condition_fn": _may_pass,
    "cache_policy": NO_CACHE,  # the store remembers what is done
    "persist_result": False,  # and keeps it: a part appears complete or not at all
}
"""Options of every task over a shard."""


@dataclass(slots=True)
class Run:
    """A flow at work on the shards of one run.

    Attributes:
        config: of the flow.
        run_id: in `runs`.
        session: of the run.
        began_ns: see `Order`.
        totals: by stage, what came of the shards so far.
    """

    config: FlowConfig
    run_id: str
    session: Session
    began_ns: int
    totals: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def meter(self) -> Meter:
        """Of the run."""
        return self.session.meter

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

    def work_off(self, task: ShardTask[Any], orders: Sequence[Order]) -> None:
        """Run a task for each order.

        With one worker they run in threads of this process and overlap, so that the endpoint never waits for the end
        of a shard (see `Session.over`); with several, as many at once on the task runner.

        Args:
            task: of the flow.
            orders: its shards.

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
        results = (
            self.session.over(orders, partial(_finished, ready, self.config))
            if self.config.workers == 1
            else _on_runner(ready, self, orders)
        )
        for order, done in results:
            for stage, counts in done.counts.items():
                self.totals[stage].update(counts)
                if done.usage is not None:
                    self.meter.tell(stage, counts)
            self.meter.count("problems", len(order.problem_ids))
            progress.shard_ended()
            log.info("shard %d of %d: %d problems done", order.number, len(orders), len(order.problem_ids))

    def take(self, usage: Usage) -> None:
        """Count what a task in another process has sent and spent."""
        self.meter.sent += usage.sent
        self.meter.reused += usage.reused
        self.meter.failures.update(usage.failures)
        self.meter.outages.update(usage.outages)
        self.meter.budget.pay(usage.spent)


@contextmanager
def running(verb: str, config: FlowConfig, problems: int, shown_stage: str = "verified") -> Iterator[Run]:
    """Record a run of a flow, show how far it is, and open its session.

    Args:
        verb: kind of the run.
        config: of the flow.
        problems: how many it works on.
        shown_stage: whose counts the meter shows.

    Raises:
        ConfigError: the endpoint or the limits cannot work.
        SourceError: an evaluation set cannot be read.
        TeacherError: at the end, where requests failed for want of credit, key, model or network.
    """
    # Before all that this run writes.
    began_ns = VariantStore(config.store).catalogue.now_ns(Variant.table) - 1
    meter = Spending.of(config).meter("problems", shown_stage, problems)
    session = _session(config, meter, began_ns)
    store = session.store
    with (
        store.run(verb, config.model_dump_json(), config.teacher.model) as run_id,
        shown(meter, store, run_id, get_run_logger().info),
        session,
    ):
        checks = Stages.of(config).verify
        if checks is not None and problems:
            session.references(checks)  # what is wrong with a held-out set ends the run, and not each task
        places = {run_id: session}
        token = _HERE.set(places)
        try:
            yield Run(config, run_id, session, began_ns)
            meter.raise_for_outages()
        finally:
            places.clear()
            _HERE.reset(token)


def chosen_problems(config: ProblemsConfig) -> list[str]:
    """Ids of the problems that a flow is to work on.

    Raises:
        ConfigError: the filter is not valid SQL.
    """
    store = VariantStore(config.store)
    return store.problem_ids(where=config.problem_filter, limit=config.limit)


def _finished(task: ShardTask[Any], config: FlowConfig, order: Order) -> Finished:
    """A task that runs in this thread.

    Raises:
        BudgetError: the budget is spent.
    """
    done = task(config, order)
    if done.stopped is not None:
        raise BudgetError(done.stopped)
    return order, done


def _on_runner(task: ShardTask[Any], run: Run, orders: Sequence[Order]) -> Iterator[Finished]:
    """Results of tasks on the task runner of the configuration."""
    with submitting(task, run.config) as submit:
        yield from _at_once(lambda order: submit(config=run.config, order=order), run, orders)


def _at_once(submit: Submit, run: Run, orders: Sequence[Order]) -> Iterator[Finished]:
    """Results of tasks as they end; none is begun once the budget is empty.

    A task in another process cannot see the budget. Of what is left it is allowed an equal share, and where that
    was not enough it gets all that the others have left, once nothing else is under way.
    """
    budget, workers = run.meter.budget, run.config.workers
    waiting, stopped, had_all = deque(orders), deque[Order](), set[int]()
    flying: dict[PrefectFuture[ShardDone], Order] = {}
    while True:
        while len(flying) < workers and not budget.is_empty:
            if waiting:
                bound = sum(order.allowance or 0.0 for order in flying.values())
                order, share = waiting.popleft(), (budget.left - bound) / (workers - len(flying))
            elif stopped and not flying:
                order, share = stopped.popleft(), budget.left
                had_all.add(order.number)
            else:
                break
            order = replace(order, allowance=None if budget.limit is None else share)
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
        raise budget.exhausted()
