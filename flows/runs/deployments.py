"""Serve flows: one process runs deployments on their schedules, with a Prefect server."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_type_hints

import yaml
from pydantic import ValidationError

from diva_grpo.flows.runs.server import auth_file, prefect_api
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.wire.endpoint import endpoint_url, routes_of
from diva_grpo.pipeline.teacher.wire.keys import KEY_HOSTS, key_host
from diva_grpo.schemas.config import Config
from diva_grpo.schemas.exceptions import ConfigError, ServerError
from diva_grpo.schemas.serving import ServeConfig, ServedFlow

if TYPE_CHECKING:
    from prefect import Flow, State
    from prefect.client.schemas import FlowRun
    from prefect.deployments.runner import RunnerDeployment

FLOWS = {
    "curate": "diva_grpo.flows.runs.curate",
    "generate": "diva_grpo.flows.runs.stages",
    "verify": "diva_grpo.flows.runs.stages",
    "label": "diva_grpo.flows.runs.stages",
    "top_up": "diva_grpo.flows.runs.top_up",
    "evaluate": "diva_grpo.flows.runs.evaluate",
}
"""The flows that can be served, and the module of each."""

_SLUG = "diva"
"""Slug of a deployment's schedule. Prefect uses it to find the same schedule again, for example a paused one."""


def flow_named(name: str) -> Flow[[Config], Any]:
    """Import a flow by its name, a key of `FLOWS`.

    Raises:
        ConfigError: there is no flow of this name.
    """
    if name not in FLOWS:
        raise ConfigError(f"there is no flow {name!r}: choose from {', '.join(FLOWS)}")
    flow: Flow[[Config], Any] = getattr(import_module(FLOWS[name]), name)
    return flow


