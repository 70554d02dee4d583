"""The testbed `gap`: its task and its store."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.question import render_question
from tests.bench.gap.summary import page
from tests.bench.gap.task import (
    EASY,
    HARD,
    HELD_OUT,
    HIGHEST,
    MORE_STEPS,
    RARE,
    TRAIN_SIZE,
    Sum,
    accuracy_reward,
    draw,
    fill_store,
    longer,
)

RESULTS = Path(__file__).parent / "gap" / "results"

SEEDS = st.integers(0, 2**32).map(random.Random)


def test_a_sum_is_worked_out_step_by_step() -> None:
    worked = Sum(5, (8, -2))
    assert worked.question == "Start 5 add 1 +8 2 -2"
    assert worked.worked == ["1 +8:13", "2 -2:11"]
    assert worked.hints == ["1 total 13", "2 total 11"]


@given(SEEDS, st.integers(1, 16), st.data())
def test_only_the_totals_that_a_prompt_leaves_are_right(
    rng: random.Random, steps: int, data: st.DataObject
) -> None:
    drawn = draw(rng, steps)
    assert all(0 <= total <= HIGHEST for total in drawn.totals)
    given = data.draw(st.integers(0, steps - 1))
    prompt = render_question(drawn.question, hint=drawn.hints[:given])
    lines = drawn.worked[given:]
    wrong = [*lines[:-1], f"{steps} {drawn.terms[-1]:+d}:{(drawn.totals[-1] + 1) % (HIGHEST + 1)}"]
    said = ["\n".join(lines), "\n".join(lines[1:]), "\n".join([*lines, lines[-1]]), "\n".join(wrong)]
    assert accuracy_reward([prompt] * 4, said) == [1.0, 0.0, 0.0, 0.0]


@given(SEEDS, st.sampled_from(EASY), st.sampled_from(MORE_STEPS))
def test_a_longer_sum_has_the_same_answer(rng: random.Random, steps: int, more: int) -> None:
    easy = draw(rng, steps)
    other = longer(rng, easy, more)
    assert len(other.terms) == steps + more
    assert other.totals[-1] == easy.totals[-1]
    assert all(0 <= total <= HIGHEST for total in other.totals)
    assert all(0 < abs(term) <= 9 for term in other.terms)


@pytest.mark.parametrize("spectrum", ["gap", "smooth"])
def test_only_variants_lie_in_the_gap(spectrum: str, tmp_path: Path) -> None:
    fill_store(tmp_path / "store", spectrum, seed=1)
    store = VariantStore(tmp_path / "store")
    lengths = store.query(
        "SELECT len(solution_steps), count(*) FROM problems WHERE split = 'train' GROUP BY 1"
    )
    assert sum(count for _, count in lengths) == TRAIN_SIZE
    between = {steps for steps, _ in lengths} - {*EASY, *HARD}
    assert bool(between) == (spectrum == "smooth")
    held_out = store.query(
        "SELECT split, count(*) FROM problems WHERE split != 'train' GROUP BY 1 ORDER BY 1"
    )
    assert held_out == [("middle", HELD_OUT), ("test", HELD_OUT)]
    kinds = dict(
        store.query(
            "SELECT kind, count(DISTINCT problem_id) FROM variants WHERE status = 'accepted' GROUP BY 1"
        )
    )
    assert kinds == {"think_step": TRAIN_SIZE, "harder": TRAIN_SIZE // 2}


def test_rare_problems_have_hints_alone(tmp_path: Path) -> None:
    fill_store(tmp_path / "store", "rare", seed=1)
    rows = VariantStore(tmp_path / "store").query(
        "SELECT DISTINCT split, len(solution_steps), kind FROM problems LEFT JOIN variants USING (problem_id) "
        "WHERE split != 'middle' ORDER BY ALL"
    )
    assert rows == [(s, n, k) for s, k in (("test", None), ("train", "think_step")) for n in RARE]


def test_the_page_is_made_of_the_figures() -> None:
    assert (RESULTS / "README.md").read_text("utf-8") == page(RESULTS / "runs.jsonl")
