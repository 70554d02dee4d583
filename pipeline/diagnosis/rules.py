"""The rules of a diagnosis. They take the facts of a training run and return findings; nothing here reads a store.

A rule is a function of the facts. It returns its evidence in words, or None if it finds nothing. If random variation
could explain a difference, a rule requires that the 90 % interval of the difference excludes 0. The thresholds are next
to the rules that use them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from diva_grpo.pipeline.diagnosis.facts import (
    CONFIDENT,
    Facts,
    Groups,
    Trend,
    accuracy_of,
    reward_of,
    trend,
)


class Cause(StrEnum):
    """What can be wrong with a training run."""

    UNKNOWN_PROBLEMS = "unknown_problems"
    UNJUDGED = "unjudged"
    TRUNCATED = "truncated"
    NO_ANSWER = "no_answer"
    CONSTANT_REWARD = "constant_reward"
    ALL_WRONG = "all_wrong"
    ALL_RIGHT = "all_right"
    COPYING = "copying"
    OTHER_REWARD = "other_reward"
    ENTROPY = "entropy_collapse"
    LENGTH = "length_collapse"
    NOT_LEARNT = "nothing_learnt"


WITHOUT_GAIN = (Cause.COPYING, Cause.OTHER_REWARD, Cause.NOT_LEARNT)
"""Causes that mean that the policy did not become better on the originals."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that finds one cause.

    Attributes:
        cause: the cause that the rule finds.
        title: the finding in a few words.
        to_do: what a user can do about it.
        examples: SQL condition that selects rollouts as examples, on the columns of `rollouts` and on the `kind` of
            their variant.
        judge: function that returns the evidence in words, or None if it finds nothing.
    """

    cause: Cause
    title: str
    to_do: str
    examples: str
    judge: Callable[[Facts], str | None]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found.

    Attributes:
        rule: the rule that found it.
        evidence: the numbers that show it, in words.
    """

    rule: Rule
    evidence: str


def find(facts: Facts) -> list[Finding]:
    """Apply all rules to the facts of a run and return the findings. A cause comes before its consequences."""
    judged = ((rule, rule.judge(facts)) for rule in RULES)
    return [Finding(rule, evidence) for rule, evidence in judged if evidence]


def originals(facts: Facts) -> Trend | None:
    """Return how the accuracy on originals without hints changed over the run; None if unknown (see `trend`)."""
    return trend(facts, accuracy_of("original"))


# --- what rewards are made of

_MUCH_UNJUDGED = 0.05
_MANY_TRUNCATED = 0.3
_MANY_WITHOUT_ANSWER = 0.2
_FEWEST_GROUPS = 8


def _unknown_problems(facts: Facts) -> str | None:
    if not facts.unknown:
        return None
    first = next(iter(facts.unknown))
    return (
        f"{len(facts.unknown)} problems with {sum(facts.unknown.values()):,} rollouts are not in the store, such as "
        f"{first}: no variants or labels can be found for them"
    )


def _share(rows: Sequence[Groups], part: Callable[[Groups], int], whole: Callable[[Groups], int]) -> float:
    return sum(map(part, rows)) / (sum(map(whole, rows)) or 1)


def _unjudged(facts: Facts) -> str | None:
    share = _share(facts.groups, lambda row: row.unjudged, lambda row: row.rollouts)
    return f"{share:.0%} of all rollouts have no accuracy" if share >= _MUCH_UNJUDGED else None


def _truncated(facts: Facts) -> str | None:
    share = _share(facts.last_third(), lambda row: row.truncated_not_right, lambda row: row.rollouts)
    if share < _MANY_TRUNCATED:
        return None
    return f"{share:.0%} of the completions in the last third of the steps were truncated, and are not right"


def _no_answer(facts: Facts) -> str | None:
    share = _share(facts.last_third(), lambda row: row.no_answer, lambda row: row.graded)
    if share < _MANY_WITHOUT_ANSWER:
        return None
    how = ", ".join(
        f"{row.rollouts - row.truncated} {row.graded_how or 'without a reason'}"
        for row in facts.graded
        if row.graded_outcome == "no_answer" and row.rollouts > row.truncated
    )
    return f"in {share:.0%} of the logged completions that ended, the grader found no answer ({how})"


