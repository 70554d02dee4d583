"""Advantages of a batch of responses: DIVA-GRPO's and three alternatives, as pure functions of tensors.

All functions in `ADVANTAGES` have the signature of `AdvantageFn`. Their inputs are tensors of shape (B,) with one value
per response, for the whole batch of all processes, and the settings. They return float64 tensors of shape (B,) on the
device of the rewards. The result does not depend on padding or on the order of the rows.

A response belongs to a *local group* (the rollouts of one prompt) and to a *global group* (the rollouts of
a problem and its variants). A group id may be any integer, and groups may have different sizes. A reward of NaN means
"not judged": the response is left out of every statistic and gets the advantage 0.

In exact arithmetic the results are those of the DIVA-GRPO paper (arXiv 2603.01106). In floating point, a silent group
(all rewards equal) has exactly 0 in every stage; with the formulas as written it would have rounding errors, which the
balance over the batch could amplify. The authors' released code balances token-level tensors and includes their
padding; this module balances one value per response.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Final, Literal, Protocol, get_args

import torch
from torch import Tensor

Balance = Literal["zscore", "minmax", "rms", "none"]
Rescale = Literal["range", "low_reward", "none"]
Scale = Literal["group", "batch", "none"]

LOW_REWARD_THRESHOLD: Final = 0.15
"""With `rescale="low_reward"`, a group is low if all its rewards are below this value."""
LOW_REWARD_FACTOR: Final = 0.1
"""With `rescale="low_reward"`, the advantages of a low group are multiplied by this factor."""


@dataclass(frozen=True, slots=True)
class Advantages:
    """The result of an advantage function."""

    total: Tensor
    """The advantage of each response, float64 of shape (B,)."""


@dataclass(frozen=True, slots=True)
class DivaAdvantages(Advantages):
    """All stages of `diva_advantages`, in the order of computation. All tensors are float64 of shape (B,).

    `total` is the weighted sum of `local_rescaled` and `global_rescaled`.
    """

    local: Tensor
    """Rewards standardised within the local group."""
    global_: Tensor
    """Rewards standardised within the global group."""
    local_batch_z: Tensor
    """`local` balanced over the batch."""
    global_batch_z: Tensor
    """`global_` balanced over the batch."""
    global_weighted: Tensor
    """`global_batch_z` times the difficulty weight."""
    local_rescaled: Tensor
    """`local_batch_z` rescaled by the rewards of its local group."""
    global_rescaled: Tensor
    """`global_weighted` rescaled by the rewards of its global group."""


@dataclass(frozen=True, slots=True)
class AdvantageSettings:
    """The options of all functions in `ADVANTAGES`. Each function uses only some of them (see its docstring)."""

    k: float = 0.1
    """Strength k of DIVA's difficulty weight (stage 3 of `diva_advantages`); 0 switches it off."""
    r_max: float = 1.0
    """Largest reward that a response can get."""
    eps: float = 1e-6
    """Added to the deviation by which the centred rewards of a group are divided."""
    balance: Balance = "zscore"
    """How DIVA balances the local and the global part over the batch: stage 2 of `diva_advantages`."""
    rescale: Rescale = "range"
    """How DIVA rescales the advantages of a group by its rewards: stage 4 of `diva_advantages`."""
    local_weight: float = 1.0
    """Weight of DIVA's local part."""
    global_weight: float = 1.0
    """Weight of DIVA's global part."""
    dgpo_temperature: float = 2.0
    """Temperature of DGPO's question weights. With a larger temperature the weights are more equal."""
    scale: Scale = "group"
    """GRPO divides centred rewards by the standard deviation of the `group` or the `batch`, or by nothing (`none`)."""


DEFAULTS: Final = AdvantageSettings()
"""The paper's settings."""


class AdvantageFn(Protocol):
    """The signature of all functions in `ADVANTAGES`."""

    def __call__(
        self,
        rewards: Tensor,
        local_group: Tensor,
        global_group: Tensor,
        difficulty: Tensor,
        settings: AdvantageSettings = DEFAULTS,
    ) -> Advantages:
        """Return the advantages of a batch.

        Args:
            rewards: Reward of each response, NaN where it was not judged; any float type, shape (B,).
            local_group: Integer id of each response's prompt; shape (B,).
            global_group: Integer id of each response's problem; shape (B,).
            difficulty: Live difficulty, 1 to 9, of each response's prompt; shape (B,).
            settings: Options. Each function uses only some of them.

        Raises:
            ValueError: For a setting out of its range, group ids that are not integers, or inputs that are not
                vectors of one length.
        """
        ...


