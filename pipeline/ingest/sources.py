"""Open sources of problems. A source has one or more parts, and a part has numbered rows.

A source is a file, a folder of files, a folder written by `datasets.save_to_disk`, or a data set of the Hugging Face
hub. `readers.py` reads the files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from diva_grpo.pipeline.images.sources import Place
from diva_grpo.pipeline.ingest.readers import (
    DAMAGED,
    FORMATS,
    READERS,
    Rows,
    dataset_rows,
    format_of,
    stem_of,
)
from diva_grpo.schemas.exceptions import ConfigError, SourceError, first_line
from diva_grpo.schemas.mapping import ColumnMapping

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_SPLIT_IN_NAME = re.compile(r"(?<![a-z])(train|testmini|test|validation|valid|val|dev)(?:ing|set)?(?![a-z])")
_CONFIGS = re.compile(r"available configs: \[(.*?)\]", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """One file or one split of a source.

    Attributes:
        label: the source as the user gave it, followed by the name of the file or split if there are several.
        split: the split, from the name of the part or from the user; None if neither gives one.
        rows: an iterator over the rows. It reads lazily and raises SourceError if the file is damaged.
        place: how image paths are resolved.
    """

    label: str
    split: str | None
    rows: Rows
    place: Place


def default_name(source: str, mapping: ColumnMapping) -> str:
    """Return the default name of a source: the name of the preset, else the file's stem or the path's last part."""
    path = Path(source)
    return mapping.name or (stem_of(path) if format_of(path) else path.resolve().name)


def open_source(
    source: str, mapping: ColumnMapping, *, split: str | None = None, streaming: bool = False
) -> list[Part]:
    """Return the parts of a source. A path that exists is local; any other name is looked up on the hub.

    Args:
        source: a file, a folder, the hub name `owner/name`, or the name of the mapping's preset.
        mapping: a preset contains the hub name, configuration and split of its data set.
        split: the split to read if the source has several. If the source has only one, the split to record for all
            rows. None reads all splits (for the hub data set of a preset: the preset's split).
        streaming: read only the rows that are used from the hub, instead of downloading the whole data set.

    Raises:
        SourceError: there is no such source or split, or its format is not known.
        ConfigError: a hub configuration is given for a local source.
    """
    path = Path(source)
    if path.exists() and mapping.hub_config and not mapping.hub:
        raise ConfigError(f"--config {mapping.hub_config} goes with a data set of the hub: {source} is local")
    if path.is_dir():
        if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            return _saved_parts(source, path, split)
        return _folder_parts(source, path, split)
    if path.exists():
        if format_of(path) is None:
            raise SourceError(f"cannot tell the format of {source}: name it {FORMATS}")
        return [_file_part(source, path, split or _split_of_file(path), path.parent, split)]
    if source == mapping.name and mapping.hub:
        return _hub_parts(source, mapping.hub, mapping.hub_config, split or mapping.hub_split, streaming)
    if format_of(path) or not _HUB_NAME.fullmatch(source):
        raise SourceError(
            f"no file or folder {source}: check the path (a data set of the Hugging Face hub is owner/name)"
        )
    hub_split = mapping.hub_split if source == mapping.hub else None
    return _hub_parts(
        source,
        source,
        mapping.hub_config if mapping.hub in (None, source) else None,
        split or hub_split,
        streaming,
    )


# --- splits


def split_in_name(name: str) -> str | None:
    """Return the split in the name of a file or folder; None if the name contains no split, or more than one.

    >>> split_in_name("gsm8k_test"), split_in_name("train-00000-of-00002"), split_in_name("latest")
    ('test', 'train', None)
    """
    found = set(_SPLIT_IN_NAME.findall(name.lower()))
    return found.pop() if len(found) == 1 else None


def _split_of_file(path: Path) -> str | None:
    """Return the split in the name of a file or one of its folders, so that test sets are not used for training.

    A folder's whole name must be the split: `test/0000.parquet` is of the split `test`, `my-tests/mine.jsonl` is not.
    """
    folders = [name for name in reversed(path.parts[:-1]) if name.lower() == split_in_name(name)]
    return split_in_name(stem_of(path)) or next((name.lower() for name in folders), None)


def _split_in_folder(file: Path, folder: Path) -> str | None:
    """Return the split of a file in a source folder: from its name, its subfolders, or the source folder; else None."""
    names = [stem_of(file), *reversed(file.relative_to(folder).parts[:-1])]
    inside = next((split for name in names if (split := split_in_name(name))), None)
    own = re.split(r"[^a-z]+", folder.name.lower())[-1]
    return inside or (own if split_in_name(own) == own else None) or _split_of_file(folder / "-.jsonl")


# --- parts


def _file_part(label: str, path: Path, split: str | None, root: Path, wanted: str | None = None) -> Part:
    rows = _guarded(label, READERS[str(format_of(path))](path))
    return Part(label, split, _of_split(rows, wanted), Place(path.parent, root))


def _of_split(rows: Rows, wanted: str | None) -> Rows:
    """Keep only the rows of the wanted split.

    Only rows of a file with one table per split have a split of their own. Rows without one are kept.
    If `wanted` is None, all rows are kept.
    """
    return (row for row in rows if wanted is None or row.split in (None, wanted))


def _folder_parts(source: str, folder: Path, split: str | None) -> list[Part]:
    files = sorted(f for f in folder.rglob("*") if format_of(f) and f.is_file())
    files = [f for f in files if not any(name.startswith(".") for name in f.relative_to(folder).parts)]
    if not files:
        raise SourceError(f"the folder {source} contains no file of a known format: {FORMATS}")
    found = {f: _split_in_folder(f, folder) for f in files}
    several = len(set(found.values()) - {None}) > 1
    # If the files have several splits, --split selects one. Otherwise it is the split to record for all rows.
    wanted = [(f, (own or split) if several else (split or own)) for f, own in found.items()]
    parts = [
        _file_part(f"{source.rstrip('/')}/{f.relative_to(folder).as_posix()}", f, file_split, folder, split)
        for f, file_split in wanted
        if split is None or file_split == split
    ]
    if not parts:
        names = sorted({str(file_split) for _, file_split in wanted})
        raise SourceError(f"the folder {source} has no split {split}: it has {', '.join(names)}")
    return parts


def _saved_parts(source: str, folder: Path, split: str | None) -> list[Part]:
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise SourceError(f"the saved data set {source} is damaged: {first_line(error)}") from error
    return _dataset_parts(source, data, split, folder)


def _hub_parts(source: str, name: str, config: str | None, split: str | None, streaming: bool) -> list[Part]:
    import datasets

    try:
        data = datasets.load_dataset(name, config, split=split, streaming=streaming)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        configs = _CONFIGS.search(str(error))
        if configs:
            names = configs[1].replace("'", "")
            raise SourceError(
                f"{source} has several configurations: choose one with --config: {names}"
            ) from error
        raise SourceError(
            f"{source} is neither a file or folder here, nor could it be read from the Hugging Face hub: "
            f"{first_line(error)}"
        ) from error
    return _dataset_parts(source, data, split, Path(datasets.config.HF_CACHE_HOME))


def _dataset_parts(source: str, data: Any, split: str | None, folder: Path) -> list[Part]:
    place = Place(folder, folder)
    if not isinstance(data, dict):
        name = split or (str(data.split) if data.split else None)
        return [Part(source, name, _guarded(source, dataset_rows(data)), place)]
    if split is not None and split not in data:
        raise SourceError(f"{source} has no split {split}: it has {', '.join(data)}")
    labels = {name: f"{source.rstrip('/')}/{name}" for name in data if split in (None, name)}
    return [
        Part(label, name, _guarded(label, dataset_rows(data[name])), place) for name, label in labels.items()
    ]


def _guarded(label: str, rows: Rows) -> Rows:
    """Yield the rows. Errors of a damaged file become a SourceError with a message of one line."""
    try:
        yield from rows
    except SourceError:
        raise
    except DAMAGED as error:
        raise SourceError(f"{label} could not be read: {first_line(error)}") from error
