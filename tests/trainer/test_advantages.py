import json
import math
import statistics
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diva_grpo.trainer.method.advantages import (
    ADVANTAGES,
    AdvantageSettings,
    DivaAdvantages,
    dgpo_advantages,
    diva_advantages,
    dr_grpo_advantages,
)

GOLDEN: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "advantages.json").read_text(encoding="utf-8")
)
STAGES = [field.name for field in fields(DivaAdvantages)]
BALANCES = ["zscore", "minmax", "rms", "none"]
RESCALES = ["range", "low_reward", "none"]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

Rows = list[tuple[float, int, int, float]]
"""One (reward, local group, global group, difficulty) per response."""


# --- the same formulas, one response at a time, in plain Python ---


def slow_group_stage(rewards: list[float], ids: list[int], eps: float) -> list[float]:
    out = []
    for reward, own in zip(rewards, ids, strict=True):
        members = [r for r, i in zip(rewards, ids, strict=True) if i == own and not math.isnan(r)]
        if math.isnan(reward) or len(members) < 2:
            out.append(0.0)
        else:
            out.append((reward - statistics.mean(members)) / (statistics.stdev(members) + eps))
    return out


def slow_balance(values: list[float], judged: list[bool], balance: str) -> list[float]:
    batch = [v for v, j in zip(values, judged, strict=True) if j]
    if not batch or balance == "none":
        return values
    middle = 0.0
    if balance == "zscore":
        middle = statistics.mean(batch)
        scale = statistics.stdev(batch) if len(batch) > 1 else 0.0
    elif balance == "minmax":
        scale = max(abs(v) for v in batch)
    else:
        scale = math.sqrt(statistics.mean([v * v for v in batch]))
    return [(v - middle) / (scale or 1.0) if j else 0.0 for v, j in zip(values, judged, strict=True)]


def slow_rescale(
    values: list[float], rewards: list[float], ids: list[int], rescale: str, r_max: float
) -> list[float]:
    out = []
    for value, reward, own in zip(values, rewards, ids, strict=True):
        members = [r for r, i in zip(rewards, ids, strict=True) if i == own and not math.isnan(r)]
        factor = 1.0
        if math.isnan(reward):
            factor = 0.0
        elif rescale == "range":
            factor = (max(members) - min(members)) / r_max
        elif rescale == "low_reward" and all(r < 0.15 for r in members):
            factor = 0.1
        out.append(factor * value)
    return out


def slow_diva(
    rows: Rows,
    *,
    k: float,
    r_max: float,
    eps: float,
    balance: str,
    rescale: str,
    local_weight: float,
    global_weight: float,
) -> dict[str, list[float]]:
    rewards, local_ids, global_ids, difficulty = (list(column) for column in zip(*rows, strict=True))
    judged = [not math.isnan(r) for r in rewards]
    local = slow_group_stage(rewards, local_ids, eps)
    global_ = slow_group_stage(rewards, global_ids, eps)
    local_z = slow_balance(local, judged, balance)
    global_z = slow_balance(global_, judged, balance)
    weighted = []
    for i, z in enumerate(global_z):
        group = [difficulty[j] for j in range(len(rows)) if global_ids[j] == global_ids[i] and judged[j]]
        sign = (z > 0) - (z < 0)
        weighted.append(math.exp(k * (difficulty[i] - statistics.mean(group)) * sign) * z if group else 0.0)
    local_rescaled = slow_rescale(local_z, rewards, local_ids, rescale, r_max)
    global_rescaled = slow_rescale(weighted, rewards, global_ids, rescale, r_max)
    return {
        "local": local,
        "global_": global_,
        "local_batch_z": local_z,
        "global_batch_z": global_z,
        "global_weighted": weighted,
        "local_rescaled": local_rescaled,
        "global_rescaled": global_rescaled,
        "total": [
            local_weight * a + global_weight * b for a, b in zip(local_rescaled, global_rescaled, strict=True)
        ],
    }


# --- batches ---