def read_serving(file: Path) -> ServeConfig:
    """Read the deployments of a YAML file.

    Raises:
        ConfigError: the file cannot be read or is invalid; the message is one line.
    """
    try:
        return ServeConfig.model_validate(yaml.safe_load(file.read_text("utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ConfigError(f"{file}: {_first(error)}") from error


def _first(error: ValidationError) -> str:
    """The first error as `FIELD: MESSAGE`. The invalid value is left out, since it may be a secret."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def configured(served: ServedFlow) -> Config:
    """Validate the configuration of a served flow.

    Raises:
        ConfigError: the configuration is not valid for the flow, contains a secret (which the server would keep and
            show), or names no endpoint.
        StoreError: the store is missing, or its schema is too new.
    """
    kind: type[Config] = get_type_hints(flow_named(served.flow).fn)["config"]
    try:
        config = kind.model_validate(served.parameters)
    except ValidationError as error:
        raise ConfigError(f"{served.name}: parameters.{_first(error)}") from error
    if kind.model_validate(config.model_dump(mode="json")) != config:
        raise ConfigError(
            f"{served.name}: the server would show the password or query of a URL: leave it out and name the "
            "environment variable of a key by key_env"
        )
    if store := getattr(config, "store", None):
        VariantStore(store)
    if teacher := getattr(config, "teacher", None):
        endpoint_url(teacher)
    return config


def key_hosts(config: Config) -> set[str]:
    """The hosts to which a configuration sends each API key, as entries of `KEY_HOSTS`.

    Raises:
        ConfigError: a base URL is invalid.
    """
    teachers = [found for name in ("teacher", "solver") if (found := getattr(config, name, None))]
    if judge := getattr(getattr(config, "verify", None), "judge_base_url", None):
        teachers += [teacher.model_copy(update={"base_url": judge}) for teacher in teachers]
    return {key_host(route.key_env, route.base_url) for teacher in teachers for route in routes_of(teacher)}


def deployment(served: ServedFlow, *, active: bool) -> RunnerDeployment:
    """Make the Prefect deployment of a served flow.

    Args:
        served: the flow and its schedule.
        active: whether the schedule is active.

    Raises:
        ConfigError: the configuration or the schedule is invalid.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.schedules import Cron, Interval
    from prefect.types.entrypoint import EntrypointType

    schedules = []
    config = configured(served)
    strategies = {"skip": ConcurrencyLimitStrategy.CANCEL_NEW, "wait": ConcurrencyLimitStrategy.ENQUEUE}
    try:
        if served.cron:
            schedules = [Cron(served.cron, served.timezone, active=active, slug=_SLUG)]
        elif served.interval:
            schedules = [Interval(served.interval, active=active, slug=_SLUG)]
        made = flow_named(served.flow).to_deployment(
            served.name,
            schedules=schedules,
            parameters={"config": config.model_dump(mode="json", exclude_unset=True)},
            # A second concurrent run would find its work already claimed by the first.
            concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=strategies[served.overlap]),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
    except ValueError as error:
        raise ConfigError(f"{served.name}: {' '.join(str(error).split())}") from error
    return cast(
        "RunnerDeployment", made
    )  # Prefect's type is also that of a coroutine, which is made inside a loop


def full_name(served: ServedFlow) -> str:
    """A deployment's full name in Prefect: `FLOW/DEPLOYMENT`."""
    return f"{flow_named(served.flow).name}/{served.name}"


def is_active(served: ServedFlow) -> bool:
    """Whether a deployment's schedule is to be active.

    If the server knows a schedule of the deployment, its present state is kept. Otherwise `served.paused` decides.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            known = client.read_deployment_by_name(full_name(served))
        except ObjectNotFound:
            return not served.paused
    return all(schedule.active for schedule in known.schedules) if known.schedules else not served.paused


def entrypoint_now(entrypoint: str) -> str | None:
    """The present entry point of a flow of this project, for an entry point with an old name.

    Args:
        entrypoint: an entry point. Old names are from the time when `flows` was a top-level package.

    Returns:
        The present entry point; None if the given one is not an old name of a flow of this project.
    """
    now = f"diva_grpo.flows.runs.{entrypoint.removeprefix('flows.')}"
    ours = {f"{module}.{name}" for name, module in FLOWS.items()}
    return now if entrypoint.startswith("flows.") and now in ours else None


def moved_deployments(served_names: Collection[str]) -> list[str]:
    """One message for each deployment on the server whose entry point has an old name, so that its runs cannot start.

    Args:
        served_names: full names of deployments that are about to be registered again. They get no message, since
            registering them corrects the entry point.
    """
    from prefect.client.orchestration import get_client

    lines, page = [], 200  # the server returns at most 200 per request
    with get_client(sync_client=True) as client:
        known = client.read_deployments(limit=page)
        while len(known) % page == 0 and (more := client.read_deployments(limit=page, offset=len(known))):
            known += more
        for one in known:
            now = entrypoint_now(one.entrypoint or "")
            name = f"{client.read_flow(one.flow_id).name}/{one.name}" if now else ""
            if now and name not in served_names:
                lines.append(
                    f"deployment {name}: {one.entrypoint} is now {now}: deploy it again (`prefect deploy "
                    f"--name {one.name}`), or delete it (`prefect deployment delete {name}`)"
                )
    return lines


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """Turn connection and authentication errors of a server into a one-line `ServerError`.

    Raises:
        ServerError: the server cannot be reached, or it rejects the password.
    """
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except httpx.TransportError as error:
        raise ServerError(
            f"Prefect's server at {url} does not answer: is `diva serve` running? {error}"
        ) from error
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 401:
            raise
        raise ServerError(
            f"Prefect's server at {url} asks for another password: set PREFECT_API_AUTH_STRING"
        ) from error


def serve(
    deployments: Sequence[ServedFlow], port: int, say: Callable[[str], None], *, keep_days: float
) -> None:
    """Serve flows until SIGINT or SIGTERM. While no process serves them, their schedules start no runs.

    If no server is configured (`PREFECT_API_URL`), this function starts one that has schedules and a UI, and that
    uses Prefect's database. That server is restarted if it dies, and ends with this process. All runs also end when
    this process ends, for any reason.

    Args:
        deployments: the flows to serve.
        port: the port of the server that is started.
        say: called with messages for the user: where the server's password is, and which deployments have an entry
            point with an old name (see `moved_deployments`).
        keep_days: see `ServeConfig.keep_days`.

    Raises:
        ConfigError: a configuration or a schedule is invalid.
        StoreError: a store is missing, or its schema is too new.
        ServerError: no server could be started, the configured one does not answer, or another process on this
            machine already serves one of the flows.
    """
    import prefect
    from prefect.settings import PREFECT_API_URL, get_current_settings

    from diva_grpo.flows.runs.hooks import publish
    from diva_grpo.flows.runs.upkeep import SERVE_PID, sole, upkeep

    for served in deployments:  # before a server is started
        deployment(served, active=True)
    by_name = {full_name(served): served for served in deployments}
    # Runs inherit these variables. They limit the hosts a key is sent to, so a run's parameters, which come from
    # the server, cannot send a key to another host.
    hosts = " ".join(sorted({entry for served in deployments for entry in key_hosts(configured(served))}))
    inherited = {KEY_HOSTS: os.environ.get(KEY_HOSTS, hosts), SERVE_PID: str(os.getpid())}
    is_own = not PREFECT_API_URL.value()

    def leave(name: str, run: FlowRun, state: State) -> None:
        publish(flow_named(by_name[name].flow), run, state)

    with sole(get_current_settings().home, list(by_name)), _environment(inherited):
        url = prefect_api(port, services=True, keep_days=keep_days)
        if is_own:
            say(f"{url.removesuffix('/api')} asks for a password: cat {shlex.quote(str(auth_file(port)))}")
        with _answering(url):
            for line in moved_deployments(set(by_name)):
                say(line)
            made = [deployment(served, active=is_active(served)) for served in deployments]
            waiting = [(name, served.max_waiting) for name, served in by_name.items()]
            # Ctrl-C between Prefect's greeting and its own handling of it comes through.
            with upkeep(waiting, leave), suppress(KeyboardInterrupt):
                prefect.serve(*made)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of this process, which its children inherit; restore the old values at the end."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def set_active(deployments: Sequence[ServedFlow], *, active: bool, port: int) -> None:
    """Pause or resume the schedules of deployments.

    While a schedule is paused, runs that wait for another run are held (see `hold_waiting`). Runs in progress
    continue.

    Args:
        deployments: the deployments whose schedules change.
        active: True resumes the schedules, False pauses them.
        port: the port of the server that `serve` has started. It is used only if no server is configured.

    Raises:
        ConfigError: a deployment was never served.
        ServerError: the server does not answer, or it rejects the password.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    from diva_grpo.flows.runs.upkeep import hold_waiting

    url, auth = PREFECT_API_URL.value(), PREFECT_API_AUTH_STRING.value()
    if not url:
        url = f"http://127.0.0.1:{port}/api"
        try:
            auth = auth_file(port).read_text().strip()
        except OSError as error:
            raise ServerError(
                f"there is no {auth_file(port)}: is `diva serve` running on port {port}?"
            ) from error
    settings = {PREFECT_API_URL: url, PREFECT_API_AUTH_STRING: auth}
    with _answering(url), temporary_settings(settings), get_client(sync_client=True) as client:
        for served in deployments:
            try:
                known = client.read_deployment_by_name(full_name(served))
            except ObjectNotFound as error:
                raise ConfigError(f"{full_name(served)} was never served: run `diva serve` first") from error
            for schedule in known.schedules:
                client.update_deployment_schedule(known.id, schedule.id, active=active)
            hold_waiting(client, client.read_deployment(known.id))
