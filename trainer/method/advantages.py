"""Advantages of a batch of responses: DIVA-GRPO's and three alternatives, as pure functions of tensors.

All functions have the signature of `AdvantageFn`: one value per response, shape (B,), for the whole batch of all
processes, and the settings. They return float64 of shape (B,) on the device of the rewards. The result does not
depend on padding or on the order of the rows.

A response belongs to a *local group* (the rollouts of one prompt) and to a *global group* (the rollouts of
a problem and its variants). Groups are named by any integers and may have any sizes. A reward of NaN means
"not judged": the response is left out of every statistic and gets the advantage 0.

Departures from the DIVA-GRPO paper (arXiv 2603.01106): in exact arithmetic none. A group whose rewards are
all equal gives exactly 0 in every stage, where the formulas as written leave rounding errors for the batch
balance to blow up. The authors' released code balances token-level tensors with their padding; this does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final, Literal, Protocol, get_args

import torch
from torch import Tensor

Balance = Literal["zscore", "minmax", "rms", "none"]
Rescale = Literal["range", "low_reward", "none"]
Scale = Literal["group", "batch", "none"]

LOW_REWARD_THRESHOLD: Final = 0.15
"""`rescale="low_reward"`: a group counts as low where all its rewards are below this."""
LOW_REWARD_FACTOR: Final = 0.1
"""`rescale="low_reward"`: what the advantages of a low group are multiplied by."""


@dataclass(frozen=True, slots=True)
class Advantages:
    """What an advantage function returns."""

    total: Tensor
    """The advantage of each response, float64 of shape (B,)."""


@dataclass(frozen=True, slots=True)
class DivaAdvantages(Advantages):
    """All stages of `diva_advantages`, in the order of computation; all float64 of shape (B,).

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
    """The options of all functions in `ADVANTAGES`; each function reads those that it has."""

    k: float = 0.1
    """Strength of DIVA's difficulty weight; 0 switches it off."""
    r_max: float = 1.0
    """Largest reachable reward."""
    eps: float = 1e-6
    """Added to the deviation that a group is divided by."""
    balance: Balance = "zscore"
    """How DIVA balances the local and the global part over the batch."""
    rescale: Rescale = "range"
    """How DIVA rescales a group by its rewards."""
    local_weight: float = 1.0
    """Weight of DIVA's local part."""
    global_weight: float = 1.0
    """Weight of DIVA's global part."""
    dgpo_temperature: float = 2.0
    """Temperature of DGPO's question weights; the larger, the more equal the questions."""
    scale: Scale = "group"
    """What GRPO divides a group's centred rewards by: the deviation of the group, that of the batch, or nothing."""


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
            settings: Options; each function reads those that it has.

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
        range_G: Largest less smallest reward of each group.
        centred: Rewards less their group's mean, shape (B,); exactly 0 throughout a group of equal rewards.
    """

    def __init__(self, ids: Tensor, rewards: Tensor) -> None:
        self._index, count = _numbered(ids)
        self._size_G = torch.bincount(self._index, minlength=count).to(torch.float64)
        self.max_G, min_G = (
            rewards.new_zeros(count).scatter_reduce_(0, self._index, rewards, reduce, include_self=False)
            for reduce in ("amax", "amin")
        )
        self.range_G = self.max_G - min_G
        # The computed mean of equal floats can differ from them in the last bit. What is left would be noise
        # that a later division by a deviation of the same size turns into a signal.
        self.mean_G = torch.where(self.range_G == 0, self.max_G, self.mean(rewards))
        self.centred = rewards - self.spread(self.mean_G)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of any values of the responses in each group; (B,) to (G,)."""
        return self._sum(values) / self._size_G.clamp(min=1)

    def spread(self, values_G: Tensor) -> Tensor:
        """Give every response its group's value; (G,) to (B,)."""
        return values_G.index_select(0, self._index)

    def scaled(self, values: Tensor, factor_G: Tensor) -> Tensor:
        """Multiply every response's value by its group's factor; shape (B,)."""
        return self.spread(factor_G).mul_(values)

    def standardised(self, eps: float) -> Tensor:
        """Centred rewards over (sample standard deviation + eps), shape (B,)."""
        std_G = (self._sum(self.centred.square()) / (self._size_G - 1).clamp(min=1)).sqrt()
        return self.scaled(self.centred, 1 / _or_one(std_G + eps))

    def _sum(self, values: Tensor) -> Tensor:
        return torch.zeros_like(self._size_G).scatter_add_(0, self._index, values)


