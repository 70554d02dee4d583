import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diva_grpo.pipeline.difficulty.target import target_difficulty, wanted_delta
from diva_grpo.trainer.method.selection import SELECTORS, Draw
from tests.support.scalar_selectors import SCALAR_SELECTORS, Candidate, as_arrays, beta_draws, select_one

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "selection.json").read_text(encoding="utf-8")
)
KINDS = ["reword", "harder", "think_step", "image", "image_text", "composite"]
NAMES = ["paper", "tier", "posterior", "signal", "uniform"]
DIFFICULTIES = st.floats(1, 9)
PINNED_UNIFORM = 0.0021655848089924268


def draws(count: int) -> list[Draw]:
    """The draws of one problem under many seeds."""
    return [Draw(seed, 3, "problem") for seed in range(count)]


@st.composite
def candidate_lists(draw: st.DrawFn, min_size: int = 1) -> list[Candidate]:
    ids = draw(st.lists(st.text(min_size=1, max_size=4), min_size=min_size, max_size=8, unique=True))
    return [
        Candidate(
            variant_id=variant_id,
            kind=draw(st.sampled_from(KINDS)),
            delta=draw(st.integers(-32, 32)) / 4,
            pass_rate=draw(st.none() | st.floats(0, 1)),
            right=draw(st.floats(0, 50)),
            wrong=draw(st.floats(0, 50)),
        )
        for variant_id in ids
    ]


def rewords(*deltas: float) -> list[Candidate]:
    return [Candidate(f"r{delta}", "reword", delta) for delta in deltas]


def ids(chosen: Sequence[Candidate]) -> list[str]:
    return [candidate.variant_id for candidate in chosen]


# --- targets ---


def test_target_difficulty_rounds_half_up() -> None:
    table = {1: 9, 2: 8, 3: 7, 4: 6, 5: 6, 6: 5, 7: 5, 8: 5, 9: 4}
    assert [target_difficulty(float(d)) for d in table] == list(table.values())
    halves = [1.49, 1.5, 2.5, 3.5, 4.4999, 8.49, 8.5]
    assert [target_difficulty(d) for d in halves] == [9, 8, 7, 6, 6, 5, 4]
    grid = np.array([[1.0, 2.5], [8.5, 9.0]])
    np.testing.assert_array_equal(target_difficulty(grid), [[9, 7], [4, 4]])
    np.testing.assert_array_equal(wanted_delta(grid), [[8, 4.5], [-4.5, -5]])


@pytest.mark.parametrize("case", GOLDEN)
def test_golden(case: dict[str, Any]) -> None:
    candidates = [Candidate(v["variant_id"], v["kind"], v["delta"]) for v in case["variants"]]
    assert wanted_delta(case["difficulty"]) == pytest.approx(case["wanted_delta"], abs=1e-9)
    for name in ("paper", "tier"):
        reached = set()
        for draw in draws(100):
            chosen = select_one(name, case["difficulty"], candidates, 1, draw)
            assert len(chosen) == 1
            reached.add(chosen[0].variant_id)
        assert reached == set(case[f"{name}_any_of"])


# --- all selectors ---


@pytest.mark.parametrize("name", NAMES)
@given(candidates=candidate_lists(), difficulty=DIFFICULTIES, count=st.integers(0, 12), seed=st.integers())
@settings(deadline=None)
def test_exactly_count_candidates(
    name: str, candidates: list[Candidate], difficulty: float, count: int, seed: int
) -> None:
    draw = Draw(seed, 7, "problem")
    chosen = select_one(name, difficulty, candidates, count, draw)
    assert len(chosen) == count
    assert all(any(choice is candidate for candidate in candidates) for choice in chosen)
    assert select_one(name, difficulty, candidates, count, Draw(seed, 7, "problem")) == chosen


@pytest.mark.parametrize("name", NAMES)
@given(
    candidates=st.lists(candidate_lists(min_size=0), max_size=6),
    count=st.integers(0, 5),
    seed=st.integers(0, 99),
    data=st.data(),
)
@settings(deadline=None)
def test_a_batch_is_chosen_as_each_problem_is_alone(
    name: str, candidates: list[list[Candidate]], count: int, seed: int, data: st.DataObject
) -> None:
    difficulties = [data.draw(DIFFICULTIES) for _ in candidates]
    draw_P = [Draw(seed, 7, f"problem {number}") for number in range(len(candidates))]
    ordered = [sorted(row, key=lambda candidate: candidate.variant_id) for row in candidates]
    place_PM = SELECTORS[name](np.array(difficulties), as_arrays(ordered), count, draw_P)
    assert place_PM.shape == (len(candidates), count)
    for number, places in enumerate(place_PM.tolist()):
        alone = SCALAR_SELECTORS[name](difficulties[number], candidates[number], count, draw_P[number])
        assert [ordered[number][place] for place in places if place >= 0] == alone
        assert alone or set(places) <= {-1}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [0, 1, 4])
