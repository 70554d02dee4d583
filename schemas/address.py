"""Addresses of stores as users write them."""

from __future__ import annotations

import re
from pathlib import Path

URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)")
"""A URL. A single slash after the colon is allowed too, because `Path` replaces two slashes by one."""


def address(text: str | Path) -> Path:
    """Return an address as a path of the same meaning.

    `Path` drops a `./` at the front, after which `./~` would stand for the home folder and `./s3:/x` for a URL. So such
    a path is made absolute.
    """
    path = Path(text)
    if str(text).startswith("./") and (str(path).startswith("~") or URL.fullmatch(str(path))):
        return Path.cwd() / path
    return path