def _numbered(ids: Tensor) -> tuple[Tensor, int]:
    """Number the groups from 0 and count them; some of the numbers may have no response.

    Ids that lie close together are their own numbers: `torch.unique` sorts, which takes longer than all the
    rest of the computation.
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
    2. Each of the two is balanced over the batch. `balance="zscore"` divides by the sample deviation over the batch
       (the mean is 0 already), `rms` by the root mean square, `minmax` by the largest magnitude, where 0 counts as 1;
       `none` does nothing.
    3. The global part is multiplied by `exp(k * (D - Dbar) * sign(Z))`, Dbar the mean difficulty of the
       responses of its global group.
    4. Each part is rescaled by the rewards of its group. `rescale="range"` multiplies by (largest - smallest
       reward) / r_max (the paper's RRB), `low_reward` by 0.1 where all rewards are below 0.15 (the released code);
       `none` does nothing. The weighted parts are added.

    Args:
        rewards: Reward of each response, NaN where it was not judged; any float type, shape (B,).
        local_group: Integer id of each response's prompt; shape (B,).
        global_group: Integer id of each response's problem; shape (B,).
        difficulty: Live difficulty, 1 to 9, of each response's prompt; shape (B,).
        settings: All but `dgpo_temperature` are used.

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
    """Compute DGPO's advantages: difficulty-balanced, and weighted towards harder questions.

    Source: Dai et al., "Harder Is Better" (MathForge), arXiv 2601.20614. A question is a local group here:

        A = lambda_s * (r - mean) / (MAD + eps),   MAD = mean |r - mean|              (DGAE)
        lambda_s = S * softmax_s(D_s / temperature),   D_s = -mean reward / r_max     (DQW)

    with the softmax over the S questions whose rewards are not all equal. MAD in place of the deviation
    gives every such question the same sum of |A|, its size times lambda_s.

    The paper takes D_s from the accuracy reward alone and averages the loss over the tokens of the S
    questions; here D_s comes from the whole reward, and the loss is left to the host. The variants of a
    problem count as questions of their own.

    Args:
        rewards: Reward of each response, NaN where it was not judged; shape (B,).
        local_group: Integer id of each response's prompt; shape (B,).
        global_group: Not used.
        difficulty: Not used.
        settings: `r_max`, `eps` and `dgpo_temperature` are used.

    Raises:
        ValueError: For an `r_max` or a `dgpo_temperature` that is not positive, group ids that are not integers,
            or inputs that are not vectors of one length.
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
    # Where no group varies the softmax is NaN, and the advantages are 0 whatever the weight.
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
    """Compute GRPO's advantages as TRL does: centred rewards of the local group, divided as `settings.scale` says.

    Source: Shao et al., "DeepSeekMath", arXiv 2402.03300, equation 4 (`group`); "Part I: Tricks or Traps?", arXiv
    2508.08221 (`batch`); Dr. GRPO (`none`).

    Args:
        rewards: Reward of each response, NaN where it was not judged; shape (B,).
        local_group: Integer id of each response's prompt; shape (B,).
        global_group: Not used.
        difficulty: Not used.
        settings: `scale` and `eps` are used.

    Raises:
        ValueError: For an unknown `scale`, group ids that are not integers, or inputs that are not vectors of one
            length.
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
    """Standardise the rewards of each function within its local group, then add them by weight.

    Source: GDPO, arXiv 2601.05242; TRL's `multi_objective_aggregation="normalize_then_sum"`, which takes the sums for
    rewards of one group, the whole batch.

    Args:
        parts_BF: Reward of each response by each of F functions, NaN where it did not judge.
        weights_F: Weight of each function.
        local_group: Integer id of each response's prompt; shape (B,).
        eps: Added to the deviation of each group.

    Returns:
        (B,) sums in float64, NaN where no function judged.
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
    """Compute Dr. GRPO's advantages: the reward minus the mean of its local group, not divided by anything.

    Source: Liu et al., "Understanding R1-Zero-Like Training", arXiv 2503.20783. Their other change, a loss
    divided by a constant instead of the response's length, is TRL's `loss_type="dr_grpo"`.

    Args:
        rewards: Reward of each response, NaN where it was not judged; shape (B,).
        local_group: Integer id of each response's prompt; shape (B,).
        global_group: Not used.
        difficulty: Not used.
        settings: Not used.

    Raises:
        ValueError: For group ids that are not integers, or inputs that are not vectors of one length.
    """
    _check_shapes(rewards, local_group)
    judged, rewards, local_group = _judged_only(rewards, local_group)
    return Advantages(_over_all(judged, _RewardGroups(local_group, rewards).centred))


def _judged_only(rewards: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The mask of the judged responses, then their rewards in float64 and the other inputs for them."""
    judged = ~rewards.isnan()
    inputs = (rewards.to(torch.float64), *others)
    if bool(judged.all()):
        return judged, *inputs
    return judged, *(tensor[judged] for tensor in inputs)


def _over_all(judged: Tensor, values: Tensor) -> Tensor:
    """Put values of the judged responses in their places among all, 0 elsewhere."""
    if len(values) == len(judged):
        return values
    return values.new_zeros(len(judged)).masked_scatter_(judged, values)


def _balanced(advantages: Tensor, balance: Balance) -> Tensor:
    # Every group's advantages sum to 0, so their mean over the batch is 0 as well: to subtract it, as the
    # paper's z-score is written, would only hand the rounding error of the sum to groups that are exactly 0.
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
    """A scale to divide by: 0 counts as 1."""
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
"""The advantage functions by the name that the trainer's configuration uses."""