def test_no_candidate_gives_none(name: str, count: int) -> None:
    assert select_one(name, 5.0, [], count, Draw(0, 0, "p")) == []


@pytest.mark.parametrize("name", NAMES)
@given(
    candidates=candidate_lists(), difficulty=DIFFICULTIES, count=st.integers(1, 20), seed=st.integers(0, 99)
)
@settings(deadline=None)
def test_no_repeats_while_others_are_left(
    name: str, candidates: list[Candidate], difficulty: float, count: int, seed: int
) -> None:
    if name == "paper" and count > 1:  # one think step at most, so those that may come are fewer
        candidates = [candidate for candidate in candidates if candidate.kind != "think_step"]
    uses = Counter(ids(select_one(name, difficulty, candidates, count, Draw(seed, 1, "p"))))
    if candidates:
        fewest = count // len(candidates)
        assert all(uses[candidate.variant_id] in (fewest, fewest + 1) for candidate in candidates)


# --- paper and tier: the nearest delta ---


@given(candidates=candidate_lists(), difficulty=DIFFICULTIES, seed=st.integers(0, 9))
@settings(deadline=None)
def test_paper_takes_the_nearest_delta(candidates: list[Candidate], difficulty: float, seed: int) -> None:
    table = [9, 8, 7, 6, 6, 5, 5, 5, 4]
    wanted = table[math.floor(difficulty + 0.5) - 1] - difficulty
    (choice,) = select_one("paper", difficulty, candidates, 1, Draw(seed, 0, "p"))
    assert all(abs(choice.delta - wanted) <= abs(c.delta - wanted) + 1e-8 for c in candidates)


@given(candidates=candidate_lists(), difficulty=DIFFICULTIES, seed=st.integers(0, 9))
@settings(deadline=None)
def test_tier_takes_the_nearest_delta_of_its_kinds(
    candidates: list[Candidate], difficulty: float, seed: int
) -> None:
    kinds = ["reword"] if 4 <= difficulty <= 6 else ["think_step"]
    if difficulty < 4:
        kinds = ["harder", "image", "image_text", "composite"]
    in_tier = [candidate for candidate in candidates if candidate.kind in kinds]
    draw = Draw(seed, 0, "p")
    (choice,) = select_one("tier", difficulty, candidates, 1, draw)
    if in_tier:
        assert choice.kind in kinds
        wanted = 5 - difficulty
        assert all(abs(choice.delta - wanted) <= abs(c.delta - wanted) + 1e-8 for c in in_tier)
    else:
        assert [choice] == select_one("paper", difficulty, candidates, 1, draw)


@pytest.mark.parametrize(
    ("difficulty", "kind"), [(3.99, "image"), (4.0, "reword"), (6.0, "reword"), (6.01, "think_step")]
)
def test_tier_boundaries(difficulty: float, kind: str) -> None:
    candidates = [
        Candidate("a", "image", 1.0),
        Candidate("b", "reword", 0.0),
        Candidate("c", "think_step", -2.0),
    ]
    assert select_one("tier", difficulty, candidates, 1, Draw(0, 0, "p"))[0].kind == kind


def test_tier_of_several_empties_its_kinds_first() -> None:
    candidates = [*rewords(0.0, 0.5), Candidate("t", "think_step", -2.0), Candidate("h", "harder", 2.0)]
    chosen = select_one("tier", 5.0, candidates, 4, Draw(0, 0, "p"))
    assert ids(chosen) == ["r0.0", "r0.5", "h", "t"], "the wanted delta at D = 5 is +1"


def test_ties_of_measured_deltas_ignore_rounding_errors() -> None:
    candidates = rewords(0.0, 1.4)
    assert abs(0.0 - wanted_delta(5.3)) != abs(1.4 - wanted_delta(5.3)), "0.7 each, but for rounding"
    assert len({ids(select_one("paper", 5.3, candidates, 1, draw))[0] for draw in draws(50)}) == 2


# --- paper with several variants ---


