"""Rows a second and peak memory of exports from a large store.

python tests/bench/bench_export.py --problems 200000 --variants 5 --format hf --preset trl
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from diva_grpo.pipeline.export import export
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import ExportConfig
from diva_grpo.schemas.records import Problem, Variant

CHUNK = 5_000


def fill(root: Path, problems: int, variants: int, characters: int) -> VariantStore:
    """A store of that size, in parts of `CHUNK` problems."""
    store = VariantStore(root, create=True)
    for start in range(0, problems, CHUNK):
        numbers = range(start, min(start + CHUNK, problems))
        store.append_columns(Problem, [_problems(numbers, characters)])
        store.append_columns(Variant, [_variants(numbers, variants, characters)])
    return store


def _text(number: int, characters: int) -> str:
    return (f"What is {number} + 1? " * (characters // 15 + 1))[:characters]


def _problems(numbers: range, characters: int) -> dict[str, Any]:
    count = len(numbers)
    return {
        **_columns(Problem, count),
        "problem_id": [f"b/{n}" for n in numbers],
        "source": "b",
        "split": "train",
        "text": [_text(n, characters) for n in numbers],
        "answer": [str(n + 1) for n in numbers],
    }


def _variants(numbers: range, variants: int, characters: int) -> dict[str, Any]:
    count = len(numbers) * variants
    return {
        **_columns(Variant, count),
        "variant_id": [f"b/{n}:reword:{i}" for n in numbers for i in range(variants)],
        "problem_id": [f"b/{n}" for n in numbers for _ in range(variants)],
        "kind": "reword",
        "text": [_text(n, characters) for n in numbers for _ in range(variants)],
        "delta_designed": [0.0] * count,
        "status": "accepted",
        "generator_model": "bench",
        "prompt_version": "bench-1",
    }


def _columns(record: Any, count: int) -> dict[str, Any]:
    """Default values of a record's columns."""
    return {
        name: [field.get_default(call_default_factory=True)] * count
        for name, field in record.model_fields.items()
        if not field.is_required()
    }


def main() -> None:
    """Fill a store, export it, print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=20_000)
    parser.add_argument("--variants", type=int, default=5, help="accepted variants a problem")
    parser.add_argument("--characters", type=int, default=400, help="of each text")
    parser.add_argument("--format", default="hf", choices=["hf", "parquet", "jsonl"])
    parser.add_argument("--preset", default="trl", choices=["trl", "verl", "easyr1"])
    parser.add_argument("--what", default="training", choices=["training", "variants", "problems"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = fill(Path(folder) / "store", given.problems, given.variants, given.characters)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        config = ExportConfig(format=given.format, preset=given.preset, what=given.what)
        report = export(store, Path(folder) / "out", config)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows = sum(report.rows.values())
        print(
            f"{given.format} {given.preset}: {rows} rows in {seconds:.1f} s ({rows / seconds:,.0f} rows/s), "
            f"peak memory {peak:.0f} MiB ({before:.0f} MiB before the export)"
        )


if __name__ == "__main__":
    main()
