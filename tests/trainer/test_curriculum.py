"""The curriculum alone: no model, no trainer, no store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from diva_grpo.pipeline.difficulty.variants import AcceptedVariant, AcceptedVariants
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.trainer.method.curriculum import Choice, Curriculum, CurriculumSettings, VariantPrior, pool_of
from diva_grpo.trainer.method.selection import SELECTORS


class Source:
    """Variants of each problem: a wording, a harder text and two hints, but none of the problem `bare`."""

    def candidates(self, problem_ids: Sequence[str]) -> AcceptedVariants:
        return AcceptedVariants.of([self._of(problem_id) for problem_id in problem_ids])

    def _of(self, problem_id: str) -> list[AcceptedVariant]:
        if problem_id == "bare":
            return []
        return [
            AcceptedVariant(1, f"{problem_id}:harder", "harder", 2.0),
            AcceptedVariant(2, f"{problem_id}:hint1", "think_step", -2.0, steps_left=1, share_left=0.5),
            AcceptedVariant(3, f"{problem_id}:hint2", "think_step", -8.0, steps_left=0, share_left=0.0),
            AcceptedVariant(0, f"{problem_id}:reword", "reword", 0.0),
        ]


IDS = [f"p{i}" for i in range(11)] + ["bare"]
FOUR = np.array([0, 3, 5, 11])


def curriculum(labels: dict[str, float] | None = None, **options: Any) -> Curriculum:
    """With all variants to choose from, unless the options say otherwise."""
    return Curriculum(IDS, replace(CurriculumSettings(full_solutions=True), **options), labels)


def ids_of(choice: Choice) -> list[list[str]]:
    return [
        [choice.variant_id(problem, slot) for slot in range(len(slots))]
        for problem, slots in enumerate(choice.variant_PV)
    ]


def rollouts(choice: Choice, right: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Four rollouts of each prompt, of which a share is right."""
    problems, slots = len(choice.variant_PV), len(choice.variant_PV[0])
    return np.tile((np.arange(4) < 4 * right).astype(float), (problems, slots, 1))


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_full_solution_is_chosen_only_where_it_is_asked_for(selector: str) -> None:
    hardest = dict.fromkeys(IDS, 9.0)
    slots = 4 if selector == "signal" else 3  # `signal` takes a full solution after all else

    def chosen(full_solutions: bool) -> set[str]:
        of_run = curriculum(hardest, selector=selector, full_solutions=full_solutions, variants=slots)
        return {
            name for step in range(20) for ids in ids_of(of_run.choose(FOUR, Source(), step)) for name in ids
        }

    assert not [name for name in chosen(False) if name.endswith("hint2")]
    assert [name for name in chosen(False) if name.endswith("hint1")]
    assert [name for name in chosen(True) if name.endswith("hint2")]


def test_where_nothing_but_the_full_solution_is_left_the_original_stands() -> None:
    class Full:
        def candidates(self, problem_ids: Sequence[str]) -> AcceptedVariants:
            full = AcceptedVariant(0, "full", "think_step", -8.0, steps_left=0, share_left=0.0)
            return AcceptedVariants.of([[full] for _ in problem_ids])

    choice = curriculum(full_solutions=False).choose(FOUR, Full(), 0)
    assert ids_of(choice) == [["original", "original"]] * 4
    assert choice.shortage == 4