REWARDS = st.one_of(
    st.sampled_from([0.0, 0.0, 0.1, 0.9, 1.0, 1.0]),
    st.integers(-2000, 2000).map(lambda n: n / 1000),
    st.just(math.nan),
)


@st.composite
def batches(draw: st.DrawFn) -> Rows:
    """Up to three problems of up to three variants, 2 to 6 rollouts each, any ids, any order."""
    ids = draw(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-9, 9), min_size=15, unique=True))
    rows: Rows = []
    for _ in range(draw(st.integers(1, 3))):
        problem = ids.pop()
        constant = draw(st.booleans())
        for _ in range(draw(st.integers(0, 3)) + 1):
            prompt, level = ids.pop(), float(draw(st.integers(1, 9)))
            rollouts = draw(st.integers(2, 6))
            rewards = draw(st.lists(REWARDS, min_size=rollouts, max_size=rollouts))
            rows += [(rewards[0] if constant else reward, prompt, problem, level) for reward in rewards]
    return draw(st.permutations(rows))


def columns(rows: Rows, device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rewards, local_ids, global_ids, difficulty = zip(*rows, strict=True) if rows else ((), (), (), ())
    return (
        torch.tensor(rewards, dtype=torch.float64, device=device),
        torch.tensor(local_ids, dtype=torch.int64, device=device),
        torch.tensor(global_ids, dtype=torch.int64, device=device),
        torch.tensor(difficulty, dtype=torch.float64, device=device),
    )


def assert_close(actual: torch.Tensor, expected: list[float] | torch.Tensor, tolerance: float = 1e-9) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float64, device=actual.device)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# --- golden file ---


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"seed{case['seed']}")
def test_golden_stages(case: dict[str, Any], device: str) -> None:
    rows = list(
        zip(case["rewards"], case["local_group"], case["global_group"], case["difficulty"], strict=True)
    )
    knobs: dict[str, Any] = {"k": case["k"], "r_max": case["r_max"], "eps": case["eps"]}

    parts = diva_advantages(*columns(rows, device), AdvantageSettings(**knobs))

    for stage in STAGES:
        # The file's difficulty weights carry the rounding of a float32 exponential, 1e-7 of the value.
        assert_close(getattr(parts, stage), case["expect"][stage], 1e-6)
        assert getattr(parts, stage).dtype == torch.float64
        assert getattr(parts, stage).device.type == device
    unscaled = diva_advantages(*columns(rows, device), AdvantageSettings(**knobs, rescale="none")).total
    assert_close(unscaled, case["expect"]["total_without_rescale"], 1e-6)


# --- against the loops ---


@pytest.mark.parametrize("rescale", RESCALES)
@pytest.mark.parametrize("balance", BALANCES)
@settings(max_examples=25, deadline=None)
@given(
    rows=batches(),
    k=st.sampled_from([0.0, 0.1, 1.0]),
    r_max=st.sampled_from([1.0, 2.0]),
    weights=st.sampled_from([(1.0, 1.0), (0.5, 2.0), (0.0, 1.0)]),
)
def test_every_stage_equals_the_loops(
    balance: str, rescale: str, rows: Rows, k: float, r_max: float, weights: tuple[float, float]
) -> None:
    knobs: dict[str, Any] = {
        "k": k,
        "r_max": r_max,
        "eps": 1e-6,
        "balance": balance,
        "rescale": rescale,
        "local_weight": weights[0],
        "global_weight": weights[1],
    }

    parts = diva_advantages(*columns(rows), AdvantageSettings(**knobs))

    for stage, expected in slow_diva(rows, **knobs).items():
        assert_close(getattr(parts, stage), expected)


# --- invariants ---


@given(rows=batches(), data=st.data())
@settings(max_examples=50, deadline=None)
def test_a_permuted_batch_gives_permuted_advantages(rows: Rows, data: st.DataObject) -> None:
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))))
    inputs = columns(rows)
    for advantages in ADVANTAGES.values():
        straight = advantages(*inputs).total
        rewards, local_ids, global_ids, difficulty = (tensor[order] for tensor in inputs)
        permuted = advantages(rewards, local_ids, global_ids, difficulty).total
        assert_close(permuted, straight[order])


