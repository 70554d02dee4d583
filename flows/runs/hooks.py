"""What flows report to Prefect: names of runs, progress, artifacts, and failures with the command that continues.

Two decorators add all of this to a flow:

    @flow(name="curate", **SHOWN)
    @ends_in_one_line
    def curate(config: CurateConfig) -> Counts: ...
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar, cast
from uuid import UUID

import httpx
from prefect import Flow, State, get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas import FlowRun
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import ParameterTypeError, PrefectException
from prefect.runtime import deployment
from prefect.runtime import flow_run as this_run
from prefect.states import Failed

from diva_grpo.flows.pages.artifacts import Artifact, artifact_key, artifacts, page_link, scores
from diva_grpo.flows.pages.page import write_problems
from diva_grpo.flows.released import Released
from diva_grpo.flows.runs.upkeep import end_with_serve, is_child_of_serve, sign
from diva_grpo.flows.verbs import VERB_OF_FLOW, command_line
from diva_grpo.pipeline.stages.shortage import training_run
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.meter import Meter, state_line
from diva_grpo.schemas.config import Config, FlowConfig, ProblemsConfig, TopUpConfig
from diva_grpo.schemas.exceptions import DivaError, StoreError
from diva_grpo.schemas.policy import EvaluateConfig

C = TypeVar("C", bound=Config)
R = TypeVar("R")
AnyConfig = FlowConfig | EvaluateConfig

PAGE_PROBLEMS = 20
"""Maximum number of problems on the page that a run writes. Rendering the images of all would take too long."""


class _OneLine(logging.Filter):
    """Remove the traceback from log records of a `DivaError`, whose message is enough for the user.

    Prefect logs a traceback with every exception.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], DivaError):
            record.exc_info = None
        return True


for _logger in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_logger).addFilter(_OneLine())

if is_child_of_serve():  # a run that Prefect is about to start
    end_with_serve()


# --- names


def run_name() -> str:
    """The name of the flow run that is starting, for Prefect's `flow_run_name`; see `name_of`."""
    return name_of(this_run.flow_name, this_run.parameters["config"])


def name_of(flow_name: str, config: AnyConfig) -> str:
    """A descriptive name for a run, such as `curate algebra: 128 problems with gpt-4.1-mini`.

    The name of a top-up contains the training run; that of an evaluation contains the model and the split or
    benchmark. If the store cannot be read, the name leaves out what would come from it; the run then reports the
    error.
    """
    if isinstance(config, EvaluateConfig):
        return f"evaluate {config.model} on {config.benchmark or config.split} of {config.store.name}"
    end = f"with {config.teacher.model}"
    try:
        store = VariantStore(config.store)
        if isinstance(config, TopUpConfig):
            return f"top up {config.store.name} for {training_run(store, config.run)} {end}"
        limit = config.limit if isinstance(config, ProblemsConfig) else None
        problems = store.count_problems(where=config.problem_filter, limit=limit)
    except DivaError:
        return f"{flow_name.replace('_', ' ')} {config.store.name} {end}"
    return f"{flow_name} {config.store.name}: {problems:,} problems {end}"


# --- progress


class Progress:
    """A progress artifact of the current flow run.

    Args:
        config: the flow's configuration.
        meter: the run's meter, whose state is shown beside the progress.
        shards: the number of shards of the run.
    """

    def __init__(self, config: FlowConfig, meter: Meter, shards: int) -> None:
        self._meter, self._shards, self._ended = meter, shards, 0
        key = artifact_key(config.store.name, f"progress of {this_run.flow_name}")
        made = create_progress_artifact(self._percent, key=key, description=self._line)
        self._id = cast("UUID", made)  # it would be a coroutine only inside an event loop

    def shard_ended(self) -> None:
        """Count one more finished shard. If the server cannot be reached, this logs a warning and does not raise."""
        self._ended += 1
        try:
            update_progress_artifact(self._id, self._percent, description=self._line)
        except (httpx.HTTPError, PrefectException) as error:
            get_run_logger().warning("progress is not shown: %s: %s", type(error).__name__, error)

    @property
    def _percent(self) -> float:
        return 100.0 * self._ended / self._shards if self._shards else 100.0

    @property
    def _line(self) -> str:
        return f"{self._ended} of {self._shards} shards · {state_line(self._meter.state())}"


# --- failures


