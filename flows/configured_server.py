"""Whether the Prefect server that PREFECT_API_URL names can be reached."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request

_CONNECT_S = 10.0
"""Seconds that a configured server may take to answer."""


def unreachable(url: str) -> str:
    """Return why the server of an API URL cannot be reached; empty if it answers, with whatever status."""
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=_CONNECT_S).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return "" if isinstance(reason, ssl.SSLError) else str(reason)  # Prefect has certificates of its own
    return ""


def no_answer(url: str, reason: str) -> str:
    """Return the message about a configured server that cannot be reached."""
    return f"PREFECT_API_URL={url} does not answer ({reason}): start that server, or unset it"
