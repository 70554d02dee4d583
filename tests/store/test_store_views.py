"""What the views of a store show beyond their parts: runs that resume, deltas, snapshots for training."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.exceptions import StoreError
from diva_grpo.schemas.records import Attempt, Call, Evaluation, Run
from tests.support.store_records import event, label, rollout, variant

# --- a training run's records


def test_rows_of_an_earlier_attempt_beyond_the_resumed_step_are_superseded(store: VariantStore) -> None:
    store.append(
        [Attempt(run_id="r", attempt=0, resumed_step=0), Attempt(run_id="q", attempt=0, resumed_step=0)]
    )
    store.append([rollout(step, 0) for step in range(6)] + [rollout(5, 0, "q")])
    store.append([event(step, 0) for step in range(6)])
    store.append([Attempt(run_id="r", attempt=1, resumed_step=3)])
    store.append([rollout(3, 1)])
    store.append([event(3, 1)])
    assert store.query("SELECT run_id, step, attempt FROM rollouts ORDER BY ALL") == [
        ("q", 5, 0),
        *(("r", step, 0) for step in range(3)),
        ("r", 3, 1),
    ]
    rows = store.query("SELECT step, attempt FROM difficulty_events ORDER BY ALL")
    assert rows == [(0, 0), (1, 0), (2, 0), (3, 1)]


def test_superseded_row_that_comes_late_does_not_hide_its_successor(store: VariantStore) -> None:
    store.append([Attempt(run_id="r", attempt=1, resumed_step=3)])
    store.append([rollout(3, 1)])
    store.append([rollout(3, 0)])
    assert store.query("SELECT step, attempt FROM rollouts") == [(3, 1)]


def test_live_difficulty_is_the_last_event_of_the_current_attempt(store: VariantStore) -> None:
    store.append([event(1, 0, 6.0), event(2, 0, 7.0), event(3, 0, 8.0)])
    store.append([Attempt(run_id="r", attempt=1, resumed_step=2)])
    store.append([event(2, 1, 4.0)])
    rows = store.query("SELECT run_id, problem_id, difficulty, step FROM live_difficulty")
    assert rows == [("r", "w/0", 4.0, 2)]


# --- deltas


def _variance(correct: int, samples: int) -> float:
    """Of Beta(c + 1, s - c + 1), in levels squared."""
    a, b = correct + 1, samples - correct + 1
    return 64 * a * b / ((a + b) ** 2 * (a + b + 1))


_COUNTS = [(0, 4), (4, 4), (2, 4), (1, 8), (7, 8), (30, 64)]
_DESIGNS = [0.0, 2.0, -2.0, -8.0]


def test_deltas_follow_the_formulas_of_the_contract(store: VariantStore) -> None:
    cases = [(counts, design) for counts in _COUNTS for design in _DESIGNS]
    store.append([variant(i, delta_designed=design) for i, (_, design) in enumerate(cases)])
    store.append([label(f"w/0:reword:{i:02d}", *counts) for i, (counts, _) in enumerate(cases)])
    store.append([label("w/0", 3, 8)])
    store.put_setting("label_model", "policy")
    rows = store.query(
        "SELECT delta_measured, delta_low, delta_high, delta FROM variants ORDER BY variant_id"
    )
    for ((correct, samples), design), (measured, low, high, delta) in zip(cases, rows, strict=True):
        wanted = (9 - 8 * (correct + 1) / (samples + 2)) - (9 - 8 * 4 / 10)
        variance = _variance(correct, samples) + _variance(3, 8)
        assert measured == pytest.approx(wanted, abs=1e-12)
        assert (low + high) / 2 == pytest.approx(wanted, abs=1e-9)
        assert high - low == pytest.approx(2 * 1.644853627 * variance**0.5, rel=1e-9)
        assert delta == pytest.approx((wanted / variance + design / 4) / (1 / variance + 1 / 4), abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "label_model"),
    [
        ([], None),
        ([("w/0", "policy"), ("w/0:reword:01", "policy")], None),
        ([("w/0", "policy"), ("w/0:reword:01", "policy")], "another"),
        ([("w/0:reword:01", "policy")], "policy"),
        ([("w/0", "policy")], "policy"),
        ([("w/0", "policy"), ("w/0:reword:01", "another")], "policy"),
    ],
    ids=[
        "no labels",
        "no label model",
        "of another model",
        "original missing",
        "variant missing",
        "two models",
    ],
)
def test_designed_delta_is_in_use_without_labels_of_the_label_model(
    store: VariantStore, labels: list[tuple[str, str]], label_model: str | None
) -> None:
    store.append([variant(1, delta_designed=2.0)])
    store.append([label(subject, 1, 4, model) for subject, model in labels])
    if label_model:
        store.put_setting("label_model", label_model)
    rows = store.query("SELECT delta_measured, delta_low, delta_high, delta FROM variants")
    assert rows == [(None, None, None, 2.0)]


def test_measured_delta_is_in_use_where_nothing_is_designed(store: VariantStore) -> None:
    store.append([variant(1, delta_designed=None)])
    store.append([label("w/0", 2, 4), label("w/0:reword:01", 0, 4)])
    store.put_setting("label_model", "policy")
    [(measured, delta)] = store.query("SELECT delta_measured, delta FROM variants")
    assert measured == delta == pytest.approx(8 * 2 / 6)


# --- derived views


def test_groups_say_which_are_silent_and_why(store: VariantStore) -> None:
    rewards: list[list[tuple[float | None, float | None]]] = [
        [(1.0, 1.0), (1.0, 1.0)],
        [(0.1, 0.0), (0.1, 0.0)],
        [(0.0, 0.0), (1.0, 1.0)],
        [(0.5, 0.0), (0.5, 1.0)],
        [(None, None), (None, None)],
    ]
    store.append(
        [
            rollout(step, 0).model_copy(update={"sample": sample, "reward": reward, "accuracy": accuracy})
            for step, group in enumerate(rewards)
            for sample, (reward, accuracy) in reversed(list(enumerate(group)))
        ]
    )
    found = store.query("SELECT rewards, accuracy, silent, silent_why FROM groups ORDER BY step")
    assert found == [
        ([1.0, 1.0], 1.0, True, "all right"),
        ([0.1, 0.1], 0.0, True, "all wrong"),
        ([0.0, 1.0], 0.5, False, None),
        ([0.5, 0.5], 0.5, True, "equal rewards"),
        ([None, None], None, True, "no reward"),
    ]


def test_groups_that_are_all_wrong_tell_truncated_ones_and_those_without_an_answer_apart(
    store: VariantStore,
) -> None:
    graded: list[list[tuple[str | None, str | None]]] = [
        [("truncated", "no_answer"), ("truncated", None), ("ended", "wrong")],
        [("ended", "no_answer"), ("ended", "no_answer"), ("ended", "wrong")],
        [("truncated", "no_answer"), ("ended", "no_answer"), ("ended", "wrong")],
        [("ended", None), ("ended", None), ("ended", None)],
        [(None, None), (None, None), (None, None)],
    ]
    store.append(
        [
            rollout(step, 0).model_copy(
                update={
                    "sample": sample, "reward": 0.0, "accuracy": 0.0, "finish": finish, "graded_outcome": outcome
                }
            )
            for step, group in enumerate(graded)
            for sample, (finish, outcome) in enumerate(group)
        ]
    )  # fmt: skip
    found = store.query("SELECT silent_why, unjudged, truncated, no_answer FROM groups ORDER BY step")
    assert found == [
        ("truncated", 0, 2, 0),
        ("no answer", 0, 0, 2),
        ("all wrong", 0, 1, 1),
        ("all wrong", 0, 0, None),
        ("all wrong", 0, None, None),
    ]


def test_a_ladder_has_the_accepted_hints_in_order(store: VariantStore) -> None:
    store.append(
        [
            variant(number, kind="think_step", hint_steps=steps, hint_total=3, status=status)
            for number, steps, status in [(1, 2, "accepted"), (2, 1, "accepted"), (3, 3, "rejected")]
        ]
    )
    store.append([label("w/0:reword:01", 3, 4), label("w/0", 1, 4), label("w/0:reword:02", 2, 4, "another")])
    store.put_setting("label_model", "policy")
    assert store.query("FROM ladders") == [("w/0", 3, 3, 2, [1, 2], [None, 0.75], 0.25)]


def test_costs_are_those_of_the_time_of_a_run(store: VariantStore) -> None:
    def at(minute: int) -> datetime:
        return datetime(2026, 1, 1, 0, minute)

    def call(number: int, minute: int, outcome: str = "ok") -> Call:
        figures: dict[str, Any] = {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "cost_usd": 0.5,
            "latency_s": 1.0,
        }
        names: dict[str, Any] = {"purpose": "reword", "endpoint": "e", "model": "t", "problem_id": "w/0"}
        return Call(
            request_hash=str(number), attempts=1, outcome=outcome, output_mode="text", created_at=at(minute),
            **figures, **names,
        )  # fmt: skip

    store.append([call(1, 1), call(2, 2, "http_500"), call(3, 7), call(4, 12), call(5, 20)])
    store.append(
        [
            Run(run_id="ended", kind="generate", started_at=at(0), ended_at=at(5), outcome="ok"),
            Run(run_id="killed", kind="verify", started_at=at(6), outcome="killed"),
            Run(run_id="train", kind="train", started_at=at(6), ended_at=at(30), outcome="ok"),
            Run(run_id="running", kind="label", started_at=at(10)),
        ]
    )
    found = store.query("SELECT run_id, calls, failures, prompt_tokens, cost_usd FROM costs ORDER BY run_id")
    assert found == [("ended", 2, 1, 20, 1.0), ("killed", 1, 0, 10, 0.5), ("running", 2, 0, 20, 1.0)]


def test_runs_have_their_seconds_and_last_scores(store: VariantStore) -> None:
    started = datetime(2026, 1, 1)
    store.append(
        [Run(run_id="r", kind="train", started_at=started, ended_at=started + timedelta(seconds=1.5))]
    )
    store.append([Run(run_id="q", kind="ingest", started_at=started)])
    scores = [(0, "a", 4), (10, "a", 1), (10, "b", 2)]
    store.append(
        [
            Evaluation(run_id="r", step=step, split="test", problem_id=problem_id, samples=4, correct=correct)
            for step, problem_id, correct in scores
        ]
    )
    found = store.query("SELECT run_id, seconds, scored_step, accuracy FROM runs ORDER BY run_id")
    assert found == [("q", None, None, None), ("r", 1.5, 10, 0.375)]


# --- snapshots


def test_snapshot_has_the_accepted_variants_in_order(store: VariantStore) -> None:
    store.append([variant(2), variant(1), variant(3, status="rejected"), variant(1, "w/1")])
    snapshot = store.snapshot()
    found = snapshot.candidates(["w/1", "w/0", "w/2", "unknown"])
    assert [v.variant_id for v in found.rows()] == ["w/1:reword:01", "w/0:reword:01", "w/0:reword:02"]
    assert found.count_P.tolist() == [1, 2, 0, 0]
    assert found.owner_V.tolist() == [0, 1, 1]
    assert found.place_V.tolist() == [0, 0, 1]
    assert (snapshot.problem_count, snapshot.variant_count) == (2, 3)


def test_snapshot_carries_delta_kind_and_pass_rate(store: VariantStore) -> None:
    store.append([variant(1, delta_designed=2.0, kind="harder"), variant(2)])
    store.append([label("w/0:reword:01", 1, 4), label("w/0:reword:02", 1, 4, "another"), label("w/0", 4, 4)])
    store.put_setting("label_model", "policy")
    snapshot = store.snapshot()
    first, second = snapshot.candidates(["w/0"]).rows()
    [(delta,)] = store.query("SELECT delta FROM variants WHERE variant_id = 'w/0:reword:01'")
    assert (first.kind, first.delta, first.pass_rate) == ("harder", delta, 0.25)
    assert (second.delta, second.pass_rate) == (0.0, None)
    assert snapshot.labels() == {"w/0": pytest.approx(9 - 8 * 5 / 6)}


def test_snapshot_gives_texts_by_number(store: VariantStore) -> None:
    store.append(
        [variant(1), variant(2, hint=["a", "b"], hint_steps=2), variant(3, text=None, recipe='{"o": 1}')]
    )
    snapshot = store.snapshot()
    candidates = snapshot.candidates(["w/0"]).rows()
    texts = snapshot.texts([candidates[2].number, candidates[1].number, candidates[1].number])
    assert texts[candidates[1].number].text == "wording 2"
    assert texts[candidates[1].number].hint == ("a", "b")
    assert texts[candidates[2].number].recipe == '{"o": 1}'
    assert len(texts) == 2


def test_snapshot_of_an_empty_store_has_no_candidates(store: VariantStore) -> None:
    assert store.snapshot().candidates(["w/0", "w/1"]).count_P.tolist() == [0, 0]


def test_snapshot_of_named_parts_shows_what_was_seen_then(store: VariantStore) -> None:
    store.append([variant(1)])
    earlier = store.snapshot()
    store.append([variant(1, status="rejected"), variant(2)])
    again = store.snapshot(earlier.parts)
    assert [v.variant_id for v in again.candidates(["w/0"]).rows()] == ["w/0:reword:01"]
    assert [v.variant_id for v in store.snapshot().candidates(["w/0"]).rows()] == ["w/0:reword:02"]


def test_snapshot_of_a_missing_part_is_one_line(store: VariantStore) -> None:
    with pytest.raises(StoreError, match="cannot be read") as caught:
        store.snapshot(["00000000000000000001-gone.parquet"])
    assert "\n" not in str(caught.value)
