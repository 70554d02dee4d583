"""Which output mode loses least on a model: answers that can be read, and LaTeX that came through.

    python -m tests.bench.output_modes --base-url http://127.0.0.1:8000/v1 --model NAME --problems 50

Asks for one rewording of each of the first problems of MathVision (DIVA_REAL_DATA) that have a LaTeX command, in each
mode by turns. A text is damaged if it has control characters, or if its backslashes are still those of JSON. Prints a
table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

from tabulate import tabulate

from diva_grpo.pipeline.quantities.escapes import damage, is_escaped
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.client import Teacher
from diva_grpo.pipeline.teacher.prompts import load_prompt
from diva_grpo.schemas.config import OutputMode, TeacherConfig
from diva_grpo.schemas.replies import Answer, Rewordings
from tests.support.sessions import ask

MODES: tuple[OutputMode, ...] = ("json_schema", "json_object", "text", "delimited")


def latex_problems(number: int) -> list[str]:
    """The first problems that have a LaTeX command."""
    lines = (Path(os.environ["DIVA_REAL_DATA"]) / "mathvision/problems.jsonl").read_text("utf-8").splitlines()
    texts = (json.loads(line)["question"] for line in lines)
    return [text for text in texts if re.search(r"\\[a-z]{2,}", text)][:number]


def is_damaged(text: str) -> bool:
    """Whether LaTeX was lost in a text, or stands there as a model escaped it."""
    return damage(text) is not None or is_escaped(text)


async def _reword(problem: str, teacher: Teacher) -> Answer[Rewordings]:
    values: dict[str, object] = {"problem": problem, "count": 1, "existing": ""}
    return await teacher.ask(
        load_prompt("reword"), values, purpose="bench", problem_id=problem, shape=Rewordings
    )


def figures(answers: list[Answer[Rewordings]]) -> dict[str, object]:
    """What came of the answers of one mode."""
    texts = [text for answer in answers if answer.value for text in answer.value.rewordings]
    failures = Counter(answer.failure.split(":")[0] for answer in answers if answer.failure)
    return {
        "asked": len(answers),
        "read": sum(answer.value is not None for answer in answers),
        "failures": ", ".join(f"{n} {kind}" for kind, n in failures.most_common()),
        "texts": len(texts),
        "with a command": sum("\\" in text for text in texts),
        "damaged": sum(is_damaged(text) for text in texts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--problems", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--concurrency", type=int, default=4)
    given = parser.parse_args()
    problems, rows = latex_problems(given.problems), []
    for mode in MODES:
        with tempfile.TemporaryDirectory() as folder:
            config = TeacherConfig(
                model=given.model,
                base_url=given.base_url,
                max_tokens=given.max_tokens,
                concurrency=given.concurrency,
                timeout_s=600,
                output_mode=mode,
            )
            store = VariantStore(Path(folder) / "store", create=True)
            rows.append({"mode": mode} | figures(ask(store, config, [partial(_reword, p) for p in problems])))
        print(json.dumps(rows[-1]), flush=True)
    print(tabulate(rows, headers="keys"))


if __name__ == "__main__":
    main()
