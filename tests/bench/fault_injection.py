"""What gets through generate, verify and label when the teacher plants faults, judged by what it knows of them.

DIVA_REAL_DATA=/path python tests/bench/fault_injection.py [--gsm8k 200] [--mathvision 100]

The loop asks for so many accepted variants of each kind of each problem. The table shows for each fault how many texts
and solutions were written with it, and how many variants of those were accepted; `differs` counts accepted variants
whose true answer is not the reference, which must be none.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.stages.supply import Curated
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import GenerateConfig, LabelConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.mapping import PRESETS
from diva_grpo.schemas.records import Kind, Variant
from tests.support.endpoints import serving
from tests.support.faulty_teacher import FaultyTeacher
from tests.support.sessions import label, supply


@dataclass
class Outcome:
    """Of one run.

    Attributes:
        written: texts and solutions by fault.
        accepted: accepted variants by fault.
        differs: accepted variants whose true answer is not the reference.
        verified: variants by status.
        shortages: kinds of problems that stayed short.
    """

    problems: int
    requests: int
    written: Counter[str]
    accepted: Counter[str]
    differs: list[tuple[Variant, str]]
    supplied: Curated
    labels: int


def run(
    root: Path,
    data: Path,
    *,
    gsm8k: int,
    mathvision: int,
    accepted: int = 3,
    tries: int = 4,
    solver_samples: int = 3,
    slip_share: float = 0.05,
    seed: int = 0,
) -> Outcome:
    """Ingest real problems, supply them by the faulty teacher, label them, and look what was accepted."""
    store = VariantStore(root, create=True)
    for name, count in (("gsm8k", gsm8k), ("mathvision", mathvision)):
        if count:
            ingest(store, str(data / name / "problems.jsonl"), PRESETS[name], limit=count)
    problems = {problem.problem_id: problem for problem in store.problems()}
    faulty = FaultyTeacher(list(problems.values()), slip_share=slip_share, seed=seed)
    checks = VerifyConfig(solver_samples=solver_samples)
    with serving(faulty) as served:
        teacher = TeacherConfig(model="faulty", base_url=served.url, endpoint="faulty", concurrency=24)
        config = GenerateConfig(
            kinds=(Kind.REWORD, Kind.HARDER, Kind.THINK_STEP), accepted=accepted, tries=tries
        )
        supplied = supply(store, teacher, config, checks)
        labels = label(store, teacher, LabelConfig(samples=1))
    variants = store.read(Variant, "status = 'accepted'")
    known = [(variant, faulty.planted(variant)) for variant in variants]
    return Outcome(
        problems=len(problems),
        requests=faulty.answered,
        written=faulty.written(),
        accepted=Counter(planted.fault for _, planted in known),
        differs=[
            (v, planted.answer) for v, planted in known if planted.answer != problems[v.problem_id].answer
        ],
        supplied=supplied,
        labels=sum(labels.values()),
    )


def main() -> None:
    """Run it and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gsm8k", type=int, default=200, help="problems of GSM8K")
    parser.add_argument("--mathvision", type=int, default=100, help="problems of MATH-Vision")
    parser.add_argument("--accepted", type=int, default=3, help="variants wanted of each kind")
    parser.add_argument("--tries", type=int, default=4)
    parser.add_argument("--solver-samples", type=int, default=3, help="independent solutions of each text")
    parser.add_argument(
        "--slip-share", type=float, default=0.05, help="chance of a wrong answer of the solver"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder) / "store", Path(os.environ["DIVA_REAL_DATA"]), **options)
    rows = [(fault, count, found.accepted[fault]) for fault, count in found.written.most_common()]
    print(tabulate(rows, headers=("fault", "written", "variants accepted")))
    print(f"\n{found.problems} problems, {found.requests} requests, {time.perf_counter() - began:.0f} s")
    print(f"variants: {dict(found.supplied.verified)}; {found.labels} labels")
    print(found.supplied.summary())
    print(f"accepted variants whose answer differs from the reference: {len(found.differs)}")
    for variant, answer in found.differs[:10]:
        print(f"  {variant.variant_id}: {answer}: {(variant.text or '')[:150]!r} {variant.hint}")


if __name__ == "__main__":
    main()
