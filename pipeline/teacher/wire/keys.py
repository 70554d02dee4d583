"""API keys from the environment, and the hosts that each may be sent to."""

from __future__ import annotations

import os

import httpx2

from diva_grpo.schemas.exceptions import ConfigError

KEY_HOSTS = "DIVA_KEY_HOSTS"
"""Environment variable that says where keys may go: `NAME=https://host`, several with spaces between them.

`diva serve` sets it to what its file names, so that the parameters of a run cannot send a key elsewhere. Where it is
not set a key goes to whatever endpoint a configuration names."""

_PORTS = {"http": 80, "https": 443}


def api_key(name: str) -> str:
    """The API key in an environment variable, without white space around it; empty where there is none.

    Raises:
        ConfigError: it holds what no header can, and the error of the HTTP client would show it.
    """
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{name} contains a character that cannot be part of an API key: set it again")
    return key


def key_for(name: str, url: str) -> str:
    """The API key in an environment variable for an endpoint; empty where there is none.

    Raises:
        ConfigError: as `api_key`; or `KEY_HOSTS` does not let this key go to that host.
    """
    allowed = os.environ.get(KEY_HOSTS)
    if allowed is not None and key_host(name, url) not in {_normal(entry) for entry in allowed.split()}:
        raise ConfigError(
            f"{key_host(name, url).replace('=', ' may not be sent to ')}: {KEY_HOSTS} allows {allowed or 'nothing'}; "
            "name the endpoint in the file of `diva serve` and start it again"
        )
    return api_key(name)


def key_host(name: str, url: str) -> str:
    """An entry of `KEY_HOSTS`: a variable and the scheme, host and port of a URL, as the HTTP client reads them.

    Raises:
        ConfigError: it is not a URL.
    """
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ConfigError(f"base URL {url!r}: {error}") from error
    scheme, host = parsed.scheme.lower(), f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    port = parsed.port or _PORTS.get(scheme)
    return f"{name}={scheme}://{host}" + (f":{port}" if port != _PORTS.get(scheme) else "")


def _normal(entry: str) -> str:
    name, _, url = entry.partition("=")
    return key_host(name, url)
