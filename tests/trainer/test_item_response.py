"""Pass rates along the ladder of one problem, among those of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diva_grpo.pipeline.difficulty.scale import FloatArray
from diva_grpo.pipeline.difficulty.variants import AcceptedVariant, AcceptedVariants
from diva_grpo.trainer.method.curriculum import Curriculum, CurriculumSettings, VariantPrior
from diva_grpo.trainer.method.item_response import ProblemCurves

STEPS = np.arange(1.0, 11.0)


def true_rates(threshold: float, steps: FloatArray) -> FloatArray:
    """Pass rates by steps left, of a policy that is right half of the time with `threshold` steps left."""
    rates: FloatArray = 1 / (1 + np.exp(-1.5 * (threshold - steps)))
    return rates


def learnt(thresholds: Sequence[float], visits: int) -> ProblemCurves:
    """Curves after visits of all problems with four and with five steps left."""
    curves, problem_V = ProblemCurves(), np.arange(len(thresholds))
    for visit in range(visits):
        steps_V = np.full(len(thresholds), 4.0 + visit % 2)
        right_V = 8 * np.array([true_rates(t, steps_V[:1])[0] for t in thresholds])
        curves.visit(problem_V, steps_V, right_V, 8 - right_V)
    return curves


def test_an_unknown_problem_is_as_the_others_are() -> None:
    rates = learnt([4.5] * 4, 20).pass_rates(np.full(10, 99), STEPS)
    assert rates == pytest.approx(true_rates(4.5, STEPS), abs=0.15)


def test_problems_with_as_many_steps_left_are_told_apart() -> None:
    curves = learnt([3.5, 6.5] * 4, 20)
    assert curves.pass_rates(np.zeros(10, int), STEPS) == pytest.approx(true_rates(3.5, STEPS), abs=0.15)
    assert curves.pass_rates(np.ones(10, int), STEPS) == pytest.approx(true_rates(6.5, STEPS), abs=0.15)


def test_what_was_seen_stays_true_of_a_problem_when_the_policy_has_learnt() -> None:
    """The policy learns to do three steps more. Two problems visited long ago keep their places among the others."""
    curves = learnt([3.5, 6.5, 5.0, 5.0, 5.0, 5.0], 20)
    right = float(8 * true_rates(8.0, np.array([8.0]))[0])
    for _ in range(60):
        curves.visit(np.arange(2, 6), np.full(4, 8.0), np.full(4, right), np.full(4, 8 - right))
    hard, easy = curves.pass_rates(np.array([0, 1]), np.array([8.0, 8.0]))
    assert hard < 0.35 < 0.65 < easy


@given(
    st.lists(
        st.tuples(*[st.integers(0, 3), st.integers(1, 12), st.integers(0, 16), st.integers(0, 16)]),
        max_size=20,
    )
)
def test_rates_fall_with_the_steps_left_and_survive_a_checkpoint(
    visits: list[tuple[int, int, int, int]],
) -> None:
    curves = ProblemCurves()
    for problem, *values in visits:
        curves.visit(np.array([problem]), *(np.array([float(value)]) for value in values))
    problem_V, steps_V = np.repeat(np.arange(4), 10), np.tile(STEPS, 4)
    rate_PS = curves.pass_rates(problem_V, steps_V).reshape(4, 10)
    assert ((rate_PS >= 0) & (rate_PS <= 1)).all()
    assert (np.diff(rate_PS, axis=1) <= 1e-12).all()
    restored = ProblemCurves.restored(curves.state())
    assert (restored.pass_rates(problem_V, steps_V).reshape(4, 10) == rate_PS).all()


def test_prompts_without_steps_or_rollouts_say_nothing() -> None:
    curves = ProblemCurves()
    curves.visit(np.arange(3), np.array([np.nan, 3.0, 0.0]), np.array([8.0, 0.0, 8.0]), np.zeros(3))
    assert curves == ProblemCurves()


class TwoLengths:
    """For each problem hints that leave one to nine steps of ten."""

    def candidates(self, problem_ids: Sequence[str]) -> AcceptedVariants:
        hints = [
            [
                AcceptedVariant(
                    k, f"{name}:{k}", "think_step", -2.0, steps_left=10 - k, share_left=1 - k / 10
                )
                for k in range(1, 10)
            ]
            for name in problem_ids
        ]
        return AcceptedVariants.of(hints)


@pytest.mark.parametrize("prior", ["ladder", "item_response"])
def test_signal_gives_each_problem_a_hint_of_its_own_length(prior: VariantPrior) -> None:
    """Half of the problems are solved with six steps left, half with three: `ladder` gives both the same hint."""
    settings = CurriculumSettings(
        variants=0, aim="all", selector="signal", variant_prior=prior, difficulty_rule="posterior"
    )
    ours, problem_P = Curriculum([f"p{i}" for i in range(16)], settings, None), np.arange(16)
    threshold_P, random, silent = np.where(problem_P % 2, 6.0, 3.0), np.random.default_rng(0), []
    for step in range(30):
        choice = ours.choose(problem_P, TwoLengths(), step)
        left_P = np.array([choice.steps_left(problem, 0) for problem in range(16)])
        chance_P = 1 / (1 + np.exp(-3.0 * (threshold_P - left_P)))
        right_PN = random.random((16, 8)) < chance_P[:, None]
        ours.observe(choice, right_PN[:, None].astype(float))
        silent.append(np.mean([len(set(row)) == 1 for row in right_PN.tolist()]))
    late = np.mean(silent[15:])
    assert late < 0.2 if prior == "item_response" else late > 0.4, silent
