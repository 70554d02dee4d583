"""Records for tests of the store, and a little store with rows in every view."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from diva_grpo.pipeline.difficulty.scale import measured_difficulty
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import (
    Attempt,
    Call,
    Decision,
    DifficultyEvent,
    Evaluation,
    Image,
    Label,
    Problem,
    Record,
    Reject,
    Rollout,
    Run,
    Setting,
    Variant,
    Verdict,
)


def event(step: int, attempt: int, difficulty: float = 5.0) -> DifficultyEvent:
    return DifficultyEvent(
        run_id="r",
        step=step,
        problem_id="w/0",
        old_difficulty=5.0,
        new_difficulty=difficulty,
        accuracy=0.5,
        rollouts=4,
        rule="paper",
        attempt=attempt,
    )


def rollout(step: int, attempt: int, run_id: str = "r") -> Rollout:
    return Rollout(
        run_id=run_id,
        step=step,
        problem_id="w/0",
        slot=0,
        sample=0,
        variant_id="original",
        reward=1.0,
        accuracy=1.0,
        advantage=0.0,
        completion_tokens=3,
        attempt=attempt,
    )


def variant(number: int, problem_id: str = "w/0", **values: Any) -> Variant:
    defaults: dict[str, Any] = {
        "variant_id": f"{problem_id}:reword:{number:02d}",
        "problem_id": problem_id,
        "kind": "reword",
        "text": f"wording {number}",
        "delta_designed": 0.0,
        "status": "accepted",
        "generator_model": "m",
        "prompt_version": "reword-1",
    }
    return Variant.model_validate(defaults | values)


def label(subject_id: str, correct: int, samples: int, model: str = "policy") -> Label:
    difficulty, low, high = measured_difficulty(correct, samples)
    return Label(
        subject_id=subject_id,
        solver_model=model,
        subject_kind="any",
        samples=samples,
        correct=correct,
        pass_rate=correct / samples,
        difficulty=difficulty,
        difficulty_low=low,
        difficulty_high=high,
    )


NOW = datetime(2026, 1, 1, 12)


def fill(store: VariantStore) -> None:
    """Rows of every table, written at stated times, some of a key twice: the same wherever it runs."""
    picture = store.put_image(b"no picture, but bytes", "PNG")
    problems = [
        Problem(problem_id="w/0", source="w", split="train", text="<image> What is it?", answer="3",
                images=[Image(hash=picture, width=4, height=5)], options=["2", "3"], ingested_at=NOW),
        Problem(problem_id="w/1", source="w", split="test", text="Wie viel? 2 × 3", answer="6",
                solution_steps=["two", "three"], human_level=2.5, ingested_at=NOW),
    ]  # fmt: skip
    made: list[list[Record]] = [
        [*problems],
        [Reject(source="f.jsonl", row_number=3, reason="no answer", raw="{}", rejected_at=NOW)],
        [variant(1, created_at=NOW, status="candidate"), variant(2, created_at=NOW, status="candidate")],
        [variant(1, created_at=NOW, hint=["a", "b"], hint_steps=2, hint_total=3, kind="think_step")],
        [variant(2, created_at=NOW, status="rejected", reason="leak: 3", recipe='{"operations": []}')],
        [Verdict(variant_id="w/0:reword:01", check_name="answer", model="m", passed=True, created_at=NOW),
         Verdict(variant_id="w/0:reword:02", check_name="leak", passed=None, detail="?", created_at=NOW)],
        [label("w/0", 3, 8).model_copy(update={"created_at": NOW}),
         label("w/0:reword:01", 6, 8).model_copy(update={"created_at": NOW})],
        [Setting(name="label_model", value="policy")],
        [Call(request_hash="c0ffee", purpose="reword", endpoint="e", model="m", problem_id="w/0",
              latency_s=0.5, attempts=1, outcome="ok", output_mode="text", cost_usd=0.25, created_at=NOW)],
        [Run(run_id="r", kind="train", config='{"seed": 1}', started_at=NOW)],
        [Run(run_id="r", kind="train", config='{"seed": 1}', started_at=NOW, ended_at=NOW, outcome="ok")],
        [Attempt(run_id="r", attempt=0, resumed_step=0, started_at=NOW)],
        [rollout(step, 0) for step in range(4)],
        [event(step, 0, 5.5) for step in range(4)],
        [Attempt(run_id="r", attempt=1, resumed_step=2, started_at=NOW)],
        [rollout(2, 1)],
        [event(2, 1, 4.5)],
        [Evaluation(run_id="r", step=2, split="test", problem_id="w/1", samples=4, correct=1)],
        [Decision(flow_run_id="f", problem_id="w/0", wanted_delta=2.0, nearest_delta=None,
                  kinds=["harder"], requested=2, made=1, accepted=1, created_at=NOW)],
    ]  # fmt: skip
    for number, records in enumerate(made):
        store.append(records, recorded_at=NOW + timedelta(seconds=number))
