"""Plants faults into sound variants of real problems, verifies them all, and prints what was caught by which check.

    DIVA_REAL_DATA=/path python -m tests.bench.planted_faults --faults 100 --sound 500

The variants go through `verify` itself, in a store, with the default checks. Variants of GSM8K are solved by a solver
that reads the text (`tests/bench/planted/solver.py`); those of MathVision, whose pictures it cannot see, go through
all checks but `answer`. A fault counts as caught where the check that it belongs to is the one that rejected it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import yaml

from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import VerifyConfig
from diva_grpo.schemas.mapping import PRESETS
from diva_grpo.schemas.records import Kind, Problem, Variant
from tests.bench.planted import faults, rules
from tests.bench.planted.solver import ReadingSolver, Step, steps_of
from tests.support.sessions import verify

BELONGS = {
    "changed number": "numbers",
    "changed question": "answer",
    "answer in the hint": "leak",
    "lost placeholder": "format",
    "copy of the original": "duplicate",
    "other language": "format",
    "wrong solution": "answer",
    "preamble": "format",
    "near duplicate": "duplicate",
    "unseen preamble": "format",
}
TARGETS = tuple(BELONGS)[:-1]
"""All but the last must be caught in 95 of 100."""


@dataclass
class Material:
    """Real problems, with what the solver knows of them."""

    problems: list[Problem]
    annotated: dict[str, str]
    steps: dict[str, tuple[Step, ...]]
    seed: int
    planted: list[tuple[str, Variant]] = field(default_factory=list)
    siblings: dict[str, Variant] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.gsm8k = [p for p in self.problems if p.problem_id in self.steps]
        self.mathvision = [p for p in self.problems if p.images]

    def plant(
        self, what: str, problem: Problem, text: str | None, kind: Kind = Kind.REWORD, **values: object
    ) -> None:
        number = len(self.planted)
        made = {"variant_id": f"{number:05}", "problem_id": problem.problem_id, "kind": kind, "text": text}
        variant = Variant.model_validate(
            {**made, "generator_model": f"m{number}", "prompt_version": "1", **values}
        )
        self.planted.append((what, variant))

    def sibling(self, problem: Problem, text: str) -> None:
        """An accepted variant that stands beside the one planted last."""
        variant = self.planted[-1][1]
        values = {"variant_id": f"{variant.variant_id}-sibling", "text": text, "status": "accepted"}
        self.siblings[variant.variant_id] = variant.model_copy(update=values)

    def hint(self, what: str, problem: Problem, steps: list[str], total: int, answer: str) -> None:
        values = {"hint": steps, "hint_steps": len(steps), "hint_total": total, "solution_answer": answer}
        self.plant(what, problem, problem.text, Kind.THINK_STEP, **values)

    def drawn(self, problems: list[Problem], n: int) -> Iterator[Problem]:
        """Problems in a random order, as often as they are needed."""
        for i in range(50 * n):
            if i % len(problems) == 0:
                order = self.rng.sample(problems, len(problems))
            yield order[i % len(problems)]

    def sound(self, problem: Problem) -> str:
        return rules.reworded(problem.text, self.rng)


def read(store: VariantStore, data: Path, seed: int) -> Material:
    """The problems of both sources, ingested as a user would."""
    ingest(store, str(data / "gsm8k" / "problems.jsonl"), PRESETS["gsm8k"])
    ingest(store, str(data / "mathvision" / "problems.jsonl"), PRESETS["mathvision"])
    rows = [json.loads(line) for line in (data / "gsm8k" / "problems.jsonl").read_text().splitlines()]
    solution = {row["question"]: row["answer"] for row in rows}
    problems = store.problems()
    annotated, steps = {}, {}
    for problem in problems:
        if problem.text in solution:
            try:
                found = steps_of(solution[problem.text])
            except ValueError:
                continue
            # The solver must be able to solve the original itself; a few annotations have gaps.
            if found and found[-1].result == Fraction(problem.answer):
                annotated[problem.problem_id], steps[problem.problem_id] = solution[problem.text], found
    return Material(problems, annotated, steps, seed)


def plant_sound(material: Material, n: int) -> None:
    """Sound variants: a fifth of MathVision, hints of GSM8K's own solutions, harder texts, rewordings."""
    rng = material.rng
    for i, problem in enumerate(material.drawn(material.mathvision, n)):
        if i >= n // 4:
            break
        harder = i % 4 == 3
        text = rules.reworded(problem.text, rng, harder=harder)
        material.plant("sound", problem, text, Kind.HARDER if harder else Kind.REWORD)
    for i, problem in enumerate(material.drawn(material.gsm8k, n)):
        if i >= n - n // 4:
            break
        if i % 5 == 4:
            lines = problem.solution_steps
            # The steps before the answer is first written.
            shown = next(
                (
                    j
                    for j, line in enumerate(lines)
                    if re.search(rf"(?<!\d){re.escape(problem.answer)}(?!\d)", line.replace(",", ""))
                ),
                0,
            )
            shown = shown if shown and i % 2 else len(lines)
            material.hint("sound", problem, lines[:shown], len(lines), problem.answer)
        else:
            harder = i % 5 == 3
            text = rules.reworded(problem.text, rng, harder=harder)
            material.plant("sound", problem, text, Kind.HARDER if harder else Kind.REWORD)