class _RewardGroups:
    """A partition of B responses into G groups, with the statistics of their rewards.

    Attributes:
        mean_G: Mean reward of each group.
        max_G: Largest reward of each group.
        range_G: Largest minus smallest reward of each group.
        centred: Rewards minus the mean of their group, shape (B,). Exactly 0 in a group whose rewards are all equal.
    """

    def __init__(self, ids: Tensor, rewards: Tensor) -> None:
        self._index, count = _numbered(ids)
        self._size_G = torch.bincount(self._index, minlength=count).to(torch.float64)
        self.max_G, min_G = (
            rewards.new_zeros(count).scatter_reduce_(0, self._index, rewards, reduce, include_self=False)
            for reduce in ("amax", "amin")
        )
        self.range_G = self.max_G - min_G
        # The computed mean of equal floats can differ from them in the last bit. The difference would be noise, which
        # a later division by a deviation of the same size would turn into a signal.
        self.mean_G = torch.where(self.range_G == 0, self.max_G, self.mean(rewards))
        self.centred = rewards - self.spread(self.mean_G)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of the responses' values in each group: (B,) to (G,)."""
        return self._sum(values) / self._size_G.clamp(min=1)

    def spread(self, values_G: Tensor) -> Tensor:
        """Return for every response the value of its group: (G,) to (B,)."""
        return values_G.index_select(0, self._index)

    def scaled(self, values: Tensor, factor_G: Tensor) -> Tensor:
        """Return every response's value times the factor of its group, shape (B,)."""
        return self.spread(factor_G).mul_(values)

    def standardised(self, eps: float) -> Tensor:
        """Return the centred rewards divided by (sample standard deviation of the group + eps), shape (B,)."""
        std_G = (self._sum(self.centred.square()) / (self._size_G - 1).clamp(min=1)).sqrt()
        return self.scaled(self.centred, 1 / _or_one(std_G + eps))

    def _sum(self, values: Tensor) -> Tensor:
        return torch.zeros_like(self._size_G).scatter_add_(0, self._index, values)


def _numbered(ids: Tensor) -> tuple[Tensor, int]:
    """Give each group a number from 0; return the number of each response's group, and how many numbers there are.

    Some numbers may have no response.

    If the ids are close together, the smallest id is subtracted. Otherwise `torch.unique` numbers them; it sorts, which
    takes longer than the rest of the computation.
    """
    if ids.is_floating_point():
        raise ValueError(f"group ids must be integers, not {ids.dtype}")
    if len(ids):
        low, high = (int(extreme) for extreme in torch.aminmax(ids))
        if high - low < 2 * len(ids):
            return ids.to(torch.int64) - low, high - low + 1
    unique, index = torch.unique(ids, return_inverse=True)
    return index, len(unique)


def diva_advantages(
    rewards: Tensor,
    local_group: Tensor,
    global_group: Tensor,
    difficulty: Tensor,
    settings: AdvantageSettings = DEFAULTS,
) -> DivaAdvantages:
    """Compute DIVA-GRPO's advantages (arXiv 2603.01106): local plus difficulty-weighted global.

    1. In each local and each global group, `(r - mean) / (std + eps)` with the sample deviation.
    2. The local and the global part are each balanced over the batch. `balance="zscore"` divides by the sample
       deviation over the batch (the mean is already 0), `rms` by the root mean square, `minmax` by the largest
       magnitude; a divisor of 0 counts as 1. `none` does nothing.
    3. The global part Z is multiplied by `exp(k * (D - Dbar) * sign(Z))`, where D is the difficulty of the response's
       prompt and Dbar the mean difficulty over the responses of its global group.
    4. Each part is rescaled by the rewards of its group. `rescale="range"` multiplies by (largest - smallest
       reward) / r_max (the paper's RRB). `low_reward` multiplies by 0.1 if all rewards are below 0.15 (the released
       code). `none` does nothing.
    5. The two parts are added with the weights `local_weight` and `global_weight`.

    Args:
        rewards: Reward of each response, NaN where it was not judged; any float type, shape (B,).
        local_group: Integer id of each response's prompt; shape (B,).
        global_group: Integer id of each response's problem; shape (B,).
        difficulty: Live difficulty, 1 to 9, of each response's prompt; shape (B,).
        settings: All options are used except `dgpo_temperature` and `scale`.

    Returns:
        All stages; `total` is the advantage.

    Raises:
        ValueError: For an unknown `balance` or `rescale`, an `r_max` that is not positive, group ids that are
            not integers, or inputs that are not vectors of one length.
    """
    _check_choice("balance", settings.balance, get_args(Balance))
    _check_choice("rescale", settings.rescale, get_args(Rescale))
    _check_r_max(settings.r_max)
    _check_shapes(rewards, local_group, global_group, difficulty)
    judged, rewards, local_group, global_group, difficulty = _judged_only(
        rewards, local_group, global_group, difficulty
    )
    in_local = _RewardGroups(local_group, rewards)
    in_global = _RewardGroups(global_group, rewards)

    local = in_local.standardised(settings.eps)
    global_ = in_global.standardised(settings.eps)
    local_batch_z = _balanced(local, settings.balance)
    global_batch_z = _balanced(global_, settings.balance)
    global_weighted = global_batch_z
    if settings.k != 0:
        difficulty = difficulty.to(torch.float64)
        harder_by = difficulty - in_global.spread(in_global.mean(difficulty))
        global_weighted = harder_by.mul_(global_batch_z.sign()).mul_(settings.k).exp_().mul_(global_batch_z)
    local_rescaled = _rescaled(local_batch_z, in_local, settings)
    global_rescaled = _rescaled(global_weighted, in_global, settings)
    parts = DivaAdvantages(
        local=local,
        global_=global_,
        local_batch_z=local_batch_z,
        global_batch_z=global_batch_z,
        global_weighted=global_weighted,
        local_rescaled=local_rescaled,
        global_rescaled=global_rescaled,
        total=torch.add(
            settings.local_weight * local_rescaled, global_rescaled, alpha=settings.global_weight
        ),
    )
    return DivaAdvantages(**{f.name: _over_all(judged, getattr(parts, f.name)) for f in fields(parts)})


