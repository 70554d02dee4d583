"""Run several tasks of a flow at once: in threads of its process, or on Ray, on one or more machines."""

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
    """Open the task runner that a configuration names, and yield a function that submits the task to it.

    The function takes the task's arguments as keyword arguments. The runner `threads` is the flow's own task runner:
    Prefect's default uses threads, and `flow.with_options(task_runner=...)` sets another. On a cluster, every machine
    needs this package, access to the store, the endpoint's key, and a connection to the Prefect server.

    Args:
        task: the task to submit.
        config: the flow's configuration; its `runner` is `threads`, `ray` (a local Ray) or the address of a cluster.

    Raises:
        ConfigError: Ray is chosen and not installed.
    """
    if config.runner == "threads":
        yield task.submit
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise ConfigError("--runner ray: pip install 'diva-grpo[ray]'") from error
    local: dict[str, Any] = {"num_cpus": config.workers, "include_dashboard": False}
    chosen = {"init_kwargs": local} if config.runner == "ray" else {"address": config.runner}
    with RayTaskRunner(**chosen) as runner:
        yield lambda **arguments: runner.submit(task, arguments)
