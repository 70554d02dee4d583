"""Which endpoint a configuration names: its URL, its name in the journal, and its routes. Nothing is sent from here."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from diva_grpo.pipeline.teacher.wire.keys import api_key
from diva_grpo.schemas.config import Route, TeacherConfig
from diva_grpo.schemas.exceptions import ConfigError

_OPENAI = "https://api.openai.com/v1"


def endpoint_url(config: TeacherConfig) -> str | None:
    """The URL of the endpoint, from the configuration or else from OPENAI_BASE_URL; None for OpenAI's own URL.

    Raises:
        ConfigError: neither a URL nor an API key is set, or the URL does not begin with http:// or https://.
    """
    url = config.base_url or os.environ.get("OPENAI_BASE_URL") or None
    if url is None and not api_key(config.key_env):
        raise ConfigError(
            f"no endpoint: set {config.key_env}, or give --base-url (`diva demo` needs no endpoint)"
        )
    if url is not None and not url.startswith(("http://", "https://")):
        raise ConfigError(f"base URL {url!r}: it must begin with http:// or https://")
    return url


def endpoint_name(config: TeacherConfig) -> str:
    """The name of the endpoint in the journal: the configured one, else its URL without user, password and query.

    Raises:
        ConfigError: as `endpoint_url`; or routes are configured without a name.
    """
    if config.routes and not config.endpoint:
        raise ConfigError("routes need a name for the journal: give --endpoint NAME")
    if config.endpoint:
        return config.endpoint
    parts = urlsplit(endpoint_url(config) or _OPENAI)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")


def speaks_openai(config: TeacherConfig) -> bool:
    """Whether the endpoint is that of OpenAI or Azure, and not another server with the same interface."""
    urls = [route.base_url for route in routes_of(config)]
    hosts = {urlsplit(url).hostname or "" for url in urls}
    return config.api_version is not None or all(h.endswith((".openai.com", ".azure.com")) for h in hosts)


def routes_of(config: TeacherConfig) -> tuple[Route, ...]:
    """The routes of an endpoint (pairs of URL and key); a single one if no routes are configured.

    Raises:
        ConfigError: as `endpoint_url`.
    """
    single = (
        Route(base_url=endpoint_url(config) or _OPENAI, key_env=config.key_env) if not config.routes else None
    )
    return (single,) if single else config.routes
