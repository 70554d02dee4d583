"""What tests of the verbs share: settings of an endpoint, planted variants, and counts of what is in a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import GenerateConfig, TeacherConfig
from diva_grpo.schemas.records import Kind, Variant
from tests.support.endpoints import Endpoint, completion

ALL_KINDS = GenerateConfig(kinds=(Kind.REWORD, Kind.HARDER, Kind.THINK_STEP))
REWORD = GenerateConfig(kinds=(Kind.REWORD,), rewordings=2)
WORDING = "Tom owns 3 apples and buys another 4. How many has he in the end?"
RIGHT, WRONG = completion("so \\boxed{7}"), completion("so \\boxed{8}")


def teacher_of(served: Endpoint, **values: Any) -> TeacherConfig:
    defaults = {"model": "m", "base_url": served.url, "max_retries": 0, "concurrency": 1, "endpoint": "test"}
    return TeacherConfig.model_validate(defaults | values)


def part_files(store: VariantStore, *tables: str) -> set[str]:
    return {path.name for table in tables for path in (store.root / table).iterdir()}


def variants_by(store: VariantStore, columns: str = "status, count(*)") -> list[tuple[Any, ...]]:
    return store.query(f"SELECT {columns} FROM variants GROUP BY ALL ORDER BY ALL")


def plant(store: VariantStore, number: int, text: str, kind: str = "reword", **values: Any) -> str:
    variant = Variant.model_validate(
        {
            "variant_id": f"w/0:{kind}:{number}",
            "problem_id": "w/0",
            "kind": kind,
            "text": text,
            "generator_model": "m",
            "prompt_version": "1",
        }
        | values
    )
    store.append([variant])
    return variant.variant_id


def plant_hint(store: VariantStore, number: int, hint: Sequence[str], total: int, answer: str = "7") -> str:
    text = store.problems(["w/0"])[0].text
    values = {"hint": list(hint), "hint_steps": len(hint), "hint_total": total, "solution_answer": answer}
    return plant(store, number, text, "think_step", **values)