def plant_texts(material: Material, n: int) -> None:
    """The faults of texts that need no calculation."""
    rng, every = material.rng, material.gsm8k + material.mathvision
    for what, ways, problems in (
        ("changed number", faults.CHANGED_NUMBER, every),
        ("lost placeholder", faults.LOST_PLACEHOLDER, material.mathvision),
        ("copy of the original", faults.COPY, every),
    ):
        made = 0
        for problem in material.drawn(problems, n):
            text = material.sound(problem)
            changed = ways[made % len(ways)](rng, problem.text, text)
            if changed is not None and changed != text:
                material.plant(what, problem, changed)
                made += 1
            if made == n:
                break
    for what, frames in (("preamble", faults.PREAMBLES), ("unseen preamble", faults.UNSEEN_PREAMBLES)):
        order = rng.sample(frames, len(frames))
        for i, problem in zip(range(n), material.drawn(every, n), strict=False):
            material.plant(what, problem, order[i % len(order)].replace("{t}", material.sound(problem)))
    made = 0
    for problem in material.drawn(every, n):
        like = material.sound(problem) if made % 2 else problem.text
        changed = faults.near_duplicate(rng, like)
        if changed and made < n:
            material.plant("near duplicate", problem, changed)
            if made % 2:
                material.sibling(problem, like)
            made += 1


def plant_languages(material: Material, n: int) -> None:
    """Translations by hand, whole or of the question alone."""
    table = yaml.safe_load((Path(__file__).parent / "planted" / "translations.yaml").read_text("utf-8"))
    rows = []
    for entry in table:
        begins = entry.pop("begins")
        problem = next(p for p in material.problems if p.text.startswith(begins))
        for text in entry.values():
            last = re.split(r"(?<=[.。!?؟])\s*(?=\S)", text.strip())
            rows.append((problem, text))
            rows.append((problem, " ".join([*rules.facts_and_question(problem.text)[0], last[-1]])))
    for problem, text in material.rng.sample(rows, min(n, len(rows))):
        material.plant("other language", problem, text)


def plant_calculations(material: Material, n: int) -> None:
    """Changed questions, wrong solutions, and hints that give the answer away."""
    rng = material.rng
    made: Counter[str] = Counter()
    for problem in material.drawn(material.gsm8k, 2 * n):
        steps = material.steps[problem.problem_id]
        text = faults.changed_question(rng, problem.text, steps)
        if text and made["question"] < n:
            material.plant("changed question", problem, text)
            made["question"] += 1
        lines = [
            line
            for line in material.annotated[problem.problem_id].split("####")[0].splitlines()
            if line.strip()
        ]
        stranger = rng.choice(material.gsm8k)
        wrong = faults.wrong_solution(
            rng, lines, steps, problem.answer, (stranger.solution_steps, stranger.answer)
        )
        if wrong and made["solution"] < n:
            material.hint("wrong solution", problem, wrong[0], len(wrong[0]), wrong[1])
            made["solution"] += 1
    for problem in material.drawn(material.gsm8k + material.mathvision, n):
        if made["leak"] == n:
            break
        leaking = faults.leaking_sentence(rng, problem.answer, problem.options)
        if leaking is None:
            continue
        before = problem.solution_steps[:1] or ["First look at the picture and name what is known."]
        material.hint(
            "answer in the hint", problem, [*before, leaking][: rng.choice([2, 2, 2])], 4, problem.answer
        )
        made["leak"] += 1