@pytest.mark.parametrize("rule", ["paper", "bands", "posterior"])
@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("prior", get_args(VariantPrior))
def test_a_loaded_curriculum_continues_as_the_saved_one(selector: str, rule: str, prior: str) -> None:
    options: dict[str, Any] = {
        "selector": selector,
        "difficulty_rule": rule,
        "variant_prior": prior,
        "variants": 2,
        "aim": "all",
    }
    first = curriculum(**options)
    random = np.random.default_rng(0)
    judged = (random.random((12, 4, 3, 4)) < 0.4).astype(float)
    judged[random.random(judged.shape) < 0.2] = np.nan
    saved: dict[str, Any] = {}
    seen: list[Any] = []
    for step in range(12):
        if step == 6:
            saved = first.state_dict()
        choice = first.choose((FOUR + step) % 12, Source(), step)
        visit = first.observe(choice, judged[step])
        seen.append((ids_of(choice), choice.difficulty_PV, visit, first.metrics(choice, judged[step])))
    second = curriculum(**options)
    second.load_state_dict(saved)
    for step in range(6, 12):
        choice = second.choose((FOUR + step) % 12, Source(), step)
        visit = second.observe(choice, judged[step])
        expected = seen[step]
        assert ids_of(choice) == expected[0]
        assert np.array_equal(choice.difficulty_PV, expected[1])
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(visit, expected[2], strict=True))
        assert second.metrics(choice, judged[step]) == expected[3]
    assert any(variant for slots, *_ in seen for row in slots for variant in row if variant != "original")
    assert len({str(slots) for slots, *_ in seen}) > 1


def test_a_saved_state_does_not_change_with_the_run() -> None:
    ours = curriculum()
    state = ours.state_dict()
    choice = ours.choose(FOUR, Source(), 0)
    ours.observe(choice, rollouts(choice, 1.0))
    assert state["live"]["difficulty"].tolist() == [5.0] * 12
    assert state["live"]["variants"] == {}
    with pytest.raises(ConfigError, match="other problems"):
        Curriculum(IDS[:-1], CurriculumSettings()).load_state_dict(state)


def test_wrong_answers_make_a_problem_harder_and_bring_hints() -> None:
    ours = curriculum(selector="tier")
    kinds = []
    for step in range(3):
        choice = ours.choose(FOUR, Source(), step)
        kinds.append(choice.kind(0, 1))
        visit = ours.observe(choice, rollouts(choice, 0.0))
        assert visit.accuracy_P.tolist() == [0.0] * 4
        assert (visit.new_P > visit.old_P).all() or visit.old_P[0] == 9
    assert kinds == ["reword", "think_step", "think_step"]
    assert ours.live.difficulty[FOUR].tolist() == [9.0] * 4
    assert ours.live.difficulty[1] == 5.0, "a problem that was not visited keeps its difficulty"


def test_original_or_group_says_how_hard_a_problem_is() -> None:
    for whose, accuracy, judged in (("original", 1.0, [4] * 4), ("group", 0.5, [8] * 4)):
        ours = curriculum(difficulty_from=whose)
        choice = ours.choose(FOUR, Source(), 0)
        accuracy_PVN = rollouts(choice, 1.0)
        accuracy_PVN[:3, 1] = 0.0
        visit = ours.observe(choice, accuracy_PVN)
        assert visit.accuracy_P[:3].tolist() == [accuracy] * 3
        # Both slots of the problem without variants are its original.
        assert visit.judged_P[:3].tolist() == judged[:3]
        assert visit.judged_P[3] == 8


def test_rollouts_that_were_not_judged_change_nothing() -> None:
    ours = curriculum(difficulty_rule="posterior")
    choice = ours.choose(FOUR, Source(), 0)
    visit = ours.observe(choice, np.full((4, 2, 4), np.nan))
    assert visit.new_P.tolist() == visit.old_P.tolist() == [5.0] * 4
    assert np.isnan(visit.accuracy_P).all()
    assert visit.judged_P.tolist() == [0] * 4


def test_metrics_of_a_batch() -> None:
    ours = curriculum(labels={"p0": 1.0})
    choice = ours.choose(FOUR, Source(), 0)
    accuracy_PVN = rollouts(choice, 0.25)
    visit = ours.observe(choice, accuracy_PVN)
    metrics = ours.metrics(choice, accuracy_PVN)
    assert metrics.pop("difficulty") == pytest.approx(visit.new_P.mean())
    assert metrics.pop("variant_shortage") == 1, "of the problem without variants"
    assert metrics.pop("pass_rate/original") == 0.25
    assert set(metrics) <= {"pass_rate/reword", "pass_rate/harder", "pass_rate/think_step"}