@pytest.mark.parametrize("difficulty", [1.0, 3.0, 5.4, 7.0, 9.0])
def test_targets_of_several_are_rounded_clipped_normal_draws(difficulty: float) -> None:
    means = {1.0: 8, 3.0: 7, 5.4: 6, 7.0: 4.5, 9.0: 3}
    ladder = rewords(*(target - difficulty for target in range(1, 10)))
    first = Counter(
        round(select_one("paper", difficulty, ladder, 2, draw)[0].delta + difficulty) for draw in draws(4000)
    )
    edges = stats.norm(means[difficulty], 1).cdf(np.arange(0.5, 10))
    edges[0], edges[-1] = 0, 1
    for target, probability in enumerate(np.diff(edges), start=1):
        assert first[target] / 4000 == pytest.approx(probability, abs=0.035)


def test_a_second_draw_below_the_problem_becomes_a_delta_of_0_to_3() -> None:
    ladder = rewords(*range(-8, 4))
    seen = set()
    for draw in draws(300):
        first, second = select_one("paper", 9.0, ladder, 2, draw)
        assert first.delta < 0, "the mean target at D = 9 is 3"
        seen.add(second.delta)
    assert seen == {0, 1, 2, 3}


def test_a_draw_of_the_problems_own_level_asks_for_no_hint() -> None:
    ladder = rewords(*(target - 6.3 for target in range(1, 10)))
    pairs = [[c.delta for c in select_one("paper", 6.3, ladder, 2, draw)] for draw in draws(100)]
    assert any(first == 6 - 6.3 and second < 5 - 6.3 + 1e-9 for first, second in pairs)


@given(
    candidates=candidate_lists(), difficulty=DIFFICULTIES, count=st.integers(2, 12), seed=st.integers(0, 99)
)
@settings(deadline=None)
def test_one_think_step_in_a_group_where_there_is_anything_else(
    candidates: list[Candidate], difficulty: float, count: int, seed: int
) -> None:
    chosen = select_one("paper", difficulty, candidates, count, Draw(seed, 0, "p"))
    if any(candidate.kind != "think_step" for candidate in candidates):
        assert sum(choice.kind == "think_step" for choice in chosen) <= 1


def test_think_steps_come_again_where_there_is_nothing_else() -> None:
    candidates = [Candidate("t1", "think_step", -2.0), Candidate("t2", "think_step", -8.0)]
    chosen = select_one("paper", 8.0, candidates, 4, Draw(0, 0, "p"))
    assert Counter(ids(chosen)) == {"t1": 2, "t2": 2}


# --- posterior and uniform ---


def test_posterior_takes_the_variant_that_evidence_puts_at_one_half() -> None:
    candidates = [
        Candidate("easy", "think_step", -4.0, None, 4000.0, 100.0),
        Candidate("even", "reword", 8.0, 0.0, 2000.0, 2000.0),
        Candidate("hard", "harder", 0.0, 0.5, 100.0, 4000.0),
    ]
    for draw in draws(20):
        assert ids(select_one("posterior", 5.0, candidates, 1, draw)) == ["even"]
        assert ids(select_one("posterior", 5.0, candidates, 4, draw))[3] == "even"


def test_posterior_prior_is_the_label_or_the_difficulty() -> None:
    labelled = [Candidate("a", "reword", 0.0, 1.0), Candidate("b", "reword", -8.0, 0.5)]
    unlabelled = [Candidate("a", "reword", -8.0), Candidate("b", "reword", 0.0)]
    for candidates in (labelled, unlabelled):
        chosen = Counter(
            select_one("posterior", 5.0, candidates, 1, draw)[0].variant_id for draw in draws(2000)
        )
        # Beta(5, 1) against Beta(3, 3): which is nearer to 1/2?
        rng = np.random.default_rng(0)
        nearer = np.abs(rng.beta(3, 3, 100_000) - 0.5) < np.abs(rng.beta(5, 1, 100_000) - 0.5)
        assert chosen["b"] / 2000 == pytest.approx(nearer.mean(), abs=0.04)


def hints(*pass_rates: float) -> list[Candidate]:
    """The original and hints of a solution with one step more for each further pass rate."""
    steps = len(pass_rates)
    return [
        Candidate(
            f"given {given}", "think_step" if given else "original", 0.0, rate, share_left=1 - given / steps
        )
        for given, rate in enumerate(pass_rates)
    ]


