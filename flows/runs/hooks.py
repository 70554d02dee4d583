"""What flows tell Prefect: names of runs, progress, artifacts at their end, and failures that say how to go on.

A flow has all of it by its decorators:

    @flow(name="curate", **SHOWN)
    @ends_in_one_line
    def curate(config: CurateConfig) -> Counts: ...
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from diva_grpo.flows.runs.upkeep import end_with_serve, sign
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
"""Problems on the page that a run leaves: to render the images of all would take as long as the run."""


class _OneLine(logging.Filter):
    """Takes the traceback off what is a message to the user: Prefect logs one with every exception."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], DivaError):
            record.exc_info = None
        return True


for _logger in ("prefect.flow_runs", "prefect.task_runs"):
    logging.getLogger(_logger).addFilter(_OneLine())


# --- names


def run_name() -> str:
    """Name of the flow run that begins, for Prefect's `flow_run_name`; see `name_of`."""
    return name_of(this_run.flow_name, this_run.parameters["config"])


def name_of(flow_name: str, config: AnyConfig) -> str:
    """What a run is, such as `curate algebra: 128 problems with gpt-4.1-mini`.

    A top-up is named by the training run, an evaluation by model and split. What cannot be found in the store is left
    out: the run will say why.
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
    """A progress artifact of the flow run in which it is made.

    Args:
        config: of the flow.
        meter: of the run.
        shards: how many it has.
    """

    def __init__(self, config: FlowConfig, meter: Meter, shards: int) -> None:
        self._meter, self._shards, self._ended = meter, shards, 0
        key = artifact_key(config.store.name, f"progress of {this_run.flow_name}")
        made = create_progress_artifact(self._percent, key=key, description=self._line)
        self._id = cast("UUID", made)  # no coroutine where no event loop runs

    def shard_ended(self) -> None:
        """Show that one more shard has ended; a server that cannot be reached does not hold up the work."""
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


@contextmanager
def released() -> Iterator[None]:
    """Clear the frames of an error that leaves a flow or a task.

    Prefect keeps errors until the process ends. Their frames would keep DuckDB connections alive, and DuckDB reports
    every object that is left at the end as leaked.
    """
    try:
        yield
    except BaseException as error:
        chain: list[BaseException] = []
        link: BaseException | None = error
        while link is not None and link not in chain:  # a chain may lead back: `raise error from error`
            chain.append(link)
            traceback.clear_frames(link.__traceback__)
            link = link.__cause__ or link.__context__
        raise


def ends_in_one_line(body: Callable[[C], R]) -> Callable[[C], R]:
    """Let a flow end with a message where it fails by what a user can put right, without a traceback.

    The state has the type of the error, what it says and the command that continues from there. Who calls the flow
    gets the error itself, as if it had been raised.
    """

    @functools.wraps(body)
    def flow_body(config: C) -> R:
        if deployment.id:
            end_with_serve()
            sign()
        try:
            with released():
                return body(config)
        except DivaError as error:
            way_on = how_to_go_on(this_run.flow_name, config, served=bool(deployment.id))
            message = f"{type(error).__name__}: {error}. To continue: {way_on}"
            # Prefect takes a state for the flow's end and raises what it holds.
            return cast("R", Failed(message=message, data=error))

    # With classes and not their names: Prefect would look these up here, and not where the flow is defined.
    cast("Any", flow_body).__signature__ = inspect.signature(body, eval_str=True)
    return flow_body


def how_to_go_on(flow_name: str, config: Config, *, served: bool) -> str:
    """The command that does what a run has left undone, and for one of a deployment what to press instead."""
    command = command_line(VERB_OF_FLOW.get(flow_name, flow_name), config)
    return f"`{command}`" + (", or Retry on the run's page" if served else "")


# --- the end of a run


def publish(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Leave artifacts of what a run has made, and how to continue where it failed; a hook for the end of a flow.

    A worker or `diva serve` calls it too for a run whose process was killed.
    """
    try:  # by their JSON, in which URLs have no secrets
        config: AnyConfig = flow.validate_parameters(flow_run.parameters)["config"]
    except ParameterTypeError:  # which is why the run failed, and its state says so
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
    except StoreError:  # which is why the run failed, and its state says so
        return
    began = flow_run.start_time or flow_run.created or datetime.now(UTC)
    since = began.astimezone(UTC).replace(tzinfo=None)
    if isinstance(config, EvaluateConfig):
        yield scores(store)
    else:
        yield from artifacts(store, since)
        yield from _page(store, since, config)


def failure(flow_name: str, message: str, way_on: str) -> Artifact:
    """What a run that failed, crashed or was cancelled leaves: what happened, and what to do."""
    kept = "All that was done is kept, and paid for once."
    content = f"{message}\n\n{kept}" if way_on in message else f"{message}\n\n{kept} To continue: {way_on}"
    return Artifact("how-to-go-on", content, f"The last run of {flow_name} that did not end well.")


def _page(store: VariantStore, since: datetime, config: FlowConfig) -> Iterator[Artifact]:
    """The page of the problems whose variants a run has made last."""
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
"""Options of every flow."""
