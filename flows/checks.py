"""The checks of `diva check`: whether everything that a run needs is available, before the run costs anything."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from diva_grpo.flows.configured_server import no_answer, unreachable
from diva_grpo.schemas.exceptions import DivaError, packages_of_extras

if TYPE_CHECKING:
    from diva_grpo.pipeline.teacher.request import Dialect, WireMode
    from diva_grpo.pipeline.teacher.wire.live import LiveExchange
    from diva_grpo.pipeline.teacher.wire.outcome import Outcome
    from diva_grpo.schemas.config import TeacherConfig
    from diva_grpo.schemas.replies import Reply

_EXTRAS = ("curate", "flows", "train", "s3", "ray", "vision")
_LEAST_FREE_GB = 1.0
_PATIENCE_S = 30.0
_STRUCTURED: tuple[WireMode, ...] = ("json_object", "json_schema")
_QUESTION = "What is 2 + 2? Answer in one short step."


class Check(NamedTuple):
    """The result of one check.

    Attributes:
        name: name of what was checked.
        passed: whether it is all right; None if it is missing but not required.
        said: the finding, in one line.
    """

    name: str
    passed: bool | None
    said: str


def extras() -> list[Check]:
    """Check for each extra whether its own packages are installed, without those of extras that it includes."""
    needed: defaultdict[str, list[str]] = defaultdict(list)
    for package, extra in packages_of_extras():
        if package != "diva-grpo":
            needed[extra].append(package)
    checks = []
    for extra in _EXTRAS:
        missing = [name for name in needed[extra] if not _installed(name)]
        said = f"missing: {', '.join(missing)}; pip install 'diva-grpo[{extra}]'" if missing else "installed"
        checks.append(Check(f"extra {extra}", None if missing else True, said))
    return checks


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def torch_device() -> Check:
    """Check which device training would use."""
    if not _installed("torch"):
        return Check(
            "torch", None, "not installed: needed to train, to evaluate and to label by a local policy"
        )
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        said = f"{torch.cuda.device_count()} x {name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free on the first"
        return Check("torch", True, f"{torch.__version__} on {said}")
    return Check("torch", True, f"{torch.__version__} on the CPU: no GPU was found")


def disk(folder: Path) -> Check:
    """Check that the disk of a store's folder has at least 1 GB free. The folder need not exist yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free_gb = shutil.disk_usage(there).free / 1e9
    return Check("disk", free_gb >= _LEAST_FREE_GB, f"{free_gb:.1f} GB free at {there}")


def store(folder: Path) -> Check:
    """Check that a store can be opened and written, and count what it holds."""
    from diva_grpo.pipeline.store import VariantStore

    try:
        opened = VariantStore(folder)
        [(problems, accepted, labels)] = opened.query(
            "SELECT (SELECT count(*) FROM problems), (SELECT count(*) FROM variants WHERE status = 'accepted'), "
            "(SELECT count(*) FROM labels)"
        )
    except DivaError as error:
        return Check("store", False, str(error))
    held = f"{problems:,} problems, {accepted:,} accepted variants, {labels:,} labels"
    if not os.access(opened.root, os.W_OK):
        return Check("store", False, f"{held}; it cannot be written")
    return Check("store", True, held)


def prefect() -> Check:
    """Check that the Prefect server to which flows report answers, if one is configured."""
    if not _installed("prefect"):
        return Check("prefect", None, "not installed: needed by curate, top-up and serve")
    from prefect.settings import PREFECT_API_URL

    url: str | None = PREFECT_API_URL.value()
    if not url:
        return Check("prefect", True, "PREFECT_API_URL is not set: a flow starts a server of its own")
    reason = unreachable(url)
    return Check("prefect", not reason, no_answer(url, reason) if reason else f"the server at {url} answers")


# --- the endpoint


def endpoint(config: TeacherConfig) -> list[Check]:
    """Check whether an endpoint answers, how fast, in which output modes, and at what price.

    It sends one short request per output mode, and again without each parameter that the endpoint refuses. If the first
    request fails, it sends no other mode.
    """
    from diva_grpo.pipeline.teacher.prices import PriceTable

    try:
        checks = asyncio.run(_asked(config))
        prices = PriceTable.load(config.prices, config.base_url)
    except DivaError as error:
        return [Check("endpoint", False, str(error))]
    price = prices.of(config.model)
    said = (
        f"${price.cost(1_000_000, 0):g} and ${price.cost(0, 1_000_000):g} per million tokens sent and answered"
        if price
        else prices.how_to_add(config.model)
    )
    return [*checks, Check("price", True if price else None, said)]


async def _asked(config: TeacherConfig) -> list[Check]:
    from diva_grpo.pipeline.teacher.wire.endpoint import endpoint_name
    from diva_grpo.pipeline.teacher.wire.live import LiveExchange

    patience_s = min(config.patience_s, _PATIENCE_S)
    exchange = LiveExchange(config.model_copy(update={"max_retries": 0, "patience_s": patience_s}))
    try:
        began = time.monotonic()
        plain = await _outcome(exchange, config, "text", None)
        seconds = time.monotonic() - began
        if not plain.answered:
            to_do = f": {plain.to_do}" if plain.to_do else ""
            return [
                Check("endpoint", False, f"{endpoint_name(config)}: {plain.outcome}: {plain.detail}{to_do}")
            ]
        modes = ["text", *[mode for mode in _STRUCTURED if await _gives(exchange, config, mode)]]
    finally:
        await exchange.close()
    used = plain.completion_tokens
    tokens = "" if used is None else f", {used} tokens"
    return [
        Check("endpoint", True, f"{endpoint_name(config)} answers, and knows {config.model}"),
        Check("latency", True, f"{seconds:.2f} s for a short answer{tokens}"),
        Check("output", True, f"modes: {', '.join(modes)}"),
    ]


async def _gives(exchange: LiveExchange, config: TeacherConfig, mode: WireMode) -> bool:
    """Send the question in an output mode. Returns whether the answer has the requested shape."""
    from diva_grpo.pipeline.teacher.structured import ShapeError, read_reply
    from diva_grpo.schemas.replies import ThinkSteps

    outcome = await _outcome(exchange, config, mode, ThinkSteps)
    try:
        return outcome.outcome == "ok" and bool(read_reply(outcome.content or "", ThinkSteps))
    except ShapeError:
        return False


async def _outcome(
    exchange: LiveExchange, config: TeacherConfig, mode: WireMode, shape: type[Reply] | None
) -> Outcome:
    """Send the question. If the endpoint refuses a parameter, send it again without it, or with its other name.

    Args:
        exchange: the connection to the endpoint.
        config: settings of the endpoint.
        mode: the output mode.
        shape: the requested shape of the answer; None for plain text.
    """
    from diva_grpo.pipeline.teacher.request import Dialect, Request

    request = Request.of(config, "You solve problems step by step.", _QUESTION, shape)
    dialect: Dialect | None = Dialect.first(config, mode)
    while dialect:
        outcome = await exchange.send(request.parameters(dialect), request.key)
        refused = outcome.outcome in ("http_400", "http_422")
        cause = outcome.parameter or outcome.detail or ""
        dialect = dialect.after_refusal(cause, may_change_mode=False) if refused else None
    return outcome
