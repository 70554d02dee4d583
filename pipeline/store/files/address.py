"""Addresses of stores: paths, and URLs of object stores."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from diva_grpo.pipeline.store.files.places import LocalPlace, Place
from diva_grpo.schemas.address import URL, address
from diva_grpo.schemas.command import word
from diva_grpo.schemas.exceptions import ConfigError


def place_of(root: str | Path) -> Place:
    """Return the location of a store from its address.

    Args:
        root: a path, in which `~` at the front stands for the home folder, or a URL such as `s3://bucket/prefix`.

    Raises:
        ConfigError: the URL cannot be used here, or the path is that of a file.
    """
    url = URL.fullmatch(str(root))
    if url and url[1] == "file":
        return LocalPlace(Path(f"/{unquote(url[2])}").resolve())
    if url:
        from diva_grpo.pipeline.store.files.objects import ObjectPlace  # fsspec takes time to load

        return ObjectPlace(f"{url[1]}://{url[2]}")
    path = address(root).expanduser().resolve()
    if path.is_file():
        raise ConfigError(f"{word(root)} is a file: a store is a folder")
    return LocalPlace(path)
