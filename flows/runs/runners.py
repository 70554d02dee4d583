"""Where the tasks of a flow run, several at once: threads of its process, or Ray, on this machine or many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from prefect import Task
from prefect.futures import PrefectFuture

from diva_grpo.schemas.config import FlowConfig
from diva_grpo.schemas.exceptions import ConfigError

R = TypeVar("R")


@contextmanager
def submitting(task: Task[..., R], config: FlowConfig) -> Iterator[Callable[..., PrefectFuture[R]]]:
    """Submit a task to the task runner of a configuration; yields what to call by the task's arguments' names.

    `threads` is the flow's own task runner: threads, unless `flow.with_options(task_runner=...)` says otherwise.
    On a cluster every machine needs this package, the store's folder (or an object store), the endpoint's key and a
    Prefect server that it can reach.

    Raises:
        ConfigError: Ray is not installed.
    """
    if config.runner == "threads":
        yield task.submit
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise ConfigError("--runner ray: pip install 'diva-grpo[ray]'") from error
    local: dict[str, Any] = {"num_cpus": config.workers, "include_dashboard": False}
    chosen = {"init_kwargs": local} if config.runner == "ray" else {"address": config.runner}
    with RayTaskRunner(**chosen) as runner:
        yield lambda **arguments: runner.submit(task, arguments)
