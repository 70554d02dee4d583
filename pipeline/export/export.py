"""`export`: the store's rows into a file or a dataset folder, as a stream."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from diva_grpo.pipeline.export.card import Tally, card
from diva_grpo.pipeline.export.files import JsonWriter, ParquetWriter, Writer, write_batches
from diva_grpo.pipeline.export.rows import TRAINING, Selection, selection
from diva_grpo.pipeline.export.shapes import Shape
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.views import view_names
from diva_grpo.schemas.config import ExportConfig
from diva_grpo.schemas.exceptions import ConfigError, StoreError

_PROGRESS_ROWS = 100


@dataclass(frozen=True)
class ExportReport:
    """What was written.

    Attributes:
        rows: by split.
        images: embedded, or written beside the file.
        path: the file or the folder.
    """

    rows: dict[str, int]
    images: int
    path: Path


def export(
    store: VariantStore,
    out: Path,
    config: ExportConfig,
    progress: Callable[[int], None] | None = None,
) -> ExportReport:
    """Write originals and accepted variants for another trainer, or a view as it is; in bounded memory.

    Everything is written beside `out` and appears there by one rename.

    Args:
        store: the store.
        out: the file; with `hf`, the folder. JSON Lines have their images in `<out>.images` beside them.
        config: what and how.
        progress: told how many rows are newly written.

    Returns:
        Counts of what was written.

    Raises:
        ConfigError: `out` is there already, no row fits, or settings that do not go together.
        StoreError: an image is missing, or the target cannot be written.
        RecipeError: a perturbed image cannot be rendered.

    Example:
        >>> from pathlib import Path
        >>> export(store, Path("runs/export"), ExportConfig(preset="trl")).rows
        {'train': 36}
    """
    _check(out, config)
    with selection(store, config.what, config.where) as chosen:
        if not chosen.splits:
            raise ConfigError(f"no row fits: --what {config.what}" + (" and --where" if config.where else ""))
        _check_splits(chosen.splits)
        tally = Tally()
        with _appearing(out) as path:
            if config.format == "hf":
                shape = _write_folder(chosen, path, config, tally, progress)
                text = card(
                    store, out.resolve().name, config, shape, tally, tally.splits() or _named(chosen.splits)
                )
                (path / "README.md").write_text(text, encoding="utf-8")
            else:
                _write_file(chosen, path, out, config, tally, progress)
        return ExportReport(tally.splits() or _named(chosen.splits), tally.images, out)


def _check(out: Path, config: ExportConfig) -> None:
    choices = [*TRAINING, *(name for name in view_names() if name not in TRAINING)]
    if config.what not in choices:
        raise ConfigError(f"--what {config.what}: choose from {', '.join(choices)}")
    if config.preset and config.what not in TRAINING:
        raise ConfigError(f"--preset {config.preset} goes with --what {', '.join(TRAINING)} only")
    if config.prompt == "text" and config.preset != "trl":
        raise ConfigError("--prompt text goes with --preset trl only")
    taken = [path for path in (out, _image_folder(out)) if path.exists()]
    if taken:
        raise ConfigError(f"{taken[0]} is there already: choose another path, or delete it")


def _check_splits(splits: dict[str, int]) -> None:
    if len({_split_name(split) for split in splits}) < len(splits):
        raise ConfigError(f"splits {', '.join(splits)} have the same file name: select one with --where")


def _image_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.images")


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """A path to write to, which is at `out` on leaving without an error, and gone otherwise."""
    path = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield path
        if _image_folder(path).exists():
            _image_folder(path).replace(_image_folder(out))
        path.replace(out)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        for left in (path, _image_folder(path)):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def _split_name(split: str) -> str:
    """A split's name as `datasets` admits it."""
    return re.sub(r"\W", "_", split) or "_"


def _named(splits: dict[str, int]) -> dict[str, int]:
    return {_split_name(split): rows for split, rows in splits.items()}


def _write_folder(
    chosen: Selection,
    folder: Path,
    config: ExportConfig,
    tally: Tally,
    progress: Callable[[int], None] | None,
) -> Shape | None:
    data = folder / "data"
    data.mkdir(parents=True)
    if not chosen.is_training:
        for done in write_batches(data / "train-00000-of-00001.parquet", chosen.batches("train"), "parquet"):
            _tell(progress, done)
        return None
    shape = _shape(chosen, config)
    schema = shape.features().arrow_schema
    for split, count in chosen.splits.items():
        shards = -(-count // config.shard_rows)
        # Named by the rows counted at first; a row more, of a writer meanwhile, goes into the last file.
        writer: Writer | None = None
        for index, row in enumerate(chosen.rows(split)):
            shard, first = divmod(index, config.shard_rows)
            if first == 0 and shard < shards:
                if writer:
                    writer.close()
                writer = ParquetWriter(data / _shard_name(split, shard, shards), schema)
            assert writer is not None
            writer.write(*shape.row(row, index))
            tally.add(_split_name(split), row)
            _tell_some(progress, index)
        if writer:
            writer.close()
    return shape


def _shard_name(split: str, shard: int, shards: int) -> str:
    return f"{_split_name(split)}-{shard:05d}-of-{shards:05d}.parquet"


def _write_file(
    chosen: Selection,
    path: Path,
    out: Path,
    config: ExportConfig,
    tally: Tally,
    progress: Callable[[int], None] | None,
) -> None:
    if not chosen.is_training:
        for done in write_batches(path, chosen.batches("train"), config.format):
            _tell(progress, done)
        return
    shape = _shape(chosen, config)
    writer: Writer
    if config.format == "jsonl":
        writer = JsonWriter(path, _image_folder(path), shape.with_images, _image_folder(out).name)
    else:
        writer = ParquetWriter(path, shape.features().arrow_schema)
    for split in chosen.splits:
        for index, row in enumerate(chosen.rows(split)):
            writer.write(*shape.row(row, index))
            tally.add(_split_name(split), row)
            _tell_some(progress, index)
    writer.close()


def _shape(chosen: Selection, config: ExportConfig) -> Shape:
    if config.prompt == "text" and chosen.with_images:
        raise ConfigError("--prompt text cannot hold images: TRL takes them in conversations only")
    return Shape(config.preset, chosen.with_images, config.prompt, config.instruction)


def _tell(progress: Callable[[int], None] | None, rows: int) -> None:
    if progress:
        progress(rows)


def _tell_some(progress: Callable[[int], None] | None, index: int) -> None:
    if index % _PROGRESS_ROWS == _PROGRESS_ROWS - 1:
        _tell(progress, _PROGRESS_ROWS)
