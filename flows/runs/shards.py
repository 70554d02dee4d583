"""What the flows share: they run shards of problems as Prefect tasks, on any task runner, within one budget.

A task gets a configuration and an `Order`, which are small and can be pickled. In the flow's own process it uses the
flow's `Session`, so that client, budget, meter and the index over all texts exist once. In another process it opens
its own session. A task writes its work to the store and returns only counts, so a lost result loses no work.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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

from diva_grpo.flows.released import Released
from diva_grpo.flows.runs.hooks import Progress
from diva_grpo.flows.runs.runners import submitting
from diva_grpo.pipeline.session.references import References
from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.session.spending import Spending
from diva_grpo.pipeline.stages.curate import Stages, curate_shard, in_shards
from diva_grpo.pipeline.stages.supply import Curated
from diva_grpo.pipeline.stages.top_up import Need
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.meter import Meter, shown
from diva_grpo.pipeline.teacher.prices import Budget
from diva_grpo.pipeline.teacher.wire.batch.exchange import SHARD_SIZE as BATCH_SHARD_SIZE
from diva_grpo.pipeline.teacher.wire.endpoint import endpoint_name
from diva_grpo.schemas.config import FlowConfig, ProblemsConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.exceptions import BudgetError, ConfigError, OutageError
from diva_grpo.schemas.records import Variant

Counts = dict[str, dict[str, int]]
"""Counts by stage: variants by status, labels by kind."""

C = TypeVar("C", bound=FlowConfig)


@dataclass(frozen=True, slots=True)
class Order:
    """The work of one task, in addition to the flow's configuration.

    Attributes:
        number: number of the shard, from 1.
        problem_ids: ids of the shard's problems.
        run_id: id of the run in the table `runs`.
        began_ns: when the run began, in nanoseconds since 1970. New variants are compared with those that were
            accepted by then, so the result does not depend on which shards end first.
        allowance: dollars that the task may spend if it runs in another process than the flow; None: no limit.
        needs: only for `top_up`: the variants to request for the shard's problems.
        training_run: only for `top_up`: the training run whose live difficulty `needs` is based on.
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
    """Requests and dollars of a task in another process, to be added to the run's meter.

    Attributes:
        sent: requests sent.
        reused: requests answered from the journal.
        failures: failed requests, by type of failure.
        outages: requests that failed because of credit, key, model or network, by outcome.
        spent: dollars.
    """

    sent: int
    reused: int
    failures: dict[str, int]
    outages: dict[str, int]
    spent: float


@dataclass(frozen=True, slots=True)
class ShardDone:
    """The result of a shard's task.

    Attributes:
        counts: counts by stage, see `Counts`.
        stopped: the message of the `BudgetError` that stopped the task; None if the shard was completed.
        usage: requests and dollars of a task in another process; None for a task in the flow's process.
    """

    counts: Counts
    stopped: str | None = None
    usage: Usage | None = None


ShardTask = Task[[C, Order], ShardDone]
Finished = tuple[Order, ShardDone]
Submit = Callable[[Order], PrefectFuture[ShardDone]]

_HERE: ContextVar[dict[str, Session] | None] = ContextVar("sessions", default=None)
"""The flow's session by run id, for tasks in the flow's process. Threads of a task runner inherit this variable.

Prefect's own threads copy it too, and outlive the run. The dictionary is therefore emptied at the end of the run;
otherwise the store would stay open.
"""


