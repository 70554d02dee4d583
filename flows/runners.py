"""Where the tasks of a flow run, several at once: threads of its process, or Ray, on this machine or many."""

from __future__ import annotations

import os
from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from schemas.config import FlowConfig
from schemas.exceptions import ConfigError


def task_runner(config: FlowConfig) -> TaskRunner[Any]:
    """The task runner that a configuration asks for; enter it, and submit tasks to it.

    On a cluster every machine needs this package, the store's folder (or an object store), the endpoint's key and a
    Prefect server that it can reach; answers are kept in a journal beside the store or, with an object store, on
    each machine.

    Raises:
        ConfigError: Ray is not installed.
    """
    if config.runner == "threads":
        return ThreadPoolTaskRunner(max_workers=config.workers)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise ConfigError("--runner ray: pip install 'diva-grpo[ray]'") from error
    local = {"num_cpus": config.workers, "include_dashboard": False}
    runner: TaskRunner[Any] = (
        RayTaskRunner(init_kwargs=local) if config.runner == "ray" else RayTaskRunner(address=config.runner)
    )
    return runner
