"""API keys from the environment, and the hosts to which each key may be sent."""

from __future__ import annotations

import os

import httpx2

from diva_grpo.schemas.exceptions import ConfigError

KEY_HOSTS = "DIVA_KEY_HOSTS"
"""Environment variable with the hosts to which keys may be sent: entries `NAME=https://host`, separated by spaces.

`diva serve` sets it to the endpoints in its file, so that the parameters of a run cannot send a key elsewhere. If it is
not set, a key may be sent to any endpoint that a configuration names."""

_PORTS = {"http": 80, "https": 443}


def api_key(name: str) -> str:
    """The API key in an environment variable, without surrounding white space; empty if the variable is not set.

    Raises:
        ConfigError: the key has a character that is not allowed in an HTTP header. It is checked here because the
            error message of the HTTP client would contain the key.
    """
    key = os.environ.get(name, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{name} contains a character that cannot be part of an API key: set it again")
    return key


def key_for(name: str, url: str) -> str:
    """The API key in an environment variable, if it may be sent to a URL; empty if the variable is not set.

    Raises:
        ConfigError: as `api_key`; or `KEY_HOSTS` does not allow to send this key to this host.
    """
    allowed = os.environ.get(KEY_HOSTS)
    if allowed is not None and key_host(name, url) not in {_normal(entry) for entry in allowed.split()}:
        raise ConfigError(
            f"{key_host(name, url).replace('=', ' may not be sent to ')}: {KEY_HOSTS} allows {allowed or 'nothing'}; "
            "name the endpoint in the file of `diva serve` and start it again"
        )
    return api_key(name)


def key_host(name: str, url: str) -> str:
    """An entry of `KEY_HOSTS`: name of the variable, and scheme, host and port of the URL as the HTTP client reads it.

    Raises:
        ConfigError: the URL is invalid.
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
