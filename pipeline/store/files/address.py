"""Addresses of stores: paths, and URLs of object stores."""

from __future__ import annotations

import re
from pathlib import Path

from diva_grpo.pipeline.store.files.places import LocalPlace, Place

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)")
"""A URL, also as `Path` writes it, which makes one slash of two."""


def place_of(root: str | Path) -> Place:
    """The place that a user names by a path or by a URL such as `s3://bucket/prefix`.

    Raises:
        ConfigError: a URL that cannot be used here.
    """
    if url := _URL.fullmatch(str(root)):
        from diva_grpo.pipeline.store.files.objects import ObjectPlace  # fsspec takes time to load

        return ObjectPlace(f"{url[1]}://{url[2]}")
    return LocalPlace(Path(root).resolve())