@given(rows=batches())
@settings(max_examples=50, deadline=None)
def test_responses_not_judged_get_zero_and_change_nothing(rows: Rows) -> None:
    inputs = columns(rows)
    judged = ~inputs[0].isnan()
    for advantages in ADVANTAGES.values():
        with_unjudged = advantages(*inputs).total
        rewards, local_ids, global_ids, difficulty = (tensor[judged] for tensor in inputs)
        without = advantages(rewards, local_ids, global_ids, difficulty).total
        assert not with_unjudged[~judged].any()
        assert_close(with_unjudged[judged], without, 1e-12)


@given(rows=batches())
@settings(max_examples=50, deadline=None)
def test_advantages_of_a_group_sum_to_zero(rows: Rows) -> None:
    inputs = columns(rows)
    parts = diva_advantages(*inputs)
    for ids, stages in ((inputs[1], ("local", "local_batch_z", "local_rescaled")), (inputs[2], ("global_",))):
        for stage in stages:
            for group in set(ids.tolist()):
                assert abs(getattr(parts, stage)[ids == group].sum()) < 1e-9


@given(rows=batches())
@settings(max_examples=30, deadline=None)
def test_group_ids_are_only_names(rows: Rows) -> None:
    rewards, local_ids, global_ids, difficulty = columns(rows)
    small_local, small_global = (
        torch.unique(ids, return_inverse=True)[1].to(torch.int32) for ids in (local_ids, global_ids)
    )
    assert_close(
        diva_advantages(rewards, small_local - 100, small_global * 3, difficulty).total,
        diva_advantages(rewards, local_ids, global_ids, difficulty).total,
        1e-12,
    )


# --- edges ---


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("reward", [0.1, 0.7, 1 / 3, -0.9, 1e6 + 0.1])
@pytest.mark.parametrize("size", [1, 3, 7, 11])
def test_equal_rewards_give_exactly_zero(balance: Any, reward: float, size: int) -> None:
    rows: Rows = [(reward, 4, 9, 5.0)] * size
    parts = diva_advantages(*columns(rows), AdvantageSettings(balance=balance, rescale="none"))
    for stage in STAGES:
        assert torch.equal(getattr(parts, stage), torch.zeros(size, dtype=torch.float64)), stage
    for advantages in ADVANTAGES.values():
        assert not advantages(*columns(rows), AdvantageSettings(balance=balance, eps=0.0)).total.any()


def test_equal_rewards_give_exactly_zero_beside_groups_that_vary() -> None:
    rows: Rows = [(0.7, 0, 0, 2.0)] * 7 + [(0.1, 1, 1, 3.0), (0.3, 1, 1, 3.0), (1.0, 1, 1, 3.0)]
    parts = diva_advantages(*columns(rows), AdvantageSettings(rescale="none"))
    for stage in STAGES:
        assert not getattr(parts, stage)[:7].any(), stage
        assert getattr(parts, stage)[7:].all(), stage


def test_low_reward_counts_every_judged_reward_of_the_group() -> None:
    rows: Rows = [
        (0.0, 0, 0, 5.0),
        (0.1, 0, 0, 5.0),
        (math.nan, 0, 0, 5.0),
        (0.0, 1, 0, 5.0),
        (1.0, 1, 0, 5.0),
    ]
    parts = diva_advantages(*columns(rows), AdvantageSettings(rescale="low_reward"))
    assert_close(parts.local_rescaled[:2], 0.1 * parts.local_batch_z[:2])
    assert_close(parts.local_rescaled[3:], parts.local_batch_z[3:])
    assert_close(parts.global_rescaled, parts.global_weighted)