@pytest.mark.parametrize("source", [Source(), None])
def test_warm_up_and_a_run_without_variants_show_originals(source: Source | None) -> None:
    ours = curriculum(warmup_steps=2, variants=3)
    warm = ours.choose(FOUR, source, 1)
    assert warm.warmup
    assert ids_of(warm) == [["original"] * 4] * 4
    assert warm.shortage == 0
    after = ours.choose(FOUR, source, 2)
    assert not after.warmup
    assert (ids_of(after)[0] != ["original"] * 4) == (source is not None)


def test_in_a_pool_a_hint_is_expected_to_do_what_others_have_done() -> None:
    def share_of_whole_solutions(**options: Any) -> float:
        ours = curriculum(selector="posterior", **options)
        # In this run hints with all steps were right half of the time, and all else was wrong.
        for pool, right in (("think_step/0", 50), ("think_step/1", 0), ("reword/+0", 0), ("harder/+2", 0)):
            ours.live.visit_prompt("elsewhere", pool, right, 100 - right)
        chosen = [ours.choose(np.arange(11), Source(), step).variant_PV for step in range(20)]
        whole = [slots[1] is not None and slots[1].steps_left == 0 for batch in chosen for slots in batch]
        return sum(whole) / len(whole)

    assert share_of_whole_solutions(variant_prior="pooled") > 0.5
    assert share_of_whole_solutions() < 0.3, "by design a whole solution makes a problem far too easy"


@pytest.mark.parametrize(
    ("variant", "pool"),
    [
        (None, "original"),
        (AcceptedVariant(0, "a", "think_step", -2.0, steps_left=3, share_left=0.75), "think_step/3"),
        (AcceptedVariant(0, "a", "harder", 2.4), "harder/+2"),
        (AcceptedVariant(0, "a", "composite", 6.0), "composite/+6"),
        (AcceptedVariant(0, "a", "reword", -0.2), "reword/+0"),
    ],
)
def test_pools_hold_prompts_that_are_as_hard(variant: AcceptedVariant | None, pool: str) -> None:
    assert pool_of(variant) == pool


def test_aimed_at_all_slots_the_original_is_one_of_the_candidates() -> None:
    labels = {"p0": 1.0} | dict.fromkeys(IDS[1:], 9.0)
    problems = np.arange(11)
    plain = curriculum(labels, selector="posterior").choose(problems, Source(), 0)
    assert all(slots[0] is None for slots in plain.variant_PV)
    ours = curriculum(labels, selector="posterior", aim="all")
    chosen = [slots for step in range(5) for slots in ids_of(ours.choose(problems, Source(), step))]
    assert all(len(set(slots)) == 2 for slots in chosen)
    originals = sum("original" in slots for slots in chosen)
    assert 0 < originals < 0.6 * len(chosen), "a problem that is too hard gets hints instead"


def test_replacements_are_other_problems() -> None:
    ours = curriculum()
    choice = ours.choose(FOUR, Source(), 7)
    silent_P = np.array([True, False, True, False])
    first, second = (ours.replacements(choice, silent_P, 7, number).tolist() for number in (1, 2))
    assert first == ours.replacements(choice, silent_P, 7, 1).tolist(), "the same on every process"
    assert first != second
    for numbers in (first, second):
        assert len(set(numbers)) == 4
        assert set(numbers).isdisjoint(FOUR.tolist())


def test_with_too_few_other_problems_silent_ones_are_replaced_first() -> None:
    ours = Curriculum(IDS[:5], CurriculumSettings())
    choice = ours.choose(np.array([4, 0, 2]), Source(), 7)
    silent_P = np.array([False, False, True])
    numbers = ours.replacements(choice, silent_P, 7, 1).tolist()
    assert numbers[1] == 0, "its own place, for another try"
    assert {numbers[0], numbers[2]} == {1, 3}
    few = Curriculum(IDS[:4], CurriculumSettings())
    choice = few.choose(np.array([3, 0, 2]), Source(), 7)
    assert few.replacements(choice, silent_P, 7, 1).tolist() == [3, 0, 1]


def test_it_loads_neither_torch_nor_trl_nor_the_store() -> None:
    code = (
        "import sys, diva_grpo.trainer.method.curriculum;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'trl', 'transformers', 'duckdb'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