def _constant_reward(facts: Facts) -> str | None:
    constant = [row for row in facts.functions if row.groups >= _FEWEST_GROUPS and not row.differing]

    def values(least: float | None, most: float | None) -> str:
        if least is None or most is None:
            return "no reward at all"
        return (
            f"always {least:g}" if least == most else f"from {least:g} to {most:g}, but equal within a group"
        )

    named = (f"{row.function} ({values(row.least, row.most)}, {row.groups} groups)" for row in constant)
    return f"no two rollouts of a group differ by {' or by '.join(named)}" if constant else None


# --- silent groups

_MOSTLY = 0.6


def _all_wrong(facts: Facts) -> str | None:
    return _silent(facts, "all wrong", lambda row: row.all_wrong)


def _all_right(facts: Facts) -> str | None:
    return _silent(facts, "all right", lambda row: row.all_right)


def _silent(facts: Facts, what: str, part: Callable[[Groups], int]) -> str | None:
    rows = facts.last_third()
    share = _share(rows, part, lambda row: row.groups)
    if share < _MOSTLY or sum(row.groups for row in rows) < _FEWEST_GROUPS:
        return None
    of_originals = [row for row in rows if row.prompt == "original"]
    apart = _share(of_originals, part, lambda row: row.groups)
    also = f", and {apart:.0%} of those of originals" if len(of_originals) < len(rows) else ""
    return f"{share:.0%} of the groups in the last third of the steps are {what}{also}"


# --- what training changed

_LEARNT = 0.8  # accuracy on originals from which on little is left to learn
_NO_RISE = 0.05  # upper limit for the rise of the accuracy, and for half the width of its interval
_RISE = 0.05  # smallest rise of the reward that counts
_OPEN = 0.4  # smallest difference of accuracy between hinted prompts and originals that counts


def _not_rising(facts: Facts) -> Trend | None:
    """Return the trend of the accuracy on originals if it is known not to rise although more could be learnt.

    Otherwise return None: the accuracy rises or is high, too little is known, or the accuracy on held-out problems
    rises.
    """
    found = originals(facts)
    if found is None or found.last >= _LEARNT or found.at_least > 0:
        return None
    # With few groups the interval of the rise is wide, and a small rise cannot be told from a small fall.
    if max(found.at_most, found.at_most - found.rise) >= _NO_RISE:
        return None
    return None if _scores_rise(facts) else found


def _scores_rise(facts: Facts) -> bool:
    """Whether, on any held-out split, the accuracy rose significantly from the first to the last evaluation."""
    for split in {score.split for score in facts.scores}:
        of_split = sorted((s for s in facts.scores if s.split == split), key=lambda score: score.step)
        before, after = of_split[0], of_split[-1]
        errors = (before.standard_error or 0.0) ** 2 + (after.standard_error or 0.0) ** 2
        if after.accuracy - before.accuracy > CONFIDENT * errors**0.5:
            return True
    return False


def _copying(facts: Facts) -> str | None:
    still, hinted = _not_rising(facts), trend(facts, accuracy_of("hinted"))
    reward = trend(facts, reward_of("original", "hinted", "other"))
    if still is None or hinted is None or reward is None or hinted.last - still.last < _OPEN:
        return None
    rises = reward.at_least > 0 and reward.rise >= _RISE
    if not rises and hinted.last < 1 - _NO_RISE:
        return None
    return (
        f"accuracy with hints: {hinted}; on originals without hints: {still}; reward of all prompts: {reward}. The "
        "policy uses what the hints give away, and does not learn to solve the problems without them"
    )


def _other_reward(facts: Facts) -> str | None:
    still, reward = _not_rising(facts), trend(facts, reward_of("original"))
    if still is None or reward is None or reward.at_least <= 0 or reward.rise < _RISE:
        return None
    return f"reward of originals: {reward}; their accuracy: {still}"


def _not_learnt(facts: Facts) -> str | None:
    norms = [row.grad_norm for row in facts.gradients]
    if norms and not any(norms):
        steps = sum(row.steps for row in facts.gradients)
        return f"the gradient was 0 at all {steps} steps, so no weight has changed"
    still = _not_rising(facts)
    if still is None or _copying(facts) or _other_reward(facts):
        return None
    return f"accuracy on originals without hints: {still}"


# --- collapse

_SMALL_ENTROPY = 0.02  # nats per token; below it, nearly all answers to a prompt are equal
_SHORT = 0.25


