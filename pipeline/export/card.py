"""The dataset card: sources, checks and licences of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import PurePosixPath

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
    """Licence of each source of the store; `unknown` if `diva ingest` was given none."""
    rows = store.query(
        "SELECT DISTINCT p.source, coalesce(s.value, ?) FROM problems p "
        "LEFT JOIN settings s ON s.name = ? || p.source ORDER BY p.source",
        [UNKNOWN, LICENSE_SETTING],
    )
    return dict(rows)


@dataclass
class Tally:
    """Counts of the exported rows, updated row by row."""

    kinds: Counter[tuple[str, str]] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    makers: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    images: int = 0

    def add(self, split: str, row: TrainingRow) -> None:
        """Count a row."""
        values = row.values
        self.kinds[split, values["kind"]] += 1
        self.sources[values["source"]] += 1
        self.images += len(row.pictures)
        if values["generator_model"] is not None:
            self.makers[values["kind"], values["generator_model"], values["prompt_version"]] += 1

    def splits(self) -> dict[str, int]:
        """Rows by split."""
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
    """The README.md of a dataset folder: metadata of the hub, then tables for people.

    Args:
        store: the store.
        name: of the data set.
        config: of the export.
        shape: of the rows; None for a view as it is.
        tally: counts of the exported rows; empty for a view.
        splits: rows by split.
        data: path of the rows in the folder.
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
    """Pass rates of the checks over all variants of the store, because the rows do not show the rejected ones."""
    table = [
        [row["check_name"], row["model"] or "(none)", row["verdicts"], row["pass_rate"]]
        for row in answer(store, "checks")
    ]
    return _section(
        "Checks, over all candidates of the store", ["check", "model", "verdicts", "pass rate"], table
    )


def _licence_tag(found: set[str]) -> str | list[str]:
    """The licence in the hub's terms: one, several, or unknown if any licence is."""
    if not found or UNKNOWN in found:
        return UNKNOWN
    return next(iter(found)) if len(found) == 1 else sorted(found)


def _size(rows: int) -> str:
    for exponent, name in enumerate(_SIZES, start=3):
        if rows < 10**exponent:
            return name
    return "n>1T" if rows >= 10**12 else "1B<n<10B"
