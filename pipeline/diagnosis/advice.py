"""Advice before a training run, from how hard the problems are for the policy. Nothing here reads a store.

Each recommendation cites the measurements that support it, or says that there are none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

EVIDENCE = "docs/when-it-pays.md"
"""The page that all recommendations cite."""

_SOME = 0.2  # smallest share of the problems that gets a recommendation
_MIXED = 0.5  # share of groups with a signal from which on plain GRPO learns
_WIDE = 0.3  # smallest range of pass rates without a problem that counts as a gap
_LIKE_ITS_OWN = 2.0  # largest perplexity of solutions that can be imitated, relative to own answers


@dataclass(frozen=True, slots=True)
class Labelled:
    """The problems of a store that have the same label; a row of the query `spectrum`.

    Attributes:
        samples: number of judged answers to each problem.
        correct: number of correct answers among them.
        problems: number of the problems.
        with_solution: number of problems with a worked solution.
        with_hints: number of problems with an accepted hint that is not the full solution.
        one_step_left: number of problems with an accepted hint that gives all steps but one.
        hints_labelled: number of problems with a label for at least one of these hints.
        hints_help: number of problems for which the solver was right at least once with one of these hints.
    """

    samples: int
    correct: int
    problems: int
    with_solution: int = 0
    with_hints: int = 0
    one_step_left: int = 0
    hints_labelled: int = 0
    hints_help: int = 0

    @property
    def pass_rate(self) -> float:
        """Share of the answers that are correct."""
        return self.correct / self.samples


class Perplexity(NamedTuple):
    """Perplexity per token under the policy.

    Attributes:
        solutions: perplexity of the worked solutions.
        own: perplexity of the policy's own answers to the same problems.
        problems: number of problems on which both were measured.
    """

    solutions: float
    own: float
    problems: int


class Gap(NamedTuple):
    """A range of pass rates without any problem, with problems below and above it."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Spectrum:
    """How hard the problems of a store are for a solver.

    Attributes:
        solver: name of the solver.
        rows: the labelled problems, grouped by label.
        rollouts: N, the number of rollouts that training makes for each prompt.
        perplexity: perplexity of the worked solutions; None if it was not measured.
    """

    solver: str
    rows: Sequence[Labelled]
    rollouts: int
    perplexity: Perplexity | None = None

    @property
    def problems(self) -> int:
        """Number of labelled problems."""
        return sum(row.problems for row in self.rows)

    def below(self) -> float:
        """Return the expected share of problems with a pass rate below 1/N.

        It is computed from the Beta posterior of each label.
        """
        from scipy.special import betainc

        shares = (
            (r.problems, betainc(r.correct + 1, r.samples - r.correct + 1, 1 / self.rollouts))
            for r in self.rows
        )
        return sum(count * float(share) for count, share in shares) / self.problems

    def mixed(self) -> float:
        """Return the expected share of groups of N rollouts that are neither all right nor all wrong.

        It is computed from the Beta posterior of each label.
        """
        from scipy.special import beta

        n, total = self.rollouts, 0.0
        for row in self.rows:
            a, b = row.correct + 1, row.samples - row.correct + 1
            total += row.problems * (1 - float((beta(a + n, b) + beta(a, b + n)) / beta(a, b)))
        return total / self.problems

    def never(self) -> list[Labelled]:
        """Return the rows of the problems without a correct answer."""
        return [row for row in self.rows if row.correct == 0]

    def always(self) -> float:
        """Return the share of problems whose answers were all correct."""
        return sum(row.problems for row in self.rows if row.correct == row.samples) / self.problems

    def gap(self) -> Gap | None:
        """Return the widest gap between the measured pass rates, or None.

        A gap must be wider than 0.3, and wider than two answers of the label with the fewest answers. At least a tenth
        of the problems must be below it, and at least a tenth above it.
        """
        rates = sorted({row.pass_rate for row in self.rows})
        finest = min(row.samples for row in self.rows)
        found = [Gap(low, high) for low, high in pairwise(rates)]
        for gap in sorted(found, key=lambda gap: gap.low - gap.high):
            below = sum(row.problems for row in self.rows if row.pass_rate <= gap.low) / self.problems
            if gap.high - gap.low > max(_WIDE, 2 / finest) and 0.1 <= below <= 0.9:
                return gap
        return None

    def histogram(self) -> list[tuple[str, int]]:
        """Return the name and the number of problems of each range of pass rates.

        Each range is a tenth wide. The pass rates 0 and 1 are counted separately.
        """
        bins: dict[str, int] = {"0": 0, **{f"to {tenth / 10:g}": 0 for tenth in range(1, 11)}, "1": 0}
        for row in self.rows:
            whole = {0: "0", row.samples: "1"}
            tenth = -(-10 * row.correct // row.samples)
            bins[whole.get(row.correct, f"to {tenth / 10:g}")] += row.problems
        return list(bins.items())


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A recommendation to the user.

    Attributes:
        action: what to do, in a few words, with the command.
        because: the numbers of this store that are the reason.
        measured: what was measured about this action in earlier runs, or that nothing was measured yet.
    """

    action: str
    because: str
    measured: str


_SMALL = (
    "These are models of 0.2 million parameters on a made-up task. Compare with plain GRPO on the same rollouts before "
    "you pay for more"
)


def advise(spectrum: Spectrum) -> list[Recommendation]:
    """Return recommendations for the problems of a spectrum, the most important first; at least one."""
    never = spectrum.never()
    hard = sum(row.problems for row in never)
    found: list[Recommendation] = []
    if spectrum.mixed() >= _MIXED:
        found.append(_plain(spectrum))
    if hard and spectrum.below() >= _SOME:
        found += _hard(spectrum, never, hard)
    if spectrum.always() >= _SOME:
        found.append(
            Recommendation(
                "drop the easiest problems, or request harder variants: diva generate --kinds harder",
                f"{spectrum.always():.0%} of the problems were right in every answer: their groups will be silent",
                "Where half of the problems were always right and half never, harder variants of the ones and hints "
                f"of the others brought the hard ones to 0.92, GRPO stayed at 0.00 ({EVIDENCE}, What was measured). "
                + _SMALL,
            )
        )
    return found or [_plain(spectrum)]


def _plain(spectrum: Spectrum) -> Recommendation:
    return Recommendation(
        "plain GRPO first: diva train --num_variants 0",
        f"{spectrum.mixed():.0%} of the groups of {spectrum.rollouts} rollouts are expected to have a signal without "
        "any variant",
        f"From start pass rates of 0.07 and 0.11 the paper's method is level with GRPO ({EVIDENCE}, What was measured)",
    )


def _hard(spectrum: Spectrum, never: Sequence[Labelled], hard: int) -> list[Recommendation]:
    """Return recommendations for the problems that were never answered correctly.

    Args:
        spectrum: the spectrum.
        never: the rows of these problems.
        hard: the number of these problems.
    """
    why = f"{hard} of {spectrum.problems} problems were never right"
    solved, reach = sum(row.with_solution for row in never), sum(row.one_step_left for row in never)
    found = []
    perplexity = spectrum.perplexity
    alike = perplexity is None or perplexity.solutions <= _LIKE_ITS_OWN * perplexity.own
    if solved >= hard / 2 and alike:
        known = (
            f"their solutions have a perplexity of {perplexity.solutions:.1f} under the policy, and its own answers "
            f"{perplexity.own:.1f}"
            if perplexity
            else "whether the policy can imitate the solutions is not known: --policy measures it"
        )
        found.append(
            Recommendation(
                "train on the solutions first: diva export OUT --preset sft, then label again with the new policy",
                f"{why}, and {solved} of them have worked solutions; {known}",
                f"Supervised training on solutions in the policy's own manner reached GRPO's final accuracy in a fifth "
                f"of the steps or fewer ({EVIDENCE}, What was measured)",
            )
        )
    if reach >= hard / 2:
        found.append(_hints(spectrum, never, f"{why}; the hints of {reach} of them reach one step left"))
    else:
        found.append(
            Recommendation(
                "write hint ladders, or drop these problems and mine easier ones: diva generate --kinds think_step",
                f"{why}, and the hints of only {reach} of them reach one step left",
                "Hints that leave several steps do not bring the first right answer: at 4 steps, with three of them "
                f"given, a warm model was right in 0.25 of its answers, with one given in 0.02 ({EVIDENCE}; "
                "tests/bench/lock/results/README.md)",
            )
        )
    return found


def _hints(spectrum: Spectrum, never: Sequence[Labelled], why: str) -> Recommendation:
    labelled, helped = sum(row.hints_labelled for row in never), sum(row.hints_help for row in never)
    if labelled:
        why += f"; with a hint {helped} of {labelled} had a right answer"
    gap = spectrum.gap()
    why += (
        f"; no problem has a pass rate between {gap.low:g} and {gap.high:g}, so GRPO has no curriculum of its own"
        if gap
        else "; the spectrum has no gap: GRPO may reach them by itself"
    )
    return Recommendation(
        "DIVA with hints: diva train --preset hints",
        why,
        "Where no rollout without a hint was right, this configuration ended at an accuracy of 0.99 (90 % interval "
        f"0.99 to 1.00), GRPO at 0.00 ({EVIDENCE}, What was measured). " + _SMALL,
    )
