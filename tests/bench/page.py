"""How large the page of a large store is, how long it takes to write, and to open in a real browser.

    python -m tests.bench.page [FOLDER [STORE]]

With STORE, it is the page of that store with its last training run, such as that of the demo. Else the store has
10,000 problems with 50,000 variants and two training runs, with texts made from those of GSM8K (DIVA_REAL_DATA) or of
the demo. With FOLDER, the store and its page stay there, and the store is made once.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from diva_grpo.flows.pages.page import write_report
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Label, Problem, Setting, Variant, Verdict
from tests.support.chromium import Browser, browser
from tests.support.pages import settle
from tests.support.store_records import label
from tests.support.training_rows import begin_run, evaluated, train_on

PROBLEMS, VARIANTS = 10_000, 5
STEPS, PROBLEMS_OF_A_STEP, LOGGED = 300, 16, 4
OPENINGS = 5
_CHECKS = ("format", "leak", "numbers", "duplicate", "answer")


class Writer:
    """Writes texts that read, and compress, about as those of a data set: each word follows the two before it there.

    Args:
        texts: of the data set.
        draw: random numbers.
    """

    def __init__(self, texts: Sequence[str], draw: random.Random) -> None:
        self._draw = draw
        self._next: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for text in texts:
            words = ["", "", *text.split()]
            for first, second, third in zip(words, words[1:], words[2:], strict=False):
                self._next[first, second].append(third)

    def text(self, length: int) -> str:
        """A text of some number of words."""
        words = ["", ""]
        while len(words) < length + 2:
            words.append(self._draw.choice(self._next.get((words[-2], words[-1])) or self._next["", ""]))
        return " ".join(words[2:])

    def reworded(self, text: str) -> str:
        """A text that keeps some sentences of another."""
        sentences = text.split(". ")
        return ". ".join(s if self._draw.random() < 0.3 else self.text(len(s.split())) for s in sentences)


def _texts() -> list[str]:
    """Questions and solutions of GSM8K where DIVA_REAL_DATA has them, else those of the demo."""
    real = os.environ.get("DIVA_REAL_DATA")
    path = (
        Path(real, "gsm8k/problems.jsonl")
        if real
        else Path(str(files("diva_grpo.data")), "word_problems.jsonl")
    )
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [row[name] for row in rows for name in ("question", "answer")]


def make_store(root: Path) -> VariantStore:
    """The store of the measurement."""
    draw = random.Random(1)
    writer = Writer(_texts(), draw)
    store = VariantStore(root, create=True)
    names = [f"math/{number:05d}" for number in range(PROBLEMS)]
    kinds = ("reword", "reword", "harder", "think_step", "think_step")
    common: dict[str, Any] = {"generator_model": "teacher", "prompt_version": "v"}
    variants: dict[str, list[str]] = {}
    for start in range(0, PROBLEMS, 1_000):
        some = names[start : start + 1_000]
        made = [Problem(problem_id=n, source="math", split="train", text=writer.text(45), answer="42",
                        solution_steps=[writer.text(12) for _ in range(4)]) for n in some]  # fmt: skip
        store.append(made)
        written = []
        for problem in made:
            ids = [f"{problem.problem_id}:{kind}:{number}" for number, kind in enumerate(kinds)]
            variants[problem.problem_id] = ids[:4]
            for number, (variant_id, kind) in enumerate(zip(ids, kinds, strict=True)):
                hinted = {
                    "hint": problem.solution_steps[: 1 + number - 3],
                    "hint_steps": number - 2,
                    "hint_total": 4,
                }
                bad = (
                    {"status": "rejected", "reason": "answer: 41"} if number == 4 else {"status": "accepted"}
                )
                written.append(Variant.model_validate({
                    "variant_id": variant_id, "problem_id": problem.problem_id, "kind": kind,
                    "text": problem.text if kind == "think_step" else writer.reworded(problem.text),
                    "delta_designed": 1.0 - number,
                    **(hinted if kind == "think_step" else {}), **bad, **common,
                }))  # fmt: skip
        store.append(written)
        store.append(
            [
                Verdict(variant_id=v.variant_id, check_name=name, passed=True)
                for v in written
                for name in _CHECKS
            ]
        )
        store.append(list[Label]([label(name, draw.randrange(9), 8) for name in some]))
        store.append(list[Label]([label(v.variant_id, draw.randrange(9), 8) for v in written]))
    store.append([Setting(name="label_model", value="policy")])
    for number, run in enumerate(("train-a", "train-b")):
        begin_run(store, run, number)
        visits = {
            step: {name: variants[name][:3] for name in draw.sample(names, PROBLEMS_OF_A_STEP)}
            for step in range(STEPS)
        }
        train_on(store, run, visits, samples=8, logged=LOGGED, completion=writer.text(60))
        evaluated(store, run, names[:200], [0, STEPS])
    return store


def _cpu_s(tab: Browser) -> float:
    """Seconds that the page's main thread has had of a CPU: other processes do not count."""
    return float(
        {one["name"]: one["value"] for one in tab("Performance.getMetrics")["metrics"]}["TaskDuration"]
    )


def main(folder: Path, root: Path | None = None) -> None:
    """Print the measurements.

    Args:
        folder: where the page is written.
        root: of the store; None: the large one in the folder, which is made if it is not there.
    """
    began = time.perf_counter()
    runs = ("train-a", "train-b") if root is None else ()
    root, page = root or folder / "store", folder / "page.html"
    store = VariantStore(root) if root.exists() else make_store(root)
    print(f"store made in {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    written = write_report(store, page, runs)
    print(f"page written in {time.perf_counter() - began:.1f} s: {written.size / 1e6:.2f} MB")
    print(f"{written.problems:,} problems, {written.detailed:,} of them with variants and rollouts")
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as tab:
        tab.screen(1440, 900)
        tab("Performance.enable", timeDomain="threadTicks")
        for _ in range(OPENINGS):
            tab.open("about:blank", "")
            before, began = _cpu_s(tab), time.perf_counter()
            tab("Page.navigate", url=page.as_uri())
            settle(tab, "document.querySelector('#list tbody tr')")  # the list is filled last
            opened, cpu = time.perf_counter() - began, _cpu_s(tab) - before
            began = time.perf_counter()
            tab.evaluate("showProblem(found[0])")
            problem_ms = 1e3 * (time.perf_counter() - began)
            print(f"opened in {opened:.2f} s ({cpu:.2f} s of CPU), a problem in {problem_ms:.0f} ms")
        print(f"console: {tab.console or 'empty'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(*map(Path, sys.argv[1:3]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