def ends_in_one_line(body: Callable[[C], R]) -> Callable[[C], R]:
    """Decorate a flow so that a `DivaError`, which the user can fix, ends it with a message and without a traceback.

    The message of the failed state has the type of the error, its text and the command that continues the work. A
    caller of the flow still gets the error itself, as if it had been raised.
    """

    @functools.wraps(body)
    def flow_body(config: C) -> R:
        if deployment.id:
            end_with_serve()
            sign()
        try:
            with Released():
                return body(config)
        except DivaError as error:
            way_on = how_to_go_on(this_run.flow_name, config, served=bool(deployment.id))
            message = f"{type(error).__name__}: {error}. To continue: {way_on}"
            # Prefect takes a returned state as the final state of the flow, and raises its `data`.
            return cast("R", Failed(message=message, data=error))

    # `eval_str` resolves annotations to classes: Prefect would look their names up in this module, and not in the
    # one that defines the flow.
    cast("Any", flow_body).__signature__ = inspect.signature(body, eval_str=True)
    return flow_body


def how_to_go_on(flow_name: str, config: Config, *, served: bool) -> str:
    """The command that continues a run which did not complete.

    Args:
        flow_name: name of the run's flow.
        config: the run's configuration.
        served: whether the run belongs to a deployment; then Retry on the run's page is named as an alternative.
    """
    command = command_line(VERB_OF_FLOW.get(flow_name, flow_name), config)
    return f"`{command}`" + (", or Retry on the run's page" if served else "")


# --- the end of a run


def publish(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Publish artifacts of what a run has made and, if it did not complete, of how to continue.

    Prefect calls this hook when a flow ends. A worker or `diva serve` also calls it for a run whose process was
    killed.
    """
    try:  # from their JSON, in which URLs have no secrets
        config: AnyConfig = flow.validate_parameters(flow_run.parameters)["config"]
    except ParameterTypeError:  # the run failed for this reason, and its state says so
        return
    with get_client(sync_client=True) as client:
        for artifact in _of_run(flow.name, flow_run, state, config):
            is_text = isinstance(artifact.content, str)
            client.create_artifact(
                ArtifactCreate(
                    key=artifact_key(config.store.name, artifact.name),
                    type="markdown" if is_text else "table",
                    data=artifact.content if is_text else json.dumps(artifact.content),
                    description=artifact.description,
                    flow_run_id=flow_run.id,
                )
            )


def _of_run(flow_name: str, flow_run: FlowRun, state: State[Any], config: AnyConfig) -> Iterator[Artifact]:
    if not state.is_completed():
        way_on = how_to_go_on(flow_name, config, served=flow_run.deployment_id is not None)
        yield failure(flow_name, state.message or str(state.name), way_on)
    try:
        store = VariantStore(config.store)
    except StoreError:  # the run failed for this reason, and its state says so
        return
    began = flow_run.start_time or flow_run.created or datetime.now(UTC)
    since = began.astimezone(UTC).replace(tzinfo=None)
    if isinstance(config, EvaluateConfig):
        yield scores(store)
    else:
        yield from artifacts(store, since)
        yield from _page(store, since, config)


def failure(flow_name: str, message: str, way_on: str) -> Artifact:
    """The artifact of a run that failed, crashed or was cancelled.

    Args:
        flow_name: name of the run's flow.
        message: what happened.
        way_on: how to continue, see `how_to_go_on`.
    """
    kept = "All that was done is kept, and paid for once."
    content = f"{message}\n\n{kept}" if way_on in message else f"{message}\n\n{kept} To continue: {way_on}"
    return Artifact("how-to-go-on", content, f"The last run of {flow_name} that did not end well.")


def _page(store: VariantStore, since: datetime, config: FlowConfig) -> Iterator[Artifact]:
    """Write a page of up to `PAGE_PROBLEMS` problems that got variants since `since`, and yield its artifact.

    It yields nothing if there are no such problems.
    """
    sql = "SELECT problem_id FROM variants WHERE created_at >= ? GROUP BY 1 ORDER BY max(created_at) DESC, 1 LIMIT ?"
    ids = sorted(problem_id for (problem_id,) in store.query(sql, [since, PAGE_PROBLEMS]))
    if ids:
        page = store.root / "pages" / "problems.html"
        page.parent.mkdir(exist_ok=True)
        write_problems(store, page, f"{config.store.name}: problems of the last run", ids)
        yield page_link(page, len(ids), config.pages_url)


SHOWN: dict[str, Any] = {"flow_run_name": run_name} | {
    f"on_{ending}": [publish] for ending in ("completion", "failure", "crashed", "cancellation")
}
"""Options of `@flow` that all flows use: the name of a run, and `publish` as the hook of every ending."""
