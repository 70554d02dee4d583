"""Write the project's own problems, in formats that users bring.

    python data/scripts/make_problems.py            writes them beside this script
    python data/scripts/make_problems.py --check    fails if what lies there differs from what would be written

Everything follows from the seeds below and the pinned versions of reasoning-gym and Pillow. What each file
holds stands in data/README.md.
"""

import argparse
import json
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import reasoning_gym
from draw_figures import FAMILIES
from PIL import Image

from diva_grpo.flows.demo.sums import ChainedSum

HERE = Path(__file__).parents[1]

WORD_SEED = 2603
WORD_PROBLEMS = 120
PROBLEMS_PER_TEMPLATE = 3
# fmt: off
WORD_TEMPLATES = frozenset([
    0, 1, 3, 4, 5, 7, 8, 9, 10, 12, 13, 16, 17, 18, 19, 24, 26, 29, 30, 33, 34, 36, 39, 41, 42, 43,
    45, 47, 50, 54, 56, 57, 59, 62, 64, 66, 67, 69, 71, 72, 78, 80, 83, 88, 91, 94, 96, 99,
])
# fmt: on
"""The templates of gsm_symbolic that were read and found sound. The others have, for some draws, a garbled
text ("for 2 the amount of time"), a fraction of sixteen digits, or a worked step that does not follow."""

# reasoning-gym draws item i of a dataset from seed + i: seeds closer than a dataset's size would share items.
SHORT_SUMS_SEED, LONG_SUMS_SEED, TEST_SUMS_SEED, SHUFFLE_SEED = 100_000, 200_000, 300_000, 1
FIGURE_SEED = 20_260
FIGURES_PER_FAMILY = 20

SUMS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),
        ("steps", pa.list_(pa.string())),
        ("terms", pa.int64()),
        ("params", pa.string()),
    ]
)

_INSTRUCTION = " Give the result as your final answer. Do not include units."
_LONG_FRACTION = re.compile(r"\d\.\d{3,}")


def word_problems() -> Iterator[dict[str, Any]]:
    """Yield word problems in GSM8K's format: ``question``, and ``answer`` with its steps and "#### 18"."""
    size = 10 * WORD_PROBLEMS
    dataset = reasoning_gym.create_dataset("gsm_symbolic", seed=WORD_SEED, size=size)
    taken: Counter[int] = Counter()
    questions: set[str] = set()
    for index in range(size):
        template = dataset.task_indices[index]
        if template not in WORD_TEMPLATES or taken[template] == PROBLEMS_PER_TEMPLATE:
            continue
        item = dataset[index]
        question = item["question"].removesuffix(_INSTRUCTION)
        steps = _worked_steps(item["metadata"]["answer_cot"])
        if question in questions or _LONG_FRACTION.search(question + "".join(steps)):
            continue
        questions.add(question)
        taken[template] += 1
        yield {
            "question": question,
            "answer": "\n".join([*steps, f"#### {item['answer']}"]),
            "params": {
                "generator": "reasoning_gym gsm_symbolic",
                "seed": WORD_SEED,
                "index": index,
                "difficulty": item["metadata"]["difficulty"],
                "template": template,
            },
        }
        if len(questions) == WORD_PROBLEMS:
            return
    raise RuntimeError(f"{size} draws gave only {len(questions)} word problems")


def sums() -> tuple[pa.Table, pa.Table]:
    """Return the chained sums to train on and those held out, which have no text in common."""
    seen: set[str] = set()
    short = list(_sums(SHORT_SUMS_SEED, (2, 5), 300, seen))
    long = list(_sums(LONG_SUMS_SEED, (6, 8), 300, seen))
    train = short + long
    random.Random(SHUFFLE_SEED).shuffle(train)
    test = list(_sums(TEST_SUMS_SEED, (6, 8), 200, seen))
    return _numbered(train, "sum"), _numbered(test, "sum-test")


