"""Environments by the interface of `verifiers` 0.1, which SkyRL and tinker-cookbook load (0.4: `hosts.verifiers`).

The package that `diva export OUT --preset verifiers` writes calls `environment` in its function `load_environment`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import verifiers as vf
from datasets import Dataset

from diva_grpo.pipeline.grade import grade
from diva_grpo.trainer.hosts.exported import Row, rows


def environment(
    folder: Path,
    split: str = "train",
    kinds: Sequence[str] = (),
    hint_steps: Sequence[int] = (),
    **options: Any,
) -> vf.SingleTurnEnv:
    """Return an environment with one task per row of an export.

    Args:
        folder: folder of the Parquet files.
        split: split of the problems.
        kinds: kinds to load, such as `original` and `think_step`; all if empty.
        hint_steps: of the variants with a hint, only those with one of these numbers of steps; all if empty.
        options: those of `vf.SingleTurnEnv`, such as `system_prompt`.

    Raises:
        ConfigError: see `exported.rows`.
    """
    found = list(rows(folder, split, kinds, hint_steps))
    in_parts = any(not isinstance(row.content, str) for row in found)  # a column has one type
    dataset = Dataset.from_list([_task(row, in_parts) for row in found])
    return vf.SingleTurnEnv(dataset=dataset, rubric=vf.Rubric(funcs=[accuracy]), **options)


async def accuracy(completion: Any, answer: str, info: dict[str, Any], parser: vf.Parser) -> float:
    """Return 1 if the last reply is right, 0 if it is wrong.

    Raises:
        ValueError: the grader could not decide. `verifiers` 0.1 logs it, and counts 0.
    """
    reply = parser.parse_answer(completion) or ""
    found = await asyncio.to_thread(grade, reply, answer, options=info["options"])
    if found.score is None:
        raise ValueError(f"the grader could not decide: {found.how}")
    return found.score


def _task(row: Row, in_parts: bool) -> dict[str, Any]:
    content = (
        [{"type": "text", "text": row.content}] if in_parts and isinstance(row.content, str) else row.content
    )
    info = {"id": row.id, **row.facts}
    return {"prompt": [{"role": "user", "content": content}], "answer": row.answer, "info": info}