@pytest.mark.parametrize(
    ("pass_rates", "given"),
    [
        ((0.5, 0.6, 0.7, 0.8), 0),
        ((0.3, 0.5, 0.5, 0.5), 0),
        ((0.0, 0.1, 0.4, 0.8), 2),
        ((0.0, 0.0, 0.0, 0.5), 3),
    ],
)
def test_signal_gives_no_longer_a_hint_than_is_needed(pass_rates: tuple[float, ...], given: int) -> None:
    for draw in draws(5):
        chosen = select_one("signal", 9.0, hints(*pass_rates), 1, draw)
        assert ids(chosen) == [f"given {given}"]


def test_signal_never_gives_the_whole_solution_while_anything_else_is_left() -> None:
    whole = Candidate("whole", "think_step", -8.0, 0.5, share_left=0.0)
    other = Candidate("first", "think_step", -2.0, 0.1, right=0.0, wrong=500.0, share_left=0.8)
    assert ids(select_one("signal", 9.0, [whole, other], 2, Draw(0, 0, "p"))) == ["first", "whole"]


def test_signal_learns_from_rollouts() -> None:
    too_hard = Candidate("original", "original", 0.0, 0.5, right=0.0, wrong=40.0)
    hint = Candidate("hint", "think_step", -2.0, 0.5, right=20.0, wrong=20.0, share_left=0.6)
    assert ids(select_one("signal", 5.0, [too_hard, hint], 1, Draw(0, 0, "p"))) == ["hint"]


def test_signal_tries_a_hint_whose_offset_promises_too_much() -> None:
    """At difficulty 5 an offset of -4 promises a pass rate of 1, and so a signal of 0."""
    never_worked = Candidate("given 1", "think_step", -2.0, 0.01, right=0.0, wrong=40.0, share_left=0.9)
    promised = Candidate("given 2", "think_step", -4.0, None, share_left=0.8)
    assert ids(select_one("signal", 5.0, [never_worked, promised], 1, Draw(0, 0, "p"))) == ["given 2"]


def test_uniform_reaches_every_variant_equally() -> None:
    candidates = [Candidate(f"v{i}", KINDS[i], float(i)) for i in range(6)]
    chosen = Counter(select_one("uniform", 9.0, candidates, 1, draw)[0].variant_id for draw in draws(6000))
    assert stats.chisquare(list(chosen.values())).pvalue > 1e-4
    assert len(chosen) == 6


# --- draws ---


def test_draws_are_pinned() -> None:
    """A changed value would choose other variants after a resume."""
    draw = Draw(seed=42, step=7, problem_id="geo-é")
    assert draw.uniform(1, "variant") == PINNED_UNIFORM
    assert draw.index(10, 1, "variant") == int(10 * PINNED_UNIFORM)


def test_each_part_of_the_key_matters() -> None:
    base = Draw(1, 2, "p").uniform(3, "variant")
    others = [
        Draw(2, 2, "p").uniform(3, "variant"),
        Draw(1, 3, "p").uniform(3, "variant"),
        Draw(1, 2, "q").uniform(3, "variant"),
        Draw(1, 2, "p").uniform(4, "variant"),
        Draw(1, 2, "p").uniform(3, "target"),
        Draw(1, 2, "p,variant").uniform(3, ""),
        Draw(1, 2, "").uniform(3, "p,variant"),
    ]
    assert len({base, *others}) == 8


def test_draws_have_their_distributions() -> None:
    many = draws(5000)
    uniforms = [draw.uniform(1, "u") for draw in many]
    assert stats.kstest(uniforms, "uniform").pvalue > 1e-4
    assert all(0 < value < 1 for value in uniforms)
    normals = [draw.normal(3.0, 2.0, 1, "n") for draw in many]
    assert stats.kstest(normals, stats.norm(3, 2).cdf).pvalue > 1e-4
    betas = np.array([beta_draws(draw, [5.0, 1.5], [1.0, 2.5], 1, ["a", "b"]) for draw in many])
    assert stats.kstest(betas[:, 0], stats.beta(5, 1).cdf).pvalue > 1e-4
    assert stats.kstest(betas[:, 1], stats.beta(1.5, 2.5).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(betas.T)[0, 1]) < 0.05
    assert {draw.index(3, 1, "i") for draw in many} == {0, 1, 2}


def test_registry_holds_the_four_and_cannot_be_changed() -> None:
    assert list(SELECTORS) == NAMES
    with pytest.raises(TypeError):
        SELECTORS["paper"] = SELECTORS["uniform"]  # type: ignore[index]  # the mistake that is tested
