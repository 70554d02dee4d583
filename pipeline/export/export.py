"""`export`: write the rows of a store to a file or a dataset folder. The rows are streamed, to limit the memory."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from diva_grpo.pipeline.export.card import Tally, card, card_beside
from diva_grpo.pipeline.export.files import JsonWriter, ParquetWriter, Writer, write_batches
from diva_grpo.pipeline.export.rows import TRAINING, Selection, Wanted, selection
from diva_grpo.pipeline.export.shapes import Shape
from diva_grpo.pipeline.export.verifiers import module_name, write_package
from diva_grpo.pipeline.export.verl import data_source, write_reward_file
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.files.progress import Progress, ignore
from diva_grpo.pipeline.store.views import view_names
from diva_grpo.schemas.config import ExportConfig
from diva_grpo.schemas.exceptions import ConfigError, StoreError

_PROGRESS_ROWS = 100


@dataclass(frozen=True)
class ExportReport:
    """The result of an export.

    Attributes:
        rows: number of rows of each split.
        images: number of images, embedded or in files.
        path: the file or the folder.
        notes: messages for the user, one line each.
        control: report on the random rows for comparison (`--control`); None if they were not requested.
    """

    rows: dict[str, int]
    images: int
    path: Path
    notes: tuple[str, ...] = ()
    control: ExportReport | None = None


def format_of(out: Path, config: ExportConfig) -> str:
    """Return the format of an export: the configured one, else by the ending of the path (`hf` for a folder)."""
    return config.format or _ENDINGS.get(out.suffix.lower(), "hf")


_ENDINGS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}


def export(
    store: VariantStore,
    out: Path,
    config: ExportConfig,
    progress: Progress = ignore,
) -> ExportReport:
    """Write originals and accepted variants for another trainer, or the rows of a view, in bounded memory.

    The output is written to a temporary path in the same folder and then renamed to `out`.

    Args:
        store: the store.
        out: the file to write; for the format `hf`, the folder. The images of a JSON Lines file are written to the
            folder `<out>.images`.
        config: which rows to write, and in which form.
        progress: called with the number of rows that were written since the previous call.

    Returns:
        Counts of what was written.

    Raises:
        ConfigError: `out` exists already, no row matches the settings, or settings contradict each other.
        StoreError: an image is missing, or the target cannot be written.
        RecipeError: a perturbed image cannot be rendered.

    Example:
        >>> from pathlib import Path
        >>> export(store, Path("runs/export"), ExportConfig(preset="trl")).rows
        {'train': 36}
    """
    _check(out, config)
    wanted = Wanted(config.what, config.where, config.preset == "sft", _bounds(config))
    report = _written(store, out, config, wanted, progress)
    if not config.control:
        return report
    control = out.with_name(f"{out.stem}.control{out.suffix}")
    _check(control, config)
    drawn = _written(store, control, config, replace(wanted, control=True), progress)
    return replace(report, control=drawn)


def _bounds(config: ExportConfig) -> tuple[float, float] | None:
    if config.control and config.pass_rate is None:
        raise ConfigError("--control goes with --pass-rate: it draws as many rows as have it")
    if config.pass_rate is None:
        return None
    if config.what not in TRAINING:
        raise ConfigError(f"--pass-rate goes with --what {', '.join(TRAINING)} only")
    low, high = map(float, config.pass_rate.split(":"))
    if low > high:
        raise ConfigError(f"--pass-rate {config.pass_rate}: the lower rate comes first")
    return low, high


def _written(
    store: VariantStore,
    out: Path,
    config: ExportConfig,
    wanted: Wanted,
    progress: Progress,
) -> ExportReport:
    with selection(store, wanted) as chosen:
        if not chosen.splits:
            raise ConfigError(_none_fits(config))
        if len(_named(chosen.splits)) < len(chosen.splits):
            names = ", ".join(chosen.splits)
            raise ConfigError(f"splits {names} have the same file name: select one with --where")
        tally = Tally()
        with _appearing(out) as path:
            if format_of(out, config) == "hf":
                data = _data_folder(out, config)
                shape = _write_folder(chosen, path / data, config, tally, progress)
                splits = tally.splits() or _named(chosen.splits)
                text = card(store, out.resolve().name, config, shape, tally, splits, data)
                if config.preset == "verifiers":
                    write_package(path, out, text, tally)
                else:
                    target = card_beside(path) if config.preset == "easyr1" else path / "README.md"
                    target.write_text(text, encoding="utf-8")
            else:
                _write_file(chosen, path, out, config, tally, progress)
        notes = _notes(out, config, tally)
        return ExportReport(tally.splits() or _named(chosen.splits), tally.images, out, notes)


def _none_fits(config: ExportConfig) -> str:
    given = [f"--what {config.what}"]
    given += ["--where"] if config.where else []
    given += [f"--pass-rate {config.pass_rate} (by the labels of `diva label`)"] if config.pass_rate else []
    given += ["--preset sft (rows with a worked solution)"] if config.preset == "sft" else []
    return f"no row fits: {' and '.join(given)}"


def _data_folder(out: Path, config: ExportConfig) -> str:
    """Return the path of the Parquet files in the exported folder."""
    if config.preset == "verifiers":
        return f"{module_name(out)}/data"
    return "" if config.preset == "easyr1" else "data"


def _notes(out: Path, config: ExportConfig, tally: Tally) -> tuple[str, ...]:
    notes = []
    if config.preset == "verifiers":
        notes.append(f"install it beside verifiers: pip install {out}")
    if config.preset == "verl":
        names = {config.data_source} if config.data_source else {data_source(name) for name in tally.sources}
        line = write_reward_file(out, filter(None, names))
        if line:
            notes.append(f"veRL has no rule for this data_source; ours: {line}")
        if "openai/gsm8k" in names:
            notes.append('veRL scores openai/gsm8k by the number after "####": ask for it with --instruction')
    if format_of(out, config) == "jsonl" and tally.images:
        notes.append(
            "the rows name their images by absolute paths: choose Parquet to move them to another machine"
        )
    return tuple(notes)


def _check(out: Path, config: ExportConfig) -> None:
    choices = [*TRAINING, *(name for name in view_names() if name not in TRAINING)]
    if config.what not in choices:
        raise ConfigError(f"--what {config.what}: choose from {', '.join(choices)}")
    if config.preset and config.what not in TRAINING:
        raise ConfigError(f"--preset {config.preset} goes with --what {', '.join(TRAINING)} only")
    if config.prompt == "text" and config.preset not in ("trl", "sft"):
        raise ConfigError("--prompt text goes with --preset trl and sft only")
    if config.data_source and config.preset != "verl":
        raise ConfigError("--data-source goes with --preset verl only")
    if config.preset == "verifiers":
        module_name(out)
        if format_of(out, config) != "hf":
            raise ConfigError(f"--preset verifiers writes a package: name a folder, not {out}")
    taken = [path for path in (out, *_companions(out)) if path.exists()]
    if taken:
        raise ConfigError(f"{taken[0]} exists already: choose another path, or delete it")


def _image_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.images")


def _companions(out: Path) -> list[Path]:
    """Return the paths that an export may write next to its file or folder."""
    return [_image_folder(out), card_beside(out)]


@contextmanager
def _appearing(out: Path) -> Iterator[Path]:
    """Give a temporary path to write to. It is renamed to `out` at the end, or removed after an error."""
    path = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield path
        for written, target in zip(_companions(path), _companions(out), strict=True):
            if written.exists():
                written.replace(target)
        path.replace(out)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        for left in (path, *_companions(path)):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)


def _split_name(split: str) -> str:
    """Return the name of a split with only characters that `datasets` accepts."""
    return re.sub(r"\W", "_", split) or "_"


def _named(splits: dict[str, int]) -> dict[str, int]:
    return {_split_name(split): rows for split, rows in splits.items()}


def _write_folder(
    chosen: Selection,
    data: Path,
    config: ExportConfig,
    tally: Tally,
    progress: Progress,
) -> Shape | None:
    data.mkdir(parents=True)
    if not chosen.is_training:
        for done in write_batches(data / "train-00000-of-00001.parquet", chosen.batches("train"), "parquet"):
            progress(done)
        return None
    shape = _shape(chosen, config)
    schema = shape.features().arrow_schema
    for split, count in chosen.splits.items():
        shards = -(-count // config.shard_rows)
        # File names contain the number of files, from the count before writing. Rows that were added since then go
        # into the last file.
        writer: Writer | None = None
        for index, row in enumerate(chosen.rows(split)):
            shard, first = divmod(index, config.shard_rows)
            if first == 0 and shard < shards:
                if writer:
                    writer.close()
                name = f"{_split_name(split)}-{shard:05d}-of-{shards:05d}.parquet"
                writer = ParquetWriter(data / name, schema)
            assert writer is not None
            writer.write(*shape.row(row, index))
            tally.add(_split_name(split), row)
            _tell_some(progress, index)
        if writer:
            writer.close()
    return shape


def _write_file(
    chosen: Selection,
    path: Path,
    out: Path,
    config: ExportConfig,
    tally: Tally,
    progress: Progress,
) -> None:
    if not chosen.is_training:
        for done in write_batches(path, chosen.batches("train"), format_of(out, config)):
            progress(done)
        return
    shape = _shape(chosen, config)
    writer: Writer
    if format_of(out, config) == "jsonl":
        writer = JsonWriter(path, _image_folder(path), shape.with_images, _image_folder(out.resolve()))
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
    return Shape(config.preset, chosen.with_images, config.prompt, config.instruction, config.data_source)


def _tell_some(progress: Progress, index: int) -> None:
    if index % _PROGRESS_ROWS == _PROGRESS_ROWS - 1:
        progress(_PROGRESS_ROWS)
