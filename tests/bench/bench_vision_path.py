"""The whole path on problems with images: ingest, all kinds of variants, verification, training, a kill, a resume.

    python tests/bench/bench_vision_path.py path/to/mathvision/problems.jsonl --limit 200

The teacher is scripted and told the answers; the policy is a tiny random LLaVA. Prints its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from diva_grpo.flows.demo.scripted_teacher import MODEL, ScriptedTeacher, create_app, serve
from diva_grpo.flows.demo.vision import tiny_vision_model
from diva_grpo.pipeline.ingest import ingest
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.config import GenerateConfig, TeacherConfig, VerifyConfig
from diva_grpo.schemas.mapping import PRESETS
from diva_grpo.schemas.records import Kind
from tests.support.sessions import generate, verify

ROOT = Path(__file__).parent.parent.parent
PER_STEP = 2
ROLLOUTS = 4

SETTINGS: dict[str, Any] = {
    "num_generations": ROLLOUTS,
    "num_variants": 1,
    "per_device_train_batch_size": PER_STEP * ROLLOUTS * 2,
    "max_completion_length": 6,
    "num_train_epochs": 1,
    "learning_rate": 1e-3,
    "selector": "uniform",
    "hint_style": "prefix",
    "max_pixels": 100_352,
    "rewards": "tests.support.tiny_training.coin_reward",
    "accuracy_from": "coin_reward",
    "save_strategy": "steps",
    "store_flush_steps": 1,
    "logging_steps": 1000,
    "bf16": False,
    "gradient_checkpointing": False,
    "use_cpu": True,
    "report_to": "none",
    "dtype": "float32",
    "disable_tqdm": True,
    "seed": 5,
}
_STEPS = "SELECT count(DISTINCT step) FROM rollouts"
_OUTCOME = (
    "SELECT step, problem_id, slot, sample, variant_id, reward, round(advantage, 9), completion_tokens "
    "FROM rollouts ORDER BY ALL"
)


def run_path(source: Path, folder: Path, limit: int) -> dict[str, Any]:
    """All of it; returns the figures.

    Args:
        source: problems in MathVision's format.
        folder: where stores and models go.
        limit: only the first N problems.
    """
    clock = _Clock()
    store = VariantStore(folder / "store", create=True)
    report = ingest(store, str(source), PRESETS["mathvision"], split="train", limit=limit)
    clock.lap("ingest")
    _variants(store)
    clock.lap("generate and verify")
    figures: dict[str, Any] = {"problems": report.added, "rejected_rows": report.rejected, **_counts(store)}
    model = tiny_vision_model(folder / "model")
    killed = VariantStore(shutil.copytree(store.root, folder / "killed"))
    _finish(_start(store, model, folder / "whole", report.added))
    clock.lap("epoch")
    process = _start(killed, model, folder / "parts", report.added)
    figures["killed_after"] = _kill_within(process, killed, steps=max(2, report.added // PER_STEP // 2))
    _finish(_start(killed, model, folder / "parts", report.added))
    clock.lap("epoch, killed and resumed")
    resumed = [step for (step,) in killed.query("SELECT resumed_step FROM attempts ORDER BY attempt")]
    [(seen, rollouts)] = store.query("SELECT count(DISTINCT problem_id), count(*) FROM rollouts")
    figures |= {"trained": seen, "rollouts": rollouts, "resumed_at": resumed[-1]}
    figures["rollouts_by_kind"] = dict(
        store.query(
            "SELECT coalesce(v.kind, 'original'), count(*) FROM rollouts LEFT JOIN variants v USING (variant_id) "
            "GROUP BY 1 ORDER BY 1"
        )
    )
    figures["equal"] = store.query(_OUTCOME) == killed.query(_OUTCOME)
    figures["unchanged"] = _unchanged(model, folder / "whole")
    return {**figures, "seconds": clock.laps}


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 1), now


def _variants(store: VariantStore) -> None:
    """Variants of all kinds by a teacher that is told the answers, and slips in a tenth of its own."""
    told = [
        p.model_copy(update={"solution_steps": ["Look at the image.", f"What it shows gives {p.answer}."]})
        for p in store.problems()
    ]
    with serve(create_app(ScriptedTeacher(told, wrong_share=0.1))) as url:
        teacher = TeacherConfig(model=MODEL, base_url=url, endpoint="scripted", max_pixels=100_352)
        generate(store, teacher, GenerateConfig(kinds=tuple(Kind)))
        verify(store, teacher, VerifyConfig())


def _counts(store: VariantStore) -> dict[str, Any]:
    by_status = store.query("SELECT kind, status, count(*) FROM variants GROUP BY ALL ORDER BY ALL")
    # A solution that the scripted teacher got wrong ends at another answer than its problem's.
    [(wrong,)] = store.query(
        "SELECT count(*) FROM variants JOIN problems USING (problem_id) WHERE status = 'accepted' "
        "AND solution_answer IS NOT NULL AND solution_answer <> answer"
    )
    return {
        "accepted": {kind: n for kind, status, n in by_status if status == "accepted"},
        "not_accepted": {f"{kind} {status}": n for kind, status, n in by_status if status != "accepted"},
        "wrong": wrong,
    }


def _start(store: VariantStore, model: Path, output: Path, problems: int) -> subprocess.Popen[str]:
    settings = {**SETTINGS, "save_steps": max(1, problems // PER_STEP // 4)}
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    flags += ["--store", str(store.root), "--model_name_or_path", str(model), "--output_dir", str(output)]
    return subprocess.Popen(
        [sys.executable, "-m", "diva_grpo.trainer", *flags, "--resume", "true"],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors[-3000:])


def _kill_within(process: subprocess.Popen[str], store: VariantStore, steps: int) -> int:
    """SIGKILL as soon as so many steps are in the store; returns how many were."""
    while process.poll() is None:
        [(done,)] = store.query(_STEPS)
        if done >= steps:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return int(done)
        time.sleep(0.2)
    raise RuntimeError(f"the run ended by itself: {process.communicate()[1][-2000:]}")


def _unchanged(before: Path, after: Path) -> list[str]:
    """Parameters that training has left as they were, but for a norm that LLaVA does not use."""
    from transformers import AutoModelForImageTextToText

    auto: Any = AutoModelForImageTextToText
    states = [auto.from_pretrained(path).state_dict() for path in (before, after)]
    return [n for n in states[0] if states[0][n].equal(states[1][n]) and "post_layernorm" not in n]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run_path(args.source, Path(folder), args.limit), indent=1))


if __name__ == "__main__":
    main()
