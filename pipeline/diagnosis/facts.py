"""The facts of a training run that the rules of a diagnosis use. They are plain numbers, so tests can write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

PromptClass = Literal["original", "hinted", "other"]
"""Class of a prompt: the original, a variant with think steps as a hint, or any other variant."""

CONFIDENT = 1.6448536269514722
"""The 95 % quantile of the standard normal distribution. A 90 % interval is the mean plus and minus this many standard
errors."""


class Part(NamedTuple):
    """A value of some groups, such as their accuracy.

    Attributes:
        groups: number of groups.
        mean: mean over these groups.
        variance: variance between these groups.
        rollouts: number of their rollouts.
    """

    groups: int
    mean: float
    variance: float
    rollouts: int

    @property
    def error_squared(self) -> float:
        """Square of the standard error of the mean. The term rollouts**-2 keeps it above 0 if all groups are equal."""
        return self.variance / self.groups + self.rollouts**-2


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of one class of prompts at one step; a row of the query `training`.

    Attributes:
        step: step of the run.
        prompt: class of the prompts.
        groups: number of groups.
        rollouts: number of rollouts in all these groups.
        accuracy: mean over groups of the share of right rollouts; None if no rollout was judged.
        accuracy_variance: variance of that share between groups.
        judged_groups: number of groups with an accuracy.
        reward: mean over groups of the group's mean reward; None if no rollout has a reward.
        reward_variance: variance of the mean reward between groups.
        rewarded_groups: number of groups with a reward.
        completion_tokens: mean number of tokens of a completion.
        unjudged: number of rollouts without an accuracy.
        truncated_not_right: number of truncated rollouts that are not right. A truncated rollout is right if its answer
            comes before it was truncated.
        no_answer: number of rollouts that ended, were graded, and had no answer.
        graded: number of rollouts in the groups that have a recorded outcome of grading.
        all_right: number of groups that are silent because all rollouts are right.
        all_wrong: number of groups that are silent because all rollouts are wrong. Groups that are mostly truncated or
            mostly without an answer are not counted.
        silent: number of groups whose rewards are all equal.
        steps: number of steps that the row stands for, from `step` on; above 1 only in a long run without a store.
    """

    step: int
    prompt: PromptClass
    groups: int
    rollouts: int
    accuracy: float | None = None
    accuracy_variance: float = 0.0
    judged_groups: int = 0
    reward: float | None = None
    reward_variance: float = 0.0
    rewarded_groups: int = 0
    completion_tokens: float = 0.0
    unjudged: int = 0
    truncated_not_right: int = 0
    no_answer: int = 0
    graded: int = 0
    all_right: int = 0
    all_wrong: int = 0
    silent: int = 0
    steps: int = 1

    @property
    def accuracies(self) -> Part | None:
        """The accuracies of the groups; None if no rollout was judged."""
        if self.accuracy is None:
            return None
        return Part(self.judged_groups, self.accuracy, self.accuracy_variance, self.rollouts)

    @property
    def rewards(self) -> Part | None:
        """The mean rewards of the groups; None if no rollout has a reward."""
        if self.reward is None:
            return None
        return Part(self.rewarded_groups, self.reward, self.reward_variance, self.rollouts)


@dataclass(frozen=True, slots=True)
class Gradient:
    """Loss and gradient of one training step; a row of the query `gradients`.

    Attributes:
        step: step of the run.
        loss: loss of the step.
        grad_norm: norm of the gradient before clipping.
        entropy: mean entropy of the policy per token of the completions, in nats; None if it is not known.
        seconds: duration of the step.
        steps: number of steps that the row stands for, as in `Groups`.
    """

    step: int
    loss: float
    grad_norm: float
    entropy: float | None
    seconds: float
    steps: int = 1


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """The rewards of one reward function in all groups of a run; a row of the query `reward_functions`.

    Attributes:
        function: name of the function.
        groups: number of groups for which it was called.
        differing: number of groups in which its rewards are not all equal.
        least: lowest reward; None if it returned none.
        most: highest reward; None if it returned none.
    """

    function: str
    groups: int
    differing: int
    least: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class Graded:
    """Rollouts that were graded in the same way; a row of the query `graded`.

    Attributes:
        graded_outcome: `correct`, `wrong`, `no_answer` or `error`.
        graded_how: how the answer was found, or why none was found; None if not recorded.
        rollouts: number of the rollouts.
        truncated: number of the rollouts that were truncated.
    """

    graded_outcome: str
    graded_how: str | None
    rollouts: int
    truncated: int


