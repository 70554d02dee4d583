"""Layouts of sources as they are published, a small file of each; the table of the docs is made from them.

python -m tests.support.source_layouts > docs/layouts.md
"""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from tabulate import tabulate

from tests.support.source_files import png

ROWS = [
    {"problem": "A box holds 4 jars. How many jars do 2 boxes hold?", "answer": "8"},
    {"problem": "A box holds 4 jars. How many jars do 3 boxes hold?", "answer": "12"},
]
TEXTS = tuple((row["problem"], row["answer"]) for row in ROWS)
FIGURE = {"bytes": png(40, 30), "path": None}


@dataclass(frozen=True)
class Case:
    """A layout.

    Attributes:
        title: for the docs.
        file: its name.
        content: of the file: rows, which are written by the file's ending, or its bytes.
        says: beginning of the line that `diva ingest` says.
        expected: question and answer of each problem.
        images: in each problem.
        flags: of the command.
        about: what the docs say of it.
    """

    title: str
    file: str
    content: Any
    says: str = "read as plain: --problem-column problem --answer-column answer"
    expected: tuple[tuple[str, str], ...] = TEXTS
    images: int = 0
    flags: tuple[str, ...] = ()
    about: str = ""

    def write(self, folder: Path) -> Path:
        """Write the file; returns its path."""
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            _WRITERS[path.suffix](path, self.content)
        return path


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _arrow(path: Path, rows: list[dict[str, Any]]) -> None:
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


_WRITERS: dict[str, Callable[[Path, Any], Any]] = {
    ".jsonl": lambda path, rows: path.write_bytes(_lines(rows)),
    ".json": lambda path, value: path.write_text(json.dumps(value), encoding="utf-8"),
    ".parquet": lambda path, rows: pq.write_table(
        rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), path
    ),
    ".arrow": _arrow,
    "": lambda path, data: data.save_to_disk(str(path)),
}


