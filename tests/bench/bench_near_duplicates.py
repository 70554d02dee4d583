"""Time and memory of finding near duplicates across problems by MinHash.

DIVA_REAL_DATA=/path python -m tests.bench.bench_near_duplicates [texts]

The texts are reworded problems of GSM8K with numbers of their own, so that many differ in nothing else; of one in a
hundred a near copy is planted under another problem's name, with one word put in.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import sys
import time
from pathlib import Path

from diva_grpo.pipeline.checks import OtherProblems
from diva_grpo.schemas.records import Problem
from tests.bench.planted.rules import reworded


def main(size: int) -> None:
    """Fills an index, asks it for every planted copy and for as many sound texts, and prints what that cost."""
    rng = random.Random(0)
    path = Path(os.environ["DIVA_REAL_DATA"]) / "gsm8k" / "problems.jsonl"
    questions = [json.loads(line)["question"] for line in path.read_text().splitlines()]
    texts = []
    for i in range(size):
        text = reworded(questions[i % len(questions)], rng)
        text = re.sub(
            r"(?<![\w.,])[2-9]\d*(?![\w.,])", lambda m: str(rng.randrange(2, 10 * len(m.group()) ** 3)), text
        )
        texts.append((_problem(i), text))
    before = _resident()
    index = OtherProblems()
    started, cpu = time.perf_counter(), time.process_time()
    index.add(texts)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(
        f"{size} texts taken in: {wall:.1f} s ({cpu:.1f} s CPU), {_resident() - before:.0f} MiB more memory"
    )
    planted = rng.sample(texts, size // 100)
    started = time.perf_counter()
    found = sum(index.like(_with_a_word(text, rng), _problem(size)) is not None for _, text in planted)
    wall = time.perf_counter() - started
    print(f"near copies found: {found} of {len(planted)}, {1e3 * wall / len(planted):.2f} ms each")
    others = [re.sub(r"\d+", lambda m: str(int(m.group()) + 10_000), text, count=1) for _, text in planted]
    others = [text for text, (_, original) in zip(others, planted, strict=True) if text != original]
    hits = sum(index.like(text, _problem(size)) is not None for text in others)
    print(f"texts with one number changed taken for copies: {hits} of {len(others)}")


def _problem(number: int) -> Problem:
    return Problem(problem_id=f"p/{number}", source="p", split="train", text="?", answer="7")


def _with_a_word(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    place = rng.randrange(1, len(words))
    return " ".join([*words[:place], "indeed", *words[place:]])


def _resident() -> float:
    """The largest resident size so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
