"""How large the page of a large store is, how long it takes to write, and to open in a real browser.

    python -m tests.bench.page [FOLDER]

The store has 10,000 problems with 50,000 variants and two training runs, with texts of random English words as long
as those of GSM8K. With a folder, the store and its page stay there, and the store is made once.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from diva_grpo.flows.pages.page import write_report
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Label, Problem, Setting, Variant, Verdict
from tests.support.chromium import browser
from tests.support.store_records import label
from tests.support.training_rows import begin_run, evaluated, train_on

PROBLEMS, VARIANTS = 10_000, 5
STEPS, PROBLEMS_OF_A_STEP, LOGGED = 300, 16, 4
OPENINGS = 5
_CHECKS = ("format", "leak", "numbers", "duplicate", "answer")


def _texts(draw: random.Random) -> list[str]:
    """Words of many lengths, the common ones often."""
    letters = "etaoinshrdlucmfwypvbgk"
    return ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(6_000)]


def make_store(root: Path) -> VariantStore:
    """The store of the measurement."""
    draw = random.Random(1)
    words = _texts(draw)
    weights = [1 / (1 + rank) for rank in range(len(words))]

    def text(length: int) -> str:
        numbers = f" {draw.randrange(1000)} of ${draw.randrange(100)}$"
        return " ".join(draw.choices(words, weights, k=length)) + numbers

    store = VariantStore(root, create=True)
    names = [f"math/{number:05d}" for number in range(PROBLEMS)]
    kinds = ("reword", "reword", "harder", "think_step", "think_step")
    common: dict[str, Any] = {"generator_model": "teacher", "prompt_version": "v"}
    variants: dict[str, list[str]] = {}
    for start in range(0, PROBLEMS, 1_000):
        some = names[start : start + 1_000]
        made = [Problem(problem_id=n, source="math", split="train", text=text(45), answer="42",
                        solution_steps=[text(12) for _ in range(4)]) for n in some]  # fmt: skip
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
                    "text": problem.text if kind == "think_step" else text(45), "delta_designed": 1.0 - number,
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
        train_on(store, run, visits, samples=8, logged=LOGGED, completion=text(60))
        evaluated(store, run, names[:200], [0, STEPS])
    return store


def main(folder: Path) -> None:
    """Print the measurements."""
    began = time.perf_counter()
    root, page = folder / "store", folder / "page.html"
    store = VariantStore(root) if root.exists() else make_store(root)
    print(f"store made in {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    written = write_report(store, page, ("train-a", "train-b"))
    print(f"page written in {time.perf_counter() - began:.1f} s: {written.size / 1e6:.2f} MB")
    print(f"{written.problems:,} problems, {written.detailed:,} of them with variants and rollouts")
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as tab:
        tab.screen(1440, 900)
        for _ in range(OPENINGS):
            tab.open("about:blank", "")
            began = time.perf_counter()
            tab("Page.navigate", url=page.as_uri())
            # The list is filled last.
            tab.evaluate(
                "new Promise((done) => { const look = () => document.querySelector('#list tbody tr') ? done()"
                " : setTimeout(look, 5); look(); })"
            )
            listed = time.perf_counter() - began
            began = time.perf_counter()
            tab.evaluate("showProblem(found[0])")
            print(f"opened in {listed:.2f} s, a problem in {1e3 * (time.perf_counter() - began):.0f} ms")
        print(f"console: {tab.console or 'empty'}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