def test_harder_prompts_of_a_problem_weigh_more_when_right_and_less_when_wrong() -> None:
    rows: Rows = [(1.0, 0, 0, 2.0), (0.0, 0, 0, 2.0), (1.0, 1, 0, 8.0), (0.0, 1, 0, 8.0)]
    easy_right, easy_wrong, hard_right, hard_wrong = diva_advantages(
        *columns(rows), AdvantageSettings(k=0.1)
    ).total.tolist()
    assert hard_right > easy_right > 0
    assert easy_wrong < hard_wrong < 0
    assert len(set(diva_advantages(*columns(rows), AdvantageSettings(k=0.0)).total.tolist())) == 2


@pytest.mark.parametrize("rewards", [[], [math.nan], [math.nan] * 3])
@pytest.mark.parametrize("balance", BALANCES)
def test_nothing_judged_gives_zeros(rewards: list[float], balance: Any) -> None:
    rows: Rows = [(reward, 0, 0, 5.0) for reward in rewards]
    parts = diva_advantages(*columns(rows), AdvantageSettings(balance=balance))
    for stage in STAGES:
        assert getattr(parts, stage).tolist() == [0.0] * len(rewards)
    for advantages in ADVANTAGES.values():
        assert advantages(*columns(rows)).total.tolist() == [0.0] * len(rewards)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_is_computed_in_float64(dtype: torch.dtype) -> None:
    rewards, local_ids, global_ids, difficulty = columns(
        [(i % 7 / 7, i // 5, i // 10, 3.3) for i in range(20)]
    )
    rewards, difficulty = rewards.to(dtype), difficulty.to(dtype)
    actual = diva_advantages(rewards, local_ids, global_ids, difficulty).total
    assert actual.dtype == torch.float64
    exact = diva_advantages(rewards.double(), local_ids, global_ids, difficulty.double())
    assert torch.equal(actual, exact.total)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.bool])
def test_ids_of_narrow_integer_types(dtype: torch.dtype) -> None:
    rewards, _, _, difficulty = columns([(i % 3 / 2, 0, 0, 5.0) for i in range(300)])
    low, high = (0, 1) if dtype is torch.bool else (-100, 100)
    ids = torch.tensor([low, high]).repeat(150)
    narrow = ids.to(dtype)
    assert torch.equal(
        diva_advantages(rewards, narrow, narrow, difficulty).total,
        diva_advantages(rewards, ids, ids, difficulty).total,
    )


