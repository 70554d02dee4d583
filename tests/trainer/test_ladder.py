"""Pass rates along a ladder, from all rollouts of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diva_grpo.pipeline.difficulty.variants import AcceptedVariant, AcceptedVariants
from diva_grpo.trainer.method.curriculum import Curriculum, CurriculumSettings
from diva_grpo.trainer.method.ladder import LadderCurve

STEPS = 8
LADDER = np.arange(1.0, STEPS + 1)


def test_before_the_first_rollout_nothing_is_certain() -> None:
    rates = LadderCurve().pass_rates(LADDER)
    assert rates[0] < 0.95
    assert rates[-1] > 0.25


@pytest.mark.parametrize("chance", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("shape", ["steps alike", "sharp"])
def test_rollouts_of_some_lengths_tell_of_all(chance: float, shape: str) -> None:
    """Where each step is as hard as any other, and where the policy can do three steps and no more."""
    true = chance**LADDER if shape == "steps alike" else np.where(LADDER <= 3, 0.98, 0.02)
    curve = LadderCurve()
    for _ in range(40):
        for steps in (1, 3, 4, 6):
            curve.visit(steps, 50 * true[steps - 1], 50 * (1 - true[steps - 1]))
    assert curve.pass_rates(LADDER) == pytest.approx(true, abs=0.13)


def test_old_failures_are_forgotten_wherever_new_rollouts_come_from() -> None:
    curve = LadderCurve()
    for _ in range(100):
        curve.visit(3, 0, 8)
    assert curve.pass_rates(np.array([3.0]))[0] < 0.05
    for _ in range(100):
        curve.visit(2, 7, 1)
    assert curve.pass_rates(np.array([3.0]))[0] > 0.4


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 64), st.integers(0, 64)), min_size=1, max_size=20)
)
def test_more_steps_are_never_easier(visits: list[tuple[int, int, int]]) -> None:
    curve = LadderCurve()
    for visit in visits:
        curve.visit(*visit)
    rates = curve.pass_rates(np.arange(1.0, 40.0))
    assert ((rates >= 0) & (rates <= 1)).all()
    assert (np.diff(rates) <= 1e-12).all()
    assert (LadderCurve.restored(curve.state()).pass_rates(LADDER) == curve.pass_rates(LADDER)).all()


class Ladders:
    """For each problem a hint of each length but the whole solution."""

    def candidates(self, problem_ids: Sequence[str]) -> AcceptedVariants:
        def hint(problem_id: str, given: int) -> AcceptedVariant:
            left = STEPS - given
            delta = -float(min(2 * given, 6))
            return AcceptedVariant(
                given, f"{problem_id}:{given}", "think_step", delta, steps_left=left, share_left=left / STEPS
            )

        return AcceptedVariants.of([[hint(name, given) for given in range(1, STEPS)] for name in problem_ids])


def _left_by_step(chances: list[float], **options: Any) -> list[float]:
    """The mean number of steps that the chosen prompts leave, for a policy with these chances, step by step."""
    settings = replace(CurriculumSettings(variants=0, aim="all", selector="signal"), **options)
    ids = [f"p{i}" for i in range(16)]
    ours, problem_P = Curriculum(ids, settings, None), np.arange(16)
    random, seen = np.random.default_rng(0), []
    for step, chance in enumerate(chances):
        choice = ours.choose(problem_P, Ladders(), step)
        left_P = np.array([choice.steps_left(problem, 0) for problem in range(16)])
        right_PN = random.random((16, 8)) < (chance**left_P)[:, None]
        ours.observe(choice, right_PN[:, None].astype(float))
        seen.append(float(left_P.mean()))
    return seen


def test_signal_finds_the_last_step_at_once_and_gives_less_as_the_policy_learns() -> None:
    learning = [0.25] * 15 + np.linspace(0.25, 0.9, 40).tolist() + [0.9] * 20
    left = _left_by_step(learning, variant_prior="ladder", difficulty_rule="posterior")
    assert max(left[8:15]) <= 2, left
    assert np.mean(left[-10:]) > STEPS - 0.5, "mostly the original itself"
    assert np.mean(left[30:40]) > np.mean(left[10:15])
    pooled = _left_by_step(learning, variant_prior="pooled", difficulty_rule="posterior")
    assert np.mean(pooled[:15]) > np.mean(left[:15]), "what `pooled` tries one length at a time"