def dgpo_advantages(
    rewards: Tensor,
    local_group: Tensor,
    global_group: Tensor,
    difficulty: Tensor,
    settings: AdvantageSettings = DEFAULTS,
) -> Advantages:
    """Compute DGPO's advantages: every question has the same total magnitude, then harder questions get more weight.

    Source: Dai et al., "Harder Is Better" (MathForge), arXiv 2601.20614. A question is a local group here:

        A = lambda_s * (r - mean) / (MAD + eps),   MAD = mean |r - mean|              (DGAE)
        lambda_s = S * softmax_s(D_s / temperature),   D_s = -mean reward / r_max     (DQW)

    with the softmax over the S questions whose rewards are not all equal. Because of the division by MAD instead of the
    standard deviation, the sum of |A| over a question is its number of responses times lambda_s.

    The paper takes D_s from the accuracy reward alone and averages the loss over the tokens of the S questions. Here
    D_s comes from the whole reward, and the loss is that of the trainer. Each variant of a problem is a question of its
    own.

    See `AdvantageFn` for arguments and errors. Neither `global_group` nor `difficulty` is used, and of the settings
    only `r_max`, `eps` and `dgpo_temperature`.
    """
    _check_r_max(settings.r_max)
    if settings.dgpo_temperature <= 0:
        raise ValueError(f"dgpo_temperature must be positive, not {settings.dgpo_temperature}")
    _check_shapes(rewards, local_group)
    judged, rewards, local_group = _judged_only(rewards, local_group)
    groups = _RewardGroups(local_group, rewards)
    mean_deviation_G = groups.mean(groups.centred.abs())
    balanced = groups.scaled(groups.centred, 1 / _or_one(mean_deviation_G + settings.eps))

    varies_G = groups.range_G > 0
    difficulty_G = (-groups.mean_G / settings.r_max).masked_fill(~varies_G, -torch.inf)
    # If all groups are silent, the softmax is NaN; the advantages are then 0 with any weight.
    weights_G = torch.softmax(difficulty_G / settings.dgpo_temperature, dim=0)
    weight_G = (weights_G * varies_G.sum()).nan_to_num()
    return Advantages(_over_all(judged, groups.scaled(balanced, weight_G)))


def grpo_advantages(
    rewards: Tensor,
    local_group: Tensor,
    global_group: Tensor,
    difficulty: Tensor,
    settings: AdvantageSettings = DEFAULTS,
) -> Advantages:
    """Compute GRPO's advantages as TRL does: rewards minus the mean of the local group, divided as `scale` says.

    Source: Shao et al., "DeepSeekMath", arXiv 2402.03300, equation 4 (`group`); "Part I: Tricks or Traps?", arXiv
    2508.08221 (`batch`); Dr. GRPO (`none`).

    See `AdvantageFn` for arguments and errors. Neither `global_group` nor `difficulty` is used, and of the settings
    only `scale` and `eps`.
    """
    _check_choice("scale", settings.scale, get_args(Scale))
    _check_shapes(rewards, local_group)
    judged, rewards, local_group = _judged_only(rewards, local_group)
    groups = _RewardGroups(local_group, rewards)
    match settings.scale:
        case "group":
            scaled = groups.standardised(settings.eps)
        case "batch":
            deviation = rewards.std() if len(rewards) > 1 else rewards.new_zeros(())
            scaled = groups.centred / _or_one(deviation + settings.eps)
        case "none":
            scaled = groups.centred
    return Advantages(_over_all(judged, scaled))


