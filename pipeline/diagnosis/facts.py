"""What the rules of a diagnosis judge a training run by. Plain figures: a test can write them down."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

PromptClass = Literal["original", "hinted", "other"]
"""The problem's own prompt, one with think steps, or another variant."""

CONFIDENT = 1.6448536269514722
"""Quantile of the standard normal: 95 % of it lie below, and 90 % between it and its negative."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of one class of prompts at one step; a row of the query `training`.

    Attributes:
        step: of the run.
        prompt: class of the prompts.
        groups: how many.
        rollouts: in all of them.
        accuracy: mean over groups of the share that is right; None where none was judged.
        accuracy_variance: of that share between groups.
        judged_groups: groups with an accuracy.
        reward: mean over groups of the mean reward.
        reward_variance: of the mean reward between groups.
        rewarded_groups: groups with a reward.
        completion_tokens: mean tokens of a completion.
        unjudged: rollouts without an accuracy.
        truncated: rollouts that were truncated.
        no_answer: logged rollouts that ended without an answer.
        graded: logged rollouts.
        all_right: groups that are silent because all is right.
        all_wrong: groups that are silent because all is wrong, and for no reason that is known better.
        silent: groups whose rewards are all equal.
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
    truncated: int = 0
    no_answer: int = 0
    graded: int = 0
    all_right: int = 0
    all_wrong: int = 0
    silent: int = 0


@dataclass(frozen=True, slots=True)
class Gradient:
    """What one step did to the weights; a row of the query `gradients`.

    Attributes:
        step: of the run.
        loss: of the step.
        grad_norm: norm of the gradient before clipping.
        entropy: of the policy at the completions' tokens, in nats; None where it is not known.
        seconds: of the step.
    """

    step: int
    loss: float
    grad_norm: float
    entropy: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class RewardFunction:
    """A reward function over the groups of a run; a row of the query `reward_functions`.

    Attributes:
        function: its name.
        groups: that it gave rewards in.
        differing: those of them in which two rewards differ.
        least: lowest reward; None where it gave none.
        most: highest reward.
    """

    function: str
    groups: int
    differing: int
    least: float | None
    most: float | None


@dataclass(frozen=True, slots=True)
class Graded:
    """Logged rollouts by how they were graded; a row of the query `graded`.

    Attributes:
        graded_outcome: correct, wrong, no_answer or error.
        graded_how: how the answer was found, or why not.
        rollouts: how many.
        truncated: those of them that were truncated.
    """

    graded_outcome: str
    graded_how: str | None
    rollouts: int
    truncated: int


@dataclass(frozen=True, slots=True)
class Scored:
    """A score on held-out problems.

    Attributes:
        step: training step of the model.
        split: of the problems.
        accuracy: mean over problems.
        standard_error: of that mean; None with one problem.
    """

    step: int
    split: str
    accuracy: float
    standard_error: float | None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of a training run.

    Attributes:
        groups: by step and class of prompt, in the order of the steps.
        gradients: by step.
        functions: reward functions.
        graded: logged rollouts by outcome.
        unknown: by id of a problem that the store does not have, its rollouts.
        scores: on held-out problems.
    """

    groups: Sequence[Groups] = ()
    gradients: Sequence[Gradient] = ()
    functions: Sequence[RewardFunction] = ()
    graded: Sequence[Graded] = ()
    unknown: dict[str, int] = field(default_factory=dict)
    scores: Sequence[Scored] = ()

    def steps(self) -> list[int]:
        """The steps that have rollouts, in order."""
        return sorted({row.step for row in self.groups})

    def last_third(self) -> list[Groups]:
        """The groups of the last third of the steps."""
        return [row for row in self.groups if row.step in self.thirds()[1]]

    def thirds(self) -> tuple[set[int], set[int]]:
        """The first and the last third of the steps; of fewer than two steps both are the same."""
        steps = self.steps()
        count = max(1, len(steps) // 3)
        return set(steps[:count]), set(steps[-count:])


class Trend(NamedTuple):
    """How a mean over groups moved from the first to the last third of a run.

    Attributes:
        first: mean over the first third.
        last: mean over the last third.
        error: standard error of the difference.
    """

    first: float
    last: float
    error: float

    @property
    def rise(self) -> float:
        """Last less first."""
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


class Part(NamedTuple):
    """Groups of one step: how many, their mean, the variance between them, and their rollouts."""

    groups: int
    mean: float
    variance: float
    rollouts: int


def trend(facts: Facts, parts_of: Callable[[Groups], Part | None]) -> Trend | None:
    """The trend of a mean over groups; None with fewer than three steps, or nothing to average at an end.

    Args:
        facts: of the run.
        parts_of: gives what a row counts with, or None where it does not.
    """
    if len(facts.steps()) < 3:
        return None
    first, last = (
        _mean(part for row in facts.groups if row.step in steps and (part := parts_of(row)))
        for steps in facts.thirds()
    )
    if first is None or last is None:
        return None
    return Trend(first[0], last[0], math.sqrt(first[1] + last[1]))


def _mean(parts: Iterable[Part]) -> tuple[float, float] | None:
    """Mean over groups, and the square of its standard error, which is not 0 where few rollouts are all alike."""
    found = list(parts)
    groups, rollouts = sum(part.groups for part in found), sum(part.rollouts for part in found)
    if not groups:
        return None
    mean = sum(part.groups * part.mean for part in found) / groups
    between = sum(part.groups * (part.variance + (part.mean - mean) ** 2) for part in found) / groups
    return mean, between / groups + rollouts**-2


def accuracy_of(prompt: PromptClass) -> Callable[[Groups], Part | None]:
    """For `trend`: the accuracy on a class of prompts."""

    def part(row: Groups) -> Part | None:
        if row.prompt != prompt or row.accuracy is None:
            return None
        return Part(row.judged_groups, row.accuracy, row.accuracy_variance, row.rollouts)

    return part


def reward_of(*prompts: PromptClass) -> Callable[[Groups], Part | None]:
    """For `trend`: the reward on classes of prompts."""

    def part(row: Groups) -> Part | None:
        if row.prompt not in prompts or row.reward is None:
            return None
        return Part(row.rewarded_groups, row.reward, row.reward_variance, row.rollouts)

    return part