@dataclass(frozen=True, slots=True)
class Scored:
    """The result of an evaluation on held-out problems.

    Attributes:
        step: training step of the evaluated model.
        split: split of the problems.
        accuracy: mean accuracy over problems.
        standard_error: standard error of that mean; None if there was only one problem.
    """

    step: int
    split: str
    accuracy: float
    standard_error: float | None


@dataclass(frozen=True, slots=True)
class Facts:
    """All facts of a training run.

    Attributes:
        groups: the groups by step and class of prompt, in the order of the steps.
        gradients: loss and gradient of each step.
        functions: the reward functions.
        graded: the graded rollouts, by outcome.
        unknown: the number of rollouts for each problem that the store does not have, by problem_id.
        scores: evaluations on held-out problems.
    """

    groups: Sequence[Groups] = ()
    gradients: Sequence[Gradient] = ()
    functions: Sequence[RewardFunction] = ()
    graded: Sequence[Graded] = ()
    unknown: dict[str, int] = field(default_factory=dict)
    scores: Sequence[Scored] = ()

    def steps(self) -> list[int]:
        """Return the steps with rollouts, in ascending order; of steps that were merged, the first."""
        return sorted({row.step for row in self.groups})

    def step_count(self) -> int:
        """Return the number of steps with rollouts."""
        counts: dict[int, int] = {}
        for row in self.groups:
            counts[row.step] = max(row.steps, counts.get(row.step, 0))
        return sum(counts.values())

    def last_third(self) -> list[Groups]:
        """Return the groups of the last third of the steps."""
        last = self.thirds()[1]
        return [row for row in self.groups if row.step in last]

    def thirds(self) -> tuple[set[int], set[int]]:
        """Return the steps of the first third and of the last third, each at least one step.

        If there are fewer than two steps, both sets are equal.
        """
        steps = self.steps()
        count = max(1, len(steps) // 3)
        return set(steps[:count]), set(steps[-count:])


class Trend(NamedTuple):
    """How a mean over groups changed from the first to the last third of the steps of a run.

    Attributes:
        first: mean in the first third.
        last: mean in the last third.
        error: standard error of the difference of the two means.
    """

    first: float
    last: float
    error: float

    @property
    def rise(self) -> float:
        """`last` minus `first`."""
        return self.last - self.first

    @property
    def at_least(self) -> float:
        """Lower end of the 90 % interval of the rise."""
        return self.rise - CONFIDENT * self.error

    @property
    def at_most(self) -> float:
        """Upper end of the 90 % interval of the rise."""
        return self.rise + CONFIDENT * self.error

    def __str__(self) -> str:
        return f"{self.first:.2f} in the first third of the steps, {self.last:.2f} in the last"


def trend(facts: Facts, parts_of: Callable[[Groups], Part | None]) -> Trend | None:
    """Return the trend of a mean over groups.

    Args:
        facts: facts of the run.
        parts_of: function that returns the contribution of a row of `facts.groups`, or None if the row does not count,
            for example `accuracy_of("original")`.

    Returns:
        The trend; None if the run has fewer than three steps, or if nothing counts in its first or last third.
    """
    if len(facts.steps()) < 3:
        return None
    first, last = (
        pooled(part for row in facts.groups if row.step in steps and (part := parts_of(row)))
        for steps in facts.thirds()
    )
    if first is None or last is None:
        return None
    return Trend(first.mean, last.mean, math.sqrt(first.error_squared + last.error_squared))


def pooled(parts: Iterable[Part]) -> Part | None:
    """Return the groups of several parts as one part; None without groups."""
    found = list(parts)
    groups = sum(part.groups for part in found)
    if not groups:
        return None
    mean = sum(part.groups * part.mean for part in found) / groups
    variance = sum(part.groups * (part.variance + (part.mean - mean) ** 2) for part in found) / groups
    return Part(groups, mean, variance, sum(part.rollouts for part in found))


def accuracy_of(prompt: PromptClass) -> Callable[[Groups], Part | None]:
    """Return a function for `trend` that selects the accuracy on one class of prompts."""

    def part(row: Groups) -> Part | None:
        return row.accuracies if row.prompt == prompt else None

    return part


def reward_of(*prompts: PromptClass) -> Callable[[Groups], Part | None]:
    """Return a function for `trend` that selects the reward on some classes of prompts."""

    def part(row: Groups) -> Part | None:
        return row.rewards if row.prompt in prompts else None

    return part
