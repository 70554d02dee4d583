"""Write the dataset card of an export: the sources of its rows, their licences, and the checks they passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import yaml
from tabulate import tabulate

from diva_grpo.pipeline.export.rows import TrainingRow
from diva_grpo.pipeline.export.shapes import Shape
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.store.queries import answer
from diva_grpo.schemas.config import ExportConfig
from diva_grpo.schemas.records import LICENSE_SETTING

UNKNOWN = "unknown"
# https://huggingface.co/docs/hub/datasets-cards: size categories are powers of ten up to a trillion.
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")


def licenses(store: VariantStore) -> dict[str, str]:
    """Return the licence of each source in the store; `unknown` if none was given at `diva ingest`."""
    rows = store.query(
        "SELECT DISTINCT p.source, coalesce(s.value, ?) FROM problems p "
        "LEFT JOIN settings s ON s.name = ? || p.source ORDER BY p.source",
        [UNKNOWN, LICENSE_SETTING],
    )
    return dict(rows)


@dataclass
class Tally:
    """Counts of the exported rows, updated after each row.

    Attributes:
        kinds: rows by (split, kind).
        sources: rows by source.
        makers: variants by (kind, model, prompt version).
        images: number of images.
    """

    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    makers: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    images: int = 0

    def add(self, split: str, row: TrainingRow) -> None:
        """Count a row of a split."""
        values = row.values
        self.kinds[split, values["kind"]] += 1
        self.sources[values["source"]] += 1
        self.images += len(row.pictures)
        if values["generator_model"] is not None:
            self.makers[values["kind"], values["generator_model"], values["prompt_version"]] += 1

    def splits(self) -> dict[str, int]:
        """Return the number of rows of each split."""
        found: Counter[str] = Counter()
        for (split, _), rows in self.kinds.items():
            found[split] += rows
        return dict(found)


def card(
    store: VariantStore,
    name: str,
    config: ExportConfig,
    shape: Shape | None,
    tally: Tally,
    splits: Mapping[str, int],
    data: str,
) -> str:
    """Return the text of the README.md of a dataset folder: the metadata for the hub, then tables for readers.

    Args:
        store: the store.
        name: name of the data set.
        config: settings of the export.
        shape: columns of the rows; None if a view is exported.
        tally: counts of the exported rows; empty for a view.
        splits: number of rows of each split.
        data: path of the Parquet files in the folder.
    """
    known = {source: licence for source, licence in licenses(store).items() if source in tally.sources}
    metadata = {
        "pretty_name": name,
        "license": _licence_tag(set(known.values())),
        "task_categories": ["image-text-to-text" if tally.images else "text-generation"],
        "size_categories": [_size(sum(splits.values()))],
        "tags": ["math", "grpo", "diva-grpo"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": str(PurePosixPath(data, f"{split}-*"))} for split in splits
                ],
            }
        ],
    }
    sections = [f"# {name}\n\n{_opening(config, splits)}"]
    if shape is not None:
        columns = list(shape.descriptions.items())
        sections += [
            _section(
                "Rows", ["split", "kind", "rows"], [[*key, n] for key, n in sorted(tally.kinds.items())]
            ),
            _section("Columns", ["column", "meaning"], columns),
            _section(
                "Sources and licences",
                ["source", "rows", "licence"],
                [[source, n, known.get(source, UNKNOWN)] for source, n in sorted(tally.sources.items())],
            ),
            _section(
                "Who wrote the variants",
                ["kind", "model", "prompt", "variants"],
                [[*key, n] for key, n in sorted(tally.makers.items())],
            ),
            _checks(store),
        ]
    header = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def card_beside(folder: Path) -> Path:
    """Return the path of the card for EasyR1: outside of the folder, because EasyR1 reads every file in it as data."""
    return folder.with_name(f"{folder.name}.README.md")


def _opening(config: ExportConfig, splits: Mapping[str, int]) -> str:
    rows = ", ".join(f"{n:,} rows in `{split}`" for split, n in splits.items()) or "No row"
    form = f"in the columns that {config.preset} reads" if config.preset else "with all columns"
    condition = f" where `{config.where}`" if config.where else ""
    return (
        f"{rows}, {form} (`{config.what}`{condition}), exported from a variant store by diva-grpo "
        f"{version('diva-grpo')}. Variants keep the answer of their problem; only those that passed every check "
        "are here."
    )


def _section(title: str, headers: list[str], rows: Sequence[Sequence[object]]) -> str:
    table = tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
    return f"## {title}\n\n{table}" if rows else ""


def _checks(store: VariantStore) -> str:
    """Return a table of the pass rates of the checks.

    It counts all variants of the store, because the exported rows do not include rejected ones.
    """
    table = [
        [row["check_name"], row["model"] or "(none)", row["verdicts"], row["pass_rate"]]
        for row in answer(store, "checks")
    ]
    return _section(
        "Checks, over all candidates of the store", ["check", "model", "verdicts", "pass rate"], table
    )


def _licence_tag(found: set[str]) -> str | list[str]:
    """Return the value of `license` in the card's metadata: one licence or a list; `unknown` if one is unknown."""
    if not found or UNKNOWN in found:
        return UNKNOWN
    return next(iter(found)) if len(found) == 1 else sorted(found)


def _size(rows: int) -> str:
    for exponent, name in enumerate(_SIZES, start=3):
        if rows < 10**exponent:
            return name
    return "n>1T" if rows >= 10**12 else "1B<n<10B"
