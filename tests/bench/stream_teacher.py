"""How full a run keeps its endpoint, where answers take unequal time.

    python -m tests.bench.stream_teacher --at-once 64 256 --requests 5000
    python -m tests.bench.stream_teacher --verb curate --latency lognormal --at-once 64

Ideal is the concurrency over the mean latency. `steady` is the share of it from the moment the window is full to the
last request, `whole` that of the whole run with its beginning and its end; both from the endpoint's own records, so
that neither the start of Python nor the reading of the store counts. `steady` is empty if the window was never full.
The CPU time is that of the run without the endpoint's. Prints a table.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from itertools import accumulate
from pathlib import Path

from tabulate import tabulate

from diva_grpo.pipeline.session.session import Session
from diva_grpo.pipeline.stages.curate import Stages, curate
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import GenerateConfig, LabelConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.records import Kind, Problem, Variant
from tests.bench.fast_endpoint import counts_of, fast_endpoint

_WRITE = GenerateConfig(kinds=(Kind.REWORD,), rewordings=2)
_CHECK = VerifyConfig(checks=("answer",), solver_samples=3)
_LABEL = LabelConfig(samples=4)
STAGES = {
    "generate": (Stages(generate=_WRITE), 1),
    "verify": (Stages(verify=_CHECK), 3),
    "label": (Stages(label=_LABEL), 4),
    "curate": (Stages(_WRITE, _CHECK, _LABEL), 1 + 2 * 3 + 3 * 4),
}
"""By verb, what it does and how many requests a problem takes."""


def _problems(store: VariantStore, number: int, *, with_candidates: bool) -> None:
    store.append(
        [
            Problem(problem_id=f"p/{i:06}", source="p", split="train", text=f"What is {i} + 1?", answer="7")
            for i in range(number)
        ]
    )
    if with_candidates:
        store.append(
            [
                Variant(
                    variant_id=f"p/{i:06}:reword:0",
                    problem_id=f"p/{i:06}",
                    kind=Kind.REWORD,
                    text=f"Add 1 to {i}.",
                    generator_model="m",
                    prompt_version="v",
                )
                for i in range(number)
            ]
        )


def figures(spans: list[tuple[float, float]], at_once: int) -> dict[str, float | None]:
    """Shares of the ideal rate, from when each request came and how long it took."""
    spans = sorted(spans)
    mean = sum(delay for _, delay in spans) / len(spans)
    events = sorted([(at, 1) for at, _ in spans] + [(at + delay, -1) for at, delay in spans])
    in_flight = list(accumulate(step for _, step in events))
    full_at = next(
        (at for (at, _), n in zip(events, in_flight, strict=True) if n >= 0.98 * at_once), math.inf
    )
    first, last, end = spans[0][0], spans[-1][0], max(at + delay for at, delay in spans)
    busy = sum(max(0.0, min(at + delay, last) - max(at, full_at)) for at, delay in spans)
    span = last - full_at
    was_full = span > 0
    return {
        "mean latency, s": round(mean, 2),
        "ideal, requests/s": round(at_once / mean, 1),
        "most at once": max(in_flight),
        "in the steady state, requests/s": round(sum(full_at <= at < last for at, _ in spans) / span, 1)
        if was_full
        else None,
        "steady": round(busy / span / at_once, 3) if was_full else None,
        "whole": round(len(spans) / (end - first) * mean / at_once, 3),
        "from first to last request, s": round(last - first, 1),
        "to the last answer, s": round(end - first, 1),
    }


def run(verb: str, latency: str, mean_s: float, at_once: int, requests: int) -> dict[str, object]:
    """Figures of one run."""
    stages, a_problem = STAGES[verb]
    options = ["--delay", str(mean_s), "--latency", latency]
    with tempfile.TemporaryDirectory() as folder, fast_endpoint(*options) as url:
        store = VariantStore(Path(folder) / "store", create=True)
        _problems(store, max(1, requests // a_problem), with_candidates=verb == "verify")
        started, cpu_s = time.monotonic(), time.process_time()
        with Session(store, TeacherConfig(model="m", base_url=url, concurrency=at_once)) as session:
            curate(session, stages)
        took, cpu_s = time.monotonic() - started, time.process_time() - cpu_s
        spans = counts_of(url)["spans"]
    return {"verb": verb, "latency": latency, "at once": at_once, "requests": len(spans)} | {
        **figures(spans, at_once),
        "run, s": round(took, 1),
        "CPU, ms a request": round(1e3 * cpu_s / len(spans), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--verb", nargs="+", choices=[*STAGES], default=["generate"])
    parser.add_argument("--latency", nargs="+", default=["exponential"])
    parser.add_argument("--mean", type=float, default=2.0, help="seconds")
    parser.add_argument("--at-once", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--requests", type=int, default=5_000)
    given = parser.parse_args()
    for verb in given.verb:
        for latency in given.latency:
            for at_once in given.at_once:
                found = run(verb, latency, given.mean, at_once, given.requests)
                print(tabulate([found], headers="keys"), flush=True)


if __name__ == "__main__":
    main()