def shared(teacher: TeacherConfig, workers: int) -> TeacherConfig:
    """The endpoint settings for one of `workers` concurrent tasks.

    Concurrency and rate limits are divided by `workers`; concurrency stays at least 1.
    """
    rates = {
        name: rate / workers
        for name in ("requests_per_minute", "tokens_per_minute")
        if (rate := getattr(teacher, name)) is not None
    }
    return teacher.model_copy(update={"concurrency": max(1, teacher.concurrency // workers), **rates})


def endpoint_tag(teacher: TeacherConfig) -> str:
    """The Prefect tag of all tasks that use an endpoint: `endpoint:` and the endpoint's host, or its name.

    `prefect concurrency-limit create TAG 2` lets at most two tasks of all flows use the endpoint at once.
    """
    name = endpoint_name(teacher)
    return f"endpoint:{urlsplit(name).netloc or name}"


@lru_cache(maxsize=8)
def _meter(order: Order, strict: bool) -> Meter:
    """The meter of a task in another process than the flow's. Retries of the task share it."""
    return Meter("problems", budget=Budget(order.allowance, strict=strict))


@lru_cache(maxsize=2)
def _references(store: str, checks: VerifyConfig, began_ns: int) -> References:
    """The references of a run in another process than the flow's. They are cached for the run's further shards."""
    opened = VariantStore(store)
    return References.of(opened, checks, variant_parts=opened.variant_parts(began_ns))


def _session(config: FlowConfig, meter: Meter, began_ns: int, workers: int = 1) -> Session:
    """Make a session for a flow, or for one of `workers` tasks in other processes that share the endpoint's limits.

    Raises:
        ConfigError: the settings of the endpoint or of the limits are invalid.
    """
    teacher, solver = shared(config.teacher, workers), getattr(config, "solver", None)
    return Spending.of(config).session(
        VariantStore(config.store), meter, teacher, solver and shared(solver, workers), began_ns
    )


def worked(config: FlowConfig, order: Order, do: Callable[[Session], Counts] | None = None) -> ShardDone:
    """Do the work of a task, in the flow's session if there is one in this process, or else in a new session.

    Args:
        config: the flow's configuration.
        order: the shard.
        do: the work; the default runs all stages of the configuration.
    """
    with Released():  # here, where no frame that is still at work holds a session
        return _worked(config, order, do)


def _worked(config: FlowConfig, order: Order, do: Callable[[Session], Counts] | None) -> ShardDone:
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
        return ShardDone(do(session))
    except BudgetError as error:
        return ShardDone({}, str(error))


def counts_of(stages: Stages, made: Curated) -> Counts:
    """Counts of the stages that ran.

    If variants are missing after `accepted` variants were requested, `short` counts the shortages by kind.
    """
    counts = {
        "generated": stages.generate and dict(made.generated),
        "verified": stages.verify and dict(made.verified),
        "short": made.shortages and dict(Counter(str(shortage.kind) for shortage in made.shortages)),
        "labelled": stages.label and dict(made.labelled),
    }
    return {stage: found for stage, found in counts.items() if isinstance(found, dict)}


def _may_pass(shard: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether Prefect is to retry a failed task.

    It is not retried after a `ConfigError` or an `OutageError`, or once a session of this process is stopped.
    """
    over = any(session.is_stopped for session in (_HERE.get() or {}).values())
    return not over and not isinstance(state.result(raise_on_failure=False), ConfigError | OutageError)


SHARD_TASK: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [10, 60],
    "retry_condition_fn": _may_pass,
    "cache_policy": NO_CACHE,  # the store records which work is done
    "persist_result": False,  # the store keeps the results: a part appears complete or not at all
}
"""Options of every task over a shard."""


@dataclass(slots=True)
class Run:
    """The state of a flow while it works on the shards of one run.

    Attributes:
        config: the flow's configuration.
        run_id: id of the run in the table `runs`.
        session: the run's session.
        began_ns: see `Order`.
        totals: by stage, the counts of the shards that have ended.
    """

    config: FlowConfig
    run_id: str
    session: Session
    began_ns: int
    totals: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def meter(self) -> Meter:
        """The run's meter."""
        return self.session.meter

    def counts(self) -> Counts:
        """The totals as plain dictionaries."""
        return {stage: dict(counts) for stage, counts in self.totals.items()}

    @property
    def shard_size(self) -> int | None:
        """Number of problems in a shard; None leaves it to `Session.shard_size`."""
        size = self.config.shard_size
        # A batch may take a day, so shards are made large: as many problems as possible share a batch.
        return max(size, BATCH_SHARD_SIZE) if size and self.config.batch else size

    def orders(self, pieces: Iterable[Sequence[str]]) -> list[Order]:
        """One order for each shard of problems."""
        return [
            Order(number, tuple(piece), self.run_id, self.began_ns) for number, piece in enumerate(pieces, 1)
        ]

    def orders_of(self, problem_ids: Sequence[str]) -> list[Order]:
        """The orders for the stages of the configuration; problems with something left to do come first."""
        stages = Stages.of(self.config)
        return self.orders(in_shards(self.session, stages, problem_ids, self.shard_size))

    def work_off(self, task: ShardTask[Any], orders: Sequence[Order]) -> None:
        """Run a task for each order.

        With one worker, the tasks run in overlapping threads of this process, so that the endpoint stays busy at the
        end of a shard (see `Session.over`). With N workers, N tasks at a time run on the task runner.

        Args:
            task: the flow's task for a shard.
            orders: the shards.

        Raises:
            BudgetError: the run has used up its budget. Requests that were in flight have been answered and recorded.
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
        """Add the requests and dollars of a task in another process to the run's meter."""
        self.meter.sent += usage.sent
        self.meter.reused += usage.reused
        self.meter.failures.update(usage.failures)
        self.meter.outages.update(usage.outages)
        self.meter.budget.pay(usage.spent)


@contextmanager
def running(verb: str, config: FlowConfig, problems: int, shown_stage: str = "verified") -> Iterator[Run]:
    """Record a run of a flow in the store, open its session, and log its progress while the context is open.

    Args:
        verb: kind of the run, as recorded in `runs`.
        config: the flow's configuration.
        problems: number of problems that the run works on.
        shown_stage: the stage whose counts the progress shows.

    Raises:
        ConfigError: the settings of the endpoint or of the limits are invalid.
        SourceError: an evaluation set cannot be read.
        TeacherError: raised at the end if requests failed because of credit, key, model or network.
    """
    # A time before anything that this run writes.
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
            # Read here, so that an unreadable held-out set fails the run, and not each of its tasks.
            session.references(checks)
        places = {run_id: session}
        token = _HERE.set(places)
        try:
            yield Run(config, run_id, session, began_ns)
            meter.raise_for_outages()
        finally:
            places.clear()
            _HERE.reset(token)


def over_problems(verb: str, config: ProblemsConfig, task: ShardTask[Any], shown_stage: str) -> Counts:
    """Run a flow's task over the shards of all problems that its configuration chooses, and return its counts.

    Args:
        verb: see `running`.
        config: the flow's configuration.
        task: the flow's task for a shard.
        shown_stage: see `running`.

    Raises:
        ConfigError: the problem filter is not valid SQL.
        DivaError: see `running` and `Run.work_off`.
    """
    problems = VariantStore(config.store).problem_ids(where=config.problem_filter, limit=config.limit)
    with running(verb, config, len(problems), shown_stage) as run:
        run.work_off(task, run.orders_of(problems))
    return run.counts()


def _finished(task: ShardTask[Any], config: FlowConfig, order: Order) -> Finished:
    """Run a task in this thread.

    Raises:
        BudgetError: the budget is used up.
    """
    done = task(config, order)
    if done.stopped is not None:
        raise BudgetError(done.stopped)
    return order, done


def _on_runner(task: ShardTask[Any], run: Run, orders: Sequence[Order]) -> Iterator[Finished]:
    """Run tasks on the configuration's task runner, and yield their results as they end; see `_at_once`."""
    with submitting(task, run.config) as submit:
        yield from _at_once(lambda order: submit(config=run.config, order=order), run, orders)


def _at_once(submit: Submit, run: Run, orders: Sequence[Order]) -> Iterator[Finished]:
    """Submit tasks, and yield their results as they end. No task is started once the budget is empty.

    A task in another process cannot see the run's budget. It gets an allowance: an equal share of the remaining
    budget. If that was not enough, the task runs once more after all others have ended, with all dollars that remain.

    Raises:
        BudgetError: the budget is used up and not all shards are complete.
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