def test_inputs_are_left_as_they_were() -> None:
    inputs = columns([(i % 3 / 2, i // 4, i // 8, 1.0 + i % 9) for i in range(16)])
    before = [tensor.clone() for tensor in inputs]
    for advantages in ADVANTAGES.values():
        advantages(*inputs)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, before, strict=True))


def test_unknown_choices_are_named() -> None:
    inputs = columns([(0.0, 0, 0, 5.0)])
    with pytest.raises(ValueError, match="unknown balance 'z'; choose one of: zscore, minmax, rms, none"):
        diva_advantages(*inputs, AdvantageSettings(balance="z"))  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(ValueError, match="unknown rescale 'rrb'; choose one of: range, low_reward, none"):
        diva_advantages(*inputs, AdvantageSettings(rescale="rrb"))  # type: ignore[arg-type]  # the mistake that is tested


def test_impossible_inputs_are_refused() -> None:
    rewards, ids, _, difficulty = columns([(0.0, 0, 0, 5.0), (1.0, 0, 0, 5.0)])
    with pytest.raises(ValueError, match="r_max must be positive"):
        diva_advantages(rewards, ids, ids, difficulty, AdvantageSettings(r_max=0.0))
    with pytest.raises(ValueError, match="one value per response"):
        diva_advantages(rewards, ids[:1], ids, difficulty)
    with pytest.raises(ValueError, match="one value per response"):
        dr_grpo_advantages(rewards.view(1, 2), ids.view(1, 2), ids, difficulty)
    with pytest.raises(ValueError, match="group ids must be integers, not torch"):
        dr_grpo_advantages(rewards, difficulty, ids, difficulty)
    with pytest.raises(ValueError, match="temperature must be positive"):
        dgpo_advantages(rewards, ids, ids, difficulty, AdvantageSettings(dgpo_temperature=0.0))


# --- the alternatives ---


def slow_dgpo(rows: Rows, r_max: float, eps: float, temperature: float) -> list[float]:
    groups: dict[int, list[float]] = {}
    for reward, prompt, _, _ in rows:
        if not math.isnan(reward):
            groups.setdefault(prompt, []).append(reward)
    valid = {prompt: rewards for prompt, rewards in groups.items() if len(set(rewards)) > 1}
    powers = {p: math.exp(-statistics.mean(rewards) / r_max / temperature) for p, rewards in valid.items()}
    out = []
    for reward, prompt, _, _ in rows:
        if math.isnan(reward) or prompt not in valid:
            out.append(0.0)
            continue
        mean = statistics.mean(valid[prompt])
        mad = statistics.mean([abs(r - mean) for r in valid[prompt]])
        weight = len(valid) * powers[prompt] / sum(powers.values())
        out.append(weight * (reward - mean) / (mad + eps))
    return out


@given(rows=batches(), r_max=st.sampled_from([1.0, 2.0]), temperature=st.sampled_from([0.5, 2.0, 1e6]))
@settings(max_examples=50, deadline=None)
def test_dgpo_equals_the_loops(rows: Rows, r_max: float, temperature: float) -> None:
    actual = dgpo_advantages(*columns(rows), AdvantageSettings(r_max=r_max, dgpo_temperature=temperature))
    assert_close(actual.total, slow_dgpo(rows, r_max, 1e-6, temperature))


def test_dgpo_gives_each_question_a_share_that_grows_with_its_difficulty() -> None:
    """arXiv 2601.20614, theorem 2: with MAD the sum of |A| of a question is its size, before the weight."""
    correct_of_eight = [1, 3, 5, 7]
    rows: Rows = [(float(i < right), right, 0, 5.0) for right in correct_of_eight for i in range(8)]
    advantages = dgpo_advantages(*columns(rows), AdvantageSettings(eps=0.0)).total
    shares = advantages.abs().view(4, 8).sum(dim=1) / 8
    powers = [math.exp(-right / 8 / 2.0) for right in correct_of_eight]
    assert_close(shares, [4 * power / sum(powers) for power in powers])
    assert shares.tolist() == sorted(shares.tolist(), reverse=True)
    assert math.isclose(shares.mean(), 1.0)


@given(rows=batches())
@settings(max_examples=50, deadline=None)
def test_dr_grpo_is_reward_less_mean(rows: Rows) -> None:
    actual = dr_grpo_advantages(*columns(rows)).total
    expected = []
    for reward, prompt, _, _ in rows:
        members = [r for r, other, _, _ in rows if other == prompt and not math.isnan(r)]
        expected.append(0.0 if math.isnan(reward) else reward - statistics.mean(members))
    assert_close(actual, expected)


# --- the registry ---


def test_registry_holds_the_four_and_cannot_be_changed() -> None:
    assert list(ADVANTAGES) == ["diva", "dgpo", "dr_grpo", "grpo"]
    with pytest.raises(TypeError):
        ADVANTAGES["other"] = ADVANTAGES["diva"]  # type: ignore[index]  # the mistake that is tested


@pytest.mark.parametrize(
    "changed",
    [
        {"k": 0.7},
        {"r_max": 2.0},
        {"eps": 0.1},
        {"balance": "minmax"},
        {"rescale": "none"},
        {"local_weight": 0.3},
        {"global_weight": 1.7},
    ],
    ids=str,
)
def test_diva_reads_every_setting(changed: dict[str, Any]) -> None:
    inputs = columns([(i * 7 % 5 / 4, i // 4, i // 12, 1.0 + i % 9) for i in range(24)])
    total = diva_advantages(*inputs, AdvantageSettings(**changed)).total
    assert not torch.equal(total, diva_advantages(*inputs).total)
