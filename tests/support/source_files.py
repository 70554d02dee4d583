"""Sources of problems that tests write, and what became of them in a store."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PillowImage

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.mapping import ColumnMapping
from diva_grpo.schemas.records import Reject

WITH_ID = ColumnMapping(id="id")
FULL = ColumnMapping(
    id="id", images="image", options="options", solution="solution", level="level", split="part"
)


def png(width: int = 6, height: int = 4, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    PillowImage.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "problem": f"What is {i} + 1?\nSay “it”.", "answer": str(i + 1)}
        for i in range(start, start + count)
    ]


def write_jsonl(path: Path, content: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    return str(path)


def write_json(path: Path, content: list[dict[str, Any]]) -> str:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return str(path)


def write_csv(path: Path, content: list[dict[str, Any]]) -> str:
    with path.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(content[0]))
        writer.writeheader()
        writer.writerows(content)
    return str(path)


def write_parquet(path: Path, content: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(content), path, row_group_size=3)
    return str(path)


def write_saved(path: Path, content: list[dict[str, Any]]) -> str:
    datasets.Dataset.from_list(content).save_to_disk(str(path))
    return str(path)


def rejects(store: VariantStore) -> dict[int, str]:
    return {reject.row_number: reject.reason for reject in store.read(Reject)}


def parts(store: VariantStore) -> set[Path]:
    return set(store.root.rglob("*.parquet"))