def normalised_sum(
    parts_BF: Tensor, weights_F: Tensor, local_group: Tensor, eps: float = DEFAULTS.eps
) -> Tensor:
    """Standardise the rewards of each reward function within each local group, then add them by weight.

    Source: GDPO, arXiv 2601.05242; TRL's `multi_objective_aggregation="normalize_then_sum"`. TRL then standardises the
    sums over the whole batch.

    Args:
        parts_BF: (B, F) reward of each response by each of F functions, NaN where it did not judge.
        weights_F: (F,) weight of each function.
        local_group: Integer id of each response's prompt; shape (B,).
        eps: Added to the deviation of each group.

    Returns:
        (B,) sums in float64; NaN where no function judged.
    """
    summed = torch.zeros(len(parts_BF), dtype=torch.float64)
    for part_B, weight in zip(parts_BF.T, weights_F.tolist(), strict=True):
        judged, rewards, groups = _judged_only(part_B, local_group)
        summed += weight * _over_all(judged, _RewardGroups(groups, rewards).standardised(eps))
    return summed.masked_fill(parts_BF.isnan().all(dim=1), torch.nan)


def dr_grpo_advantages(
    rewards: Tensor,
    local_group: Tensor,
    global_group: Tensor,
    difficulty: Tensor,
    settings: AdvantageSettings = DEFAULTS,
) -> Advantages:
    """Compute Dr. GRPO's advantages: the reward minus the mean of its local group, without a division.

    Source: Liu et al., "Understanding R1-Zero-Like Training", arXiv 2503.20783. Their other change is a loss that is
    divided by a constant instead of the response's length; that is TRL's `loss_type="dr_grpo"`.

    See `AdvantageFn` for arguments and errors. Only `rewards` and `local_group` are used.
    """
    settings = replace(settings, scale="none")
    return grpo_advantages(rewards, local_group, global_group, difficulty, settings)


def _judged_only(rewards: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return the mask of the judged responses, their rewards in float64, and their values of the other inputs."""
    judged = ~rewards.isnan()
    inputs = (rewards.to(torch.float64), *others)
    if bool(judged.all()):
        return judged, *inputs
    return judged, *(tensor[judged] for tensor in inputs)


def _over_all(judged: Tensor, values: Tensor) -> Tensor:
    """Return (B,) the values of the judged responses at their places, and 0 at the others."""
    if len(values) == len(judged):
        return values
    return values.new_zeros(len(judged)).masked_scatter_(judged, values)


def _balanced(advantages: Tensor, balance: Balance) -> Tensor:
    # The advantages of each group sum to 0, so their mean over the batch is 0 as well. Subtracting the computed mean,
    # as in the paper's z-score, would only add its rounding error to groups whose advantages are exactly 0.
    if balance == "none" or not len(advantages):
        return advantages
    match balance:
        case "zscore":
            scale = torch.linalg.vector_norm(advantages) / max(len(advantages) - 1, 1) ** 0.5
        case "rms":
            scale = torch.linalg.vector_norm(advantages) / len(advantages) ** 0.5
        case "minmax":
            scale = torch.linalg.vector_norm(advantages, ord=torch.inf)
    return advantages / _or_one(scale)


def _rescaled(advantages: Tensor, groups: _RewardGroups, settings: AdvantageSettings) -> Tensor:
    match settings.rescale:
        case "range":
            return groups.scaled(advantages, groups.range_G / settings.r_max)
        case "low_reward":
            one_G = torch.ones_like(groups.max_G)
            return groups.scaled(
                advantages, one_G.masked_fill_(groups.max_G < LOW_REWARD_THRESHOLD, LOW_REWARD_FACTOR)
            )
        case "none":
            return advantages


def _or_one(scale: Tensor) -> Tensor:
    """Return a scale to divide by, with 1 in place of 0."""
    return scale.masked_fill(scale == 0, 1.0)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose one of: {', '.join(choices)}")


def _check_r_max(r_max: float) -> None:
    if r_max <= 0:
        raise ValueError(f"r_max must be positive, not {r_max}")


def _check_shapes(*inputs: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if len(shapes[0]) != 1 or len(set(shapes)) != 1:
        raise ValueError(f"inputs must be vectors of one length, one value per response; got shapes {shapes}")


ADVANTAGES: Final[Mapping[str, AdvantageFn]] = MappingProxyType(
    {
        "diva": diva_advantages,
        "dgpo": dgpo_advantages,
        "dr_grpo": dr_grpo_advantages,
        "grpo": grpo_advantages,
    }
)
"""The advantage functions by name (`DivaGRPOConfig.advantage`)."""
