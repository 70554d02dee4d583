"""One real model, SmolLM2-135M-Instruct, in each part that a model can have.

It writes variants as the teacher, is labelled as the policy (from its folder, and behind a server), and is trained.
`make test-real` runs it. The figures that it prints are those of docs/training.md.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest
from scipy.stats import fisher_exact

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Problem
from tests.support.other_environments import ROOT

pytestmark = [pytest.mark.real, pytest.mark.timeout(3_600)]  # a busy machine makes a few tokens a second

SUMS = [(3, 4), (2, 2), (5, 1), (6, 3), (7, 2), (8, 8), (4, 5), (10, 5)]
INSTRUCTION = " Answer with a number alone."
ANSWER_TOKENS, SAMPLES = 20, 16
LEVEL = 0.01
"""Of the test that both pass rates are one: with 48 answers each, it fails where they differ by about 0.3."""
STEPS = 20
PROBLEMS = 3
"""That are labelled, with many samples: the client sends the number of the sample as its seed, and a server that heeds
it draws alike for problems that are worded alike."""


@pytest.fixture
def store(tmp_path: Path) -> VariantStore:
    """Eight sums that the model answers now and then, each with two steps of a solution."""
    store = VariantStore(tmp_path / "store", create=True)
    store.append(
        [
            Problem(
                problem_id=f"sums/{a}+{b}",
                source="sums",
                split="train",
                text=f"What is {a} + {b}?",
                answer=str(a + b),
                solution_steps=[f"Start with {a}.", f"{a} + {b} = {a + b}"],
            )
            for a, b in SUMS
        ]
    )
    return store


def diva(verb: str, store: VariantStore, *arguments: object, ends: tuple[int, ...] = (0,)) -> int:
    """Run a command in a process of its own, which must end with such a status and without a traceback."""
    command = [sys.executable, "-m", "diva_grpo", verb, "--store", store.root, *arguments]
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OPENAI_API_KEY": "none"},
    )
    assert done.returncode in ends, done.stdout[-4_000:] + done.stderr[-4_000:]
    assert "Traceback" not in done.stderr, done.stderr[-4_000:]
    return done.returncode


def say(capsys: pytest.CaptureFixture[str], line: str) -> None:
    with capsys.disabled():
        print(f"\n{line}", flush=True)


def test_a_weak_teacher_is_rejected_with_reasons(
    store: VariantStore, served: str, smollm2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint = ["--base-url", served, "--model", smollm2, "--max-tokens", 96, "--concurrency", 2]
    endpoint += ["--limit", PROBLEMS]
    asked = ["--kinds", "reword,think_step", "--rewordings", 1]
    status = diva("generate", store, *endpoint, *asked, ends=(0, 1))
    written = store.query("SELECT count(*) FILTER (status != 'failed') FROM variants")
    assert status == int(written == [(0,)]), "1 where nothing could be used, else 0"
    if status == 0:
        diva("verify", store, *endpoint, "--samples", 1)
    calls = dict(store.query("SELECT purpose || ': ' || outcome, count(*) FROM calls GROUP BY 1"))
    variants = dict(store.query("SELECT status, count(*) FROM variants GROUP BY 1"))
    reasons = dict(store.query("SELECT check_name, count(*) FROM verdicts WHERE NOT passed GROUP BY 1"))
    say(capsys, f"teacher: calls {calls}; variants {variants}; rejected by {reasons}")
    assert sum(calls.values()) >= PROBLEMS * 2
    assert variants.get("candidate", 0) == 0, "every variant is judged"
    unexplained = store.query(
        "SELECT variant_id FROM variants WHERE status = 'rejected' "
        "AND variant_id NOT IN (SELECT variant_id FROM verdicts WHERE NOT passed)"
    )
    assert not unexplained


def test_folder_and_server_have_the_same_pass_rate(
    store: VariantStore, served: str, smollm2: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--limit", PROBLEMS, "--samples", SAMPLES, "--max-tokens", ANSWER_TOKENS]
    asked += ["--temperature", 0.7, "--instruction", INSTRUCTION]
    diva("label", store, "--policy", smollm2, *asked)
    diva("label", store, "--as-policy", "--base-url", served, "--model", smollm2, "--concurrency", 4, *asked)
    rows = store.query("SELECT solver_model, sum(correct), sum(samples) FROM labels GROUP BY 1 ORDER BY 1")
    assert [samples for _, _, samples in rows] == [SAMPLES * PROBLEMS] * 2
    table = [[right, samples - right] for _, right, samples in rows]
    same = float(fisher_exact(table).pvalue)
    say(
        capsys,
        f"policy: {', '.join(f'{right} of {n} right ({name})' for name, right, n in rows)}; p = {same:.2f}",
    )
    assert all(right for right, _ in table), "the model answers some"
    assert same > LEVEL


def test_twenty_steps_with_its_own_chat_template(
    store: VariantStore, smollm2: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {
        "model_name_or_path": smollm2,
        "output_dir": tmp_path / "out",
        "num_variants": 0,
        "use_peft": True,
        "lora_r": 8,
        "learning_rate": 1e-4,
        "max_steps": STEPS,
        "save_steps": STEPS,
        "logging_steps": 1,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": ANSWER_TOKENS,
        "bf16": False,
        "use_cpu": True,
        "dtype": "float32",
        "gradient_checkpointing": False,
        "report_to": "none",
        "instruction": INSTRUCTION,
    }
    diva("train", store, *(part for name, value in settings.items() for part in (f"--{name}", value)))
    [(config,)] = store.query("SELECT config FROM runs WHERE kind = 'train' AND outcome = 'ok'")
    assert json.loads(config)["policy"]["chat_template"], "prompts are conversations"
    steps = store.query("SELECT seconds, loss, grad_norm FROM train_steps")
    assert len(steps) == STEPS
    assert all(math.isfinite(loss) and math.isfinite(norm) for _, loss, norm in steps)
    assert any(norm > 0 for *_, norm in steps), "some groups have a signal"
    mean = fmean(seconds for seconds, *_ in steps)
    say(capsys, f"training: {mean:.1f} s a step of 8 rollouts of up to {ANSWER_TOKENS} tokens")
    diva("label", store, "--policy", tmp_path / "out", "--limit", 1, "--samples", 1)