def judged(store: VariantStore, material: Material) -> dict[str, str | None]:
    """What `verify` said of each planted variant: the reason of its rejection, or None.

    Each is verified as if it were alone with its sibling, if it has one.
    """
    solver = ReadingSolver([(p.text, material.annotated[p.problem_id]) for p in material.gsm8k])
    full = VerifyConfig()
    unseen = full.model_copy(update={"checks": tuple(c for c in full.checks if c != "answer")})
    rounds: defaultdict[tuple[bool, int], list[Variant]] = defaultdict(list)
    often: Counter[str] = Counter()
    for _, variant in material.planted:
        by_reading = variant.problem_id in material.steps or variant.kind == Kind.THINK_STEP
        rounds[by_reading, often[variant.problem_id]].append(variant)
        often[variant.problem_id] += 1
    reasons: dict[str, str | None] = {}
    for (by_reading, _), variants in sorted(rounds.items()):
        siblings = [material.siblings[v.variant_id] for v in variants if v.variant_id in material.siblings]
        store.append([*variants, *siblings])
        verify(store, solver, full if by_reading else unseen, problem_ids=[v.problem_id for v in variants])
        found = store.read(Variant, "variant_id IN (SELECT unnest(?))", [[v.variant_id for v in variants]])
        reasons |= {v.variant_id: v.reason for v in found}
        # Out of the way of those that follow.
        store.append([v.model_copy(update={"status": "rejected"}) for v in [*found, *siblings]])
    return reasons


def table(material: Material, reasons: dict[str, str | None], show: int) -> tuple[dict[str, float], float]:
    """Prints the table; returns the share caught by fault, and that of sound variants rejected."""
    by_fault: defaultdict[str, list[Variant]] = defaultdict(list)
    for what, variant in material.planted:
        by_fault[what].append(variant)
    print(f"{'planted fault':22}{'n':>5}  {'belongs to':12}{'caught by it':>13}{'rejected':>10}")
    shares = {}
    for what, check in BELONGS.items():
        variants = by_fault[what]
        said = [reasons[v.variant_id] for v in variants]
        caught = sum((reason or "").startswith(f"{check}:") for reason in said)
        shares[what] = caught / len(variants)
        print(f"{what:22}{len(variants):>5}  {check:12}{caught:>13}{sum(r is not None for r in said):>10}")
        for variant, reason in [
            vr for vr in zip(variants, said, strict=True) if not (vr[1] or "").startswith(f"{check}:")
        ][:show]:
            print(f"    {reason}: {(variant.hint or variant.text)!r}")
    sound = by_fault["sound"]
    rejected = [(v, reasons[v.variant_id]) for v in sound if reasons[v.variant_id] is not None]
    by_check = Counter(str(reason).split(":")[0] for _, reason in rejected)
    print(f"sound variants rejected: {len(rejected)} of {len(sound)} {dict(by_check) or ''}")
    for variant, reason in rejected[:show]:
        print(f"    {reason}: {(variant.hint or variant.text)!r}")
    return shares, len(rejected) / len(sound)


def run(
    data: Path, folder: Path, n: int, sound: int, seed: int, show: int = 0
) -> tuple[dict[str, float], float]:
    """Plant, verify and print; see `table`."""
    store = VariantStore(folder / "store", create=True)
    material = read(store, data, seed)
    plant_sound(material, sound)
    plant_texts(material, n)
    plant_languages(material, n)
    plant_calculations(material, n)
    started = time.perf_counter()
    reasons = judged(store, material)
    result = table(material, reasons, show)
    print(f"{len(material.planted)} variants verified in {time.perf_counter() - started:.1f} s")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=100, help="of each sort")
    parser.add_argument("--sound", type=int, default=500, help="sound variants")
    parser.add_argument("--seed", type=int, default=0, help="of all choices")
    parser.add_argument("--show", type=int, default=0, help="examples of what was missed, of each sort")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run(
            Path(os.environ["DIVA_REAL_DATA"]), Path(temporary), args.faults, args.sound, args.seed, args.show
        )