def _chat(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Think."}, {"role": "user", "content": question}]


def _verl(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {
        "data_source": "mine",
        "prompt": _chat(question),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        **more,
    }


_SOLVED = [f"We count.\nSo it is $\\boxed{{{answer}}}$." for _, answer in TEXTS]
_CSV = "problem;answer\n" + "".join(f"{problem};{answer}\n" for problem, answer in TEXTS)
_COLUMNS = {name: [row[name] for row in ROWS] for name in ("problem", "answer")}
_PICTURED = (("<image>Find x.", "3"),)
_CLASSES = datasets.Dataset.from_dict(
    {"problem": ["Which is even, A 1 or B 2?"], "answer": [1]},
    features=datasets.Features(
        problem=datasets.Value("string"), answer=datasets.ClassLabel(names=["A", "B"])
    ),
)
_FLOATS = pa.table(
    {
        "problem": ["What is 1 / 10?", "What is 22 / 7, to 2 places?"],
        "answer": pa.array([0.1, 3.14], pa.float32()),
    }
)
_CHOICE = (("Which is even?", "B"),)

CASES = (
    Case("JSON Lines", "mine.jsonl", ROWS, about="also `.ndjson`"),
    Case("JSON Lines, compressed", "mine.jsonl.gz", gzip.compress(_lines(ROWS))),
    Case("the same", "mine.jsonl.bz2", bz2.compress(_lines(ROWS))),
    Case("the same", "mine.ndjson.xz", lzma.compress(_lines(ROWS))),
    Case("JSON array", "mine.json", ROWS),
    Case("JSON, rows under a key", "mine.json", {"version": "1", "data": ROWS}),
    Case(
        "JSON, a key for each split",
        "mine.json",
        {"train": ROWS[:1], "test": ROWS[1:]},
        about="the keys are splits",
    ),
    Case("JSON, columns of lists", "mine.json", _COLUMNS),
    Case(
        "JSON, columns by row number",
        "mine.json",
        {k: dict(enumerate(v)) for k, v in _COLUMNS.items()},
        about="pandas",
    ),
    Case("JSON, rows by id", "mine.json", {"a": ROWS[0], "b": ROWS[1]}),
    Case(
        "UTF-16",
        "mine.jsonl",
        _lines(ROWS).decode().encode("utf-16"),
        about="by its first bytes; UTF-32, too",
    ),
    Case("CSV with semicolons", "mine.csv", _CSV.encode(), about="also `,`, tabs and `|`, by the header"),
    Case("TSV", "mine.tsv", _CSV.replace(";", "\t").encode()),
    Case("Parquet", "mine.parquet", ROWS),
    Case("Arrow", "mine.arrow", ROWS, about="stream or file"),
    Case(
        "Parquet, float32",
        "mine.parquet",
        _FLOATS,
        expected=(("What is 1 / 10?", "0.1"), ("What is 22 / 7, to 2 places?", "3.14")),
    ),
    Case(
        "saved by `datasets`, class labels",
        "saved",
        _CLASSES,
        expected=(("Which is even, A 1 or B 2?", "B"),),
        about="names, not codes",
    ),
    Case(
        "veRL, DAPO-Math-17k",
        "mine.parquet",
        [_verl(*pair) for pair in TEXTS],
        "read as verl: --preset verl --problem-column prompt --answer-column reward_model.ground_truth",
    ),
    Case(
        "veRL with images",
        "mine.parquet",
        [
            _verl(
                "<image>Find x. Box it.",
                "3",
                images=[FIGURE],
                extra_info={"question": "<image>Find x.", "split": "train"},
            )
        ],
        "read as verl: --preset verl --problem-column extra_info.question",
        _PICTURED,
        1,
        about="the question without the prompt's instruction, where it is there",
    ),
    Case(
        "TRL",
        "mine.jsonl",
        [{"prompt": _chat(problem), "answer": answer} for problem, answer in TEXTS],
        "read as trl: --preset trl --problem-column prompt --answer-column answer",
    ),
    Case(
        "TRL, solution",
        "mine.jsonl",
        [{"prompt": _chat(problem), "solution": f"${answer}$"} for problem, answer in TEXTS],
        "read as trl: --preset trl --problem-column prompt --answer-column solution",
        tuple((problem, f"${answer}$") for problem, answer in TEXTS),
    ),
    Case(
        "prompt and completion",
        "mine.jsonl",
        [{"prompt": row["problem"], "completion": solved} for row, solved in zip(ROWS, _SOLVED, strict=True)],
        "read as sft: --preset sft --problem-column prompt --answer-column completion",
        about="the answer is in the completion's last box",
    ),
    Case(
        "conversations (messages)",
        "mine.jsonl",
        [
            {"messages": [*_chat(row["problem"]), {"role": "assistant", "content": solved}]}
            for row, solved in zip(ROWS, _SOLVED, strict=True)
        ],
        "read as messages: --preset messages",
        about="of one question; the answer is in the reply's last box",
    ),
    Case(
        "ShareGPT",
        "mine.json",
        [
            {"conversations": [{"from": "human", "value": row["problem"]}, {"from": "gpt", "value": solved}]}
            for row, solved in zip(ROWS, _SOLVED, strict=True)
        ],
        "read as sharegpt: --preset sharegpt",
        about="likewise",
    ),
    Case(
        "MATH",
        "mine.jsonl",
        [
            {"problem": row["problem"], "level": level, "type": "Algebra", "solution": solved}
            for row, solved, level in zip(ROWS, _SOLVED, ("Level 2", "Hard"), strict=True)
        ],
        "read as math: --preset math --problem-column problem --answer-column solution --level-column level",
        about="the answer is in the solution's last box; a level that is no number is none",
    ),
    Case(
        "GSM8K",
        "mine.jsonl",
        [{"question": row["problem"], "answer": f"We count.\n#### {row['answer']}"} for row in ROWS],
        "read as gsm8k: --preset gsm8k --problem-column question --answer-column answer",
    ),
    Case(
        "nested answer",
        "mine.parquet",
        [{"problem": row["problem"], "reward": {"truth": row["answer"]}} for row in ROWS],
        "read as plain: --problem-column problem --answer-column reward.truth",
        flags=("--answer-column", "reward.truth"),
        about="a dotted name leads into a nested column",
    ),
    Case(
        "options by letter",
        "mine.jsonl",
        [{"question": "Which is even?", "answer": "B", "options": {"A": "3", "B": "4"}}],
        "read as plain: --problem-column question --answer-column answer --options-column options",
        _CHOICE,
    ),
    Case(
        "options in one text",
        "mine.jsonl",
        [{"question": "Which is even?", "answer": "B", "options": "(A) 3 (B) 4"}],
        "read as plain:",
        _CHOICE,
        about="`A. 3; B. 4`, too",
    ),
    Case(
        "options with labels",
        "mine.jsonl",
        [{"question": "Which is even?", "answer": "2", "choices": {"text": ["3", "4"], "label": ["1", "2"]}}],
        "read as plain:",
        _CHOICE,
        about="the answer is a label",
    ),
    Case(
        "options by number",
        "mine.jsonl",
        [{"question": "Which is even?", "answer": 1, "options": ["3", "4"]}],
        "read as plain:",
        _CHOICE,
        flags=("--answer-index", "0"),
        about="the answer counts the options, from 0 or 1",
    ),
    Case(
        "image bytes",
        "mine.parquet",
        [{"problem": "<image>Find x.", "answer": "3", "image": FIGURE}],
        "read as plain: --problem-column problem --answer-column answer --images-column image",
        _PICTURED,
        1,
    ),
    Case(
        "image in base64",
        "mine.jsonl",
        [{"problem": "<image>Find x.", "answer": "3", "image": base64.b64encode(png(40, 30)).decode()}],
        "read as plain:",
        _PICTURED,
        1,
    ),
    Case(
        "images as data URIs",
        "mine.jsonl",
        [
            {
                "problem": "<image>Find x.",
                "answer": "3",
                "images": ["data:image/png;base64," + base64.b64encode(png(40, 30)).decode()],
            }
        ],
        "read as plain:",
        _PICTURED,
        1,
    ),
    Case(
        "no image in a column of images",
        "mine.parquet",
        [
            {"problem": "<image>Find x.", "answer": "3", "image": FIGURE},
            {**ROWS[0], "image": {"bytes": None, "path": None}},
        ],
        "read as plain:",
        (*_PICTURED, TEXTS[0]),
    ),
)
"""A case for each layout. Of the last one the images differ by row, so they are not counted."""


def table() -> str:
    """The page of the docs."""
    rows = []
    for case in CASES:
        flags = f" `{' '.join(case.flags)}`" if case.flags else ""
        columns = case.says.removeprefix("read as ").partition(":")[0]
        rows.append([case.title, f"`{case.file}`{flags}", columns, case.about])
    grid = tabulate(rows, headers=["layout", "file and flags", "read as", "notes"], tablefmt="github")
    return f"{_OPENING}\n{grid}\n\n{_CLOSING}"


_OPENING = """# Layouts that `diva ingest` reads

The layout is recognised from the columns of the first rows and said in one line, in the flags that would say the same.
`--preset` and flags override it, and `diva ingest SOURCE --preview 3` shows what comes of it before anything is
written. Each row of this table is a test (`tests/support/source_layouts.py`), and the table is made from these tests.
"""
_CLOSING = """The split of a row is the one that its column, the name of its file or a folder of its path states
(`default/test/0000.parquet`, `gsm8k_test.csv`), else `train`; `--split` overrides. What `diva export` writes is read
back: the originals become problems, rows of variants become rejects that say so.
"""

if __name__ == "__main__":
    print(table(), end="")