def figures() -> Iterator[tuple[dict[str, Any], Image.Image]]:
    """Yield the records of the problems with figures, each with its drawing."""
    number, seed = 0, FIGURE_SEED
    for family, kinds in FAMILIES.items():
        problems: set[tuple[str, str]] = set()
        while len(problems) < FIGURES_PER_FAMILY:
            draw = kinds[len(problems) % len(kinds)]
            figure = draw(random.Random(seed))
            seed += 1
            if (figure.problem, figure.answer) in problems:
                continue
            problems.add((figure.problem, figure.answer))
            number += 1
            params = {"family": family, "kind": draw.__name__, "seed": seed - 1, **figure.params}
            record = {
                "id": f"figure-{number:02}",
                "problem": figure.problem,
                "answer": figure.answer,
                "images": [f"figures/figure-{number:02}.png"],
                "steps": figure.steps,
                "params": params,
            }
            yield record, figure.image


def write(folder: Path) -> None:
    """Write every file of problems into ``folder``."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    _write_jsonl(folder / "word_problems.jsonl", list(word_problems()))
    train, test = sums()
    pq.write_table(train, folder / "sums_train.parquet")
    pq.write_table(test, folder / "sums_test.parquet")
    records = []
    for record, image in figures():
        image.save(folder / record["images"][0], optimize=True)
        records.append(record)
    _write_jsonl(folder / "figures.jsonl", records)


def differences(folder: Path) -> list[str]:
    """Return the files below ``folder`` that differ from what the script writes, each with a reason.

    Parquet files are compared as tables and images as pixels, since their bytes depend on the versions of the
    libraries that compress them.
    """
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        write(fresh)
        expected = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
        stray = {path.relative_to(folder) for path in (folder / "figures").glob("*")} - expected
        found = [f"{path}: not written by this script" for path in sorted(stray)]
        for path in sorted(expected):
            if not (folder / path).is_file():
                found.append(f"{path}: missing")
            elif not _same(folder / path, fresh / path):
                found.append(f"{path}: differs")
    return found


def main() -> int:
    """Write the problems, or check those that are there; return the exit status."""
    parser = argparse.ArgumentParser(description="Write the project's own problems.")
    parser.add_argument(
        "--check", action="store_true", help="compare with the files in place and write nothing"
    )
    parser.add_argument(
        "--folder", type=Path, default=HERE, help="where the problems lie (default: beside the script)"
    )
    arguments = parser.parse_args()
    if not arguments.check:
        write(arguments.folder)
        return 0
    found = differences(arguments.folder)
    print("\n".join(found) or "all files are as the script writes them")
    return 1 if found else 0


def _worked_steps(solution: str) -> list[str]:
    """Split a worked solution into its lines, less the last one with the answer."""
    lines = [line.strip() for line in solution.splitlines()]
    return [line for line in lines if line and not line.startswith("####")]


def _sums(seed: int, lengths: tuple[int, int], count: int, seen: set[str]) -> Iterator[dict[str, Any]]:
    """Yield ``count`` sums without a negative total whose text is not in ``seen``, and add their texts to it."""
    size = 4 * count
    dataset = reasoning_gym.create_dataset(
        "chain_sum",
        min_terms=lengths[0],
        max_terms=lengths[1],
        min_digits=2,
        max_digits=2,
        seed=seed,
        size=size,
    )
    end = len(seen) + count
    for index in range(size):
        drawn = ChainedSum.parse(dataset[index]["metadata"]["expression"])
        if min(drawn.totals) < 0 or drawn.problem in seen:
            continue
        seen.add(drawn.problem)
        yield {
            "problem": drawn.problem,
            "answer": drawn.answer,
            "steps": drawn.steps,
            "terms": len(drawn.terms),
            "params": json.dumps({"generator": "reasoning_gym chain_sum", "seed": seed, "index": index}),
        }
        if len(seen) == end:
            return
    raise RuntimeError(f"{size} draws gave fewer than {count} new sums")


def _numbered(rows: list[dict[str, Any]], prefix: str) -> pa.Table:
    numbered = [{"id": f"{prefix}-{number:04}", **row} for number, row in enumerate(rows, start=1)]
    return pa.Table.from_pylist(numbered, schema=SUMS_SCHEMA)


def _write_jsonl(path: Path, records: list[dict[str, Any]]) -> None:
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")


def _same(one: Path, other: Path) -> bool:
    if one.suffix == ".parquet":
        return bool(pq.read_table(one).equals(pq.read_table(other)))
    if one.suffix == ".png":
        with Image.open(one) as left, Image.open(other) as right:
            return left.size == right.size and left.convert("RGB").tobytes() == right.convert("RGB").tobytes()
    return one.read_bytes() == other.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