def _entropy(facts: Facts) -> str | None:
    first, last = facts.thirds()
    before = [g.entropy for g in facts.gradients if g.step in first and g.entropy is not None]
    after = [g.entropy for g in facts.gradients if g.step in last and g.entropy is not None]
    right = originals(facts)
    if not before or not after or right is None or right.last >= _LEARNT:
        return None
    began, ended = sum(before) / len(before), sum(after) / len(after)
    if ended >= min(_SMALL_ENTROPY, began / 2):
        return None
    return (
        f"entropy at a token: {began:.3f} in the first third of the steps, {ended:.4f} in the last, while originals "
        f"are right in {right.last:.0%} of their rollouts"
    )


def _length(facts: Facts) -> str | None:
    def mean(steps: set[int]) -> float:
        rows = [row for row in facts.groups if row.step in steps]
        return sum(row.completion_tokens * row.groups for row in rows) / (sum(r.groups for r in rows) or 1)

    began, ended = map(mean, facts.thirds())
    right = originals(facts)
    if right is None or right.at_least > 0 or ended >= _SHORT * began:
        return None
    return f"completions have {began:.0f} tokens in the first third of the steps, and {ended:.0f} in the last"


RULES: tuple[Rule, ...] = (
    Rule(
        Cause.UNKNOWN_PROBLEMS,
        "The store does not know the problems",
        "Train on the problems of this store: build the data set from `store.problems()`, or ingest the source and use "
        "its ids.",
        "problem_id NOT IN (SELECT problem_id FROM problems)",
        _unknown_problems,
    ),
    Rule(
        Cause.UNJUDGED,
        "Rollouts are not judged",
        "Look at `graded_how` of the examples. An answer that runs into the grader's deadline, or a reward function "
        "that returns None, gives no reward: make the reference answers simpler, or repair the function.",
        "accuracy IS NULL",
        _unjudged,
    ),
    Rule(
        Cause.TRUNCATED,
        "Completions are truncated",
        "Raise `--max_completion_length`, or ask for shorter answers with `--instruction`. Check that the model's chat "
        "template ends an answer.",
        "finish = 'truncated' AND accuracy IS DISTINCT FROM 1",
        _truncated,
    ),
    Rule(
        Cause.NO_ANSWER,
        "The grader finds no answer",
        "Say in `--instruction` where to put the answer, such as in \\boxed{}. Try an example with `diva grade`.",
        "graded_outcome = 'no_answer' AND finish = 'ended'",
        _no_answer,
    ),
    Rule(
        Cause.CONSTANT_REWARD,
        "A reward function never differs",
        "Repair it, or leave it out: within a group it changes no advantage.",
        "reward IS NOT NULL",
        _constant_reward,
    ),
    Rule(
        Cause.ALL_WRONG,
        "Most groups are all wrong",
        "The problems are too hard, or right answers are not recognised: read the examples first. Then give more "
        "hints (`diva generate`, `diva top-up`), use easier problems, or train on solutions first (`diva advise`).",
        "accuracy = 0",
        _all_wrong,
    ),
    Rule(
        Cause.ALL_RIGHT,
        "Most groups are all right",
        "The problems are too easy by now: stop, request harder variants (`diva top-up`), or bring harder problems.",
        "accuracy = 1",
        _all_right,
    ),
    Rule(
        Cause.COPYING,
        "The policy copies the hints",
        "Give fewer steps and no full solutions, keep originals among the prompts (`--aim variants`), and judge the "
        "run by `diva eval` alone.",
        "accuracy = 1 AND kind = 'think_step'",
        _copying,
    ),
    Rule(
        Cause.OTHER_REWARD,
        "The reward rises, the accuracy does not",
        "Another reward function rises: lower its weight (`--reward_weights`), or repair it.",
        "accuracy = 0 AND variant_id = 'original'",
        _other_reward,
    ),
    Rule(
        Cause.ENTROPY,
        "The entropy has collapsed",
        "The rollouts of a group are nearly the same: lower `--learning_rate`, raise `--temperature` or "
        "`--entropy_coef`, or set `--beta`.",
        "accuracy = 0",
        _entropy,
    ),
    Rule(
        Cause.LENGTH,
        "The completions have become short",
        "The policy stops to reason, or fools a reward function: read the examples, and use `--loss_type dr_grpo` or "
        "a reward for right answers alone.",
        "true",
        _length,
    ),
    Rule(
        Cause.NOT_LEARNT,
        "Nothing was learnt",
        "See the findings above first. If there are none: a higher `--learning_rate`, more steps, or more rollouts per "
        "prompt (`--num_generations`).",
        "accuracy = 0 AND variant_id = 'original'",
        _not_learnt,
    ),
)
"""All rules, in the order in which a user should look at their findings."""
