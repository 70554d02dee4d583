"""Configuration of `diva serve`: which flows run on a schedule, with which parameters, and when."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from diva_grpo.schemas.config import Config

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _duration(value: object) -> object:
    """Parse `90s`, `10m`, `6h` or `1d`. Other values, such as seconds or `12:00:00`, are returned for pydantic."""
    match = re.fullmatch(r"(\d+)\s*([smhd])", value) if isinstance(value, str) else None
    return timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else value


def _long_enough(interval: timedelta) -> timedelta:
    if interval < timedelta(seconds=10):  # starting a run takes about as long
        raise ValueError("give at least 10s")
    return interval


Interval = Annotated[timedelta, BeforeValidator(_duration), AfterValidator(_long_enough)]


class ServedFlow(Config):
    """A deployment: a flow, its configuration and its schedule."""

    name: str = Field(pattern=r"^[^/%&<>]+$", description="Name of the deployment; each one its own.")
    flow: str = Field(description="Which flow, such as curate or top_up.")
    parameters: dict[str, Any] = Field(description="The flow's configuration.")
    cron: str | None = Field(default=None, description="When it runs, such as '0 3 * * *'.")
    interval: Interval | None = Field(default=None, description="Or how often, such as 90s, 10m, 6h or 1d.")
    timezone: str = Field(default="UTC", description="Time zone of `cron`, such as Europe/Berlin.")
    paused: bool = Field(
        default=False, description="Whether its schedule waits for a `--resume` when it is served at first."
    )
    overlap: Literal["skip", "wait"] = Field(
        default="skip",
        description="What becomes of a run that is due while another one works: left out, or begun afterwards.",
    )

    max_waiting: int = Field(
        default=1, ge=1, description="With overlap: wait, most runs that wait; further ones are left out."
    )

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if self.cron and self.interval:
            raise ValueError("give cron or interval, not both")
        return self


class ServeConfig(Config):
    """The deployments that one `diva serve` runs, and how long its server keeps ended runs."""

    deployments: tuple[ServedFlow, ...] = Field(min_length=1, description="The flows, each with a schedule.")
    keep_days: float = Field(
        default=30.0,
        ge=0.05,
        description="Days for which the server that `diva serve` runs keeps runs that have ended, with their logs, "
        "artifacts and events. The store keeps what they made.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [served.name for served in self.deployments]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two deployments are named {name!r}")
        return self
