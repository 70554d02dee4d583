"""The samplers of problems as they are read: one problem at a time. The oracle of those over arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from diva_grpo.trainer.method.difficulty import RETENTION

CANDIDATES = 8


@dataclass(slots=True)
class Seen:
    """What is known of one problem."""

    prior: float
    right: float = 0.0
    wrong: float = 0.0
    visited_at: int = -1
    outcome: str = "mixed"
    """Of the last visit with a judged rollout: `mixed`, `easy` or `hard`."""


class ScalarHistory:
    """Draws problems for a run, and remembers their visits."""

    def __init__(self, priors: Sequence[float]) -> None:
        self.problems = [Seen(prior) for prior in priors]
        self.drawn = 0
        self.step = -1
        self.before_step = 0

    def visit(self, number: int, right: int, judged: int) -> None:
        """Note the rollouts of one problem of the last draw."""
        seen = self.problems[number]
        seen.visited_at = self.drawn
        if judged:
            seen.right = RETENTION * seen.right + right
            seen.wrong = RETENTION * seen.wrong + judged - right
            seen.outcome = "easy" if right == judged else "hard" if right == 0 else "mixed"

    def draw(
        self, sampler: str, count: int, step: int, revisit: float, generator: np.random.Generator
    ) -> dict[int, str]:
        """Draw problems; row numbers, each with how it was chosen."""
        if step != self.step:
            self.step, self.before_step = step, self.drawn
        self.drawn += count
        free = [i for i, seen in enumerate(self.problems) if seen.visited_at <= self.before_step]
        order = [int(i) for i in generator.permutation(np.array(free, np.int64))]
        pick = self._signal if sampler == "difficulty" else self._pool
        chosen = pick(order, count, revisit, generator)
        others = [i for i in range(len(self.problems)) if i not in chosen]
        if len(chosen) < count:
            for number in generator.permutation(np.array(others, np.int64))[: count - len(chosen)]:
                chosen[int(number)] = "filled"
        return chosen

    def _signal(
        self, order: Sequence[int], count: int, revisit: float, generator: np.random.Generator
    ) -> dict[int, str]:
        candidates = order[: CANDIDATES * count]
        signal: dict[int, float] = {}
        for number, uniform in zip(candidates, generator.random(len(candidates)).tolist(), strict=True):
            seen = self.problems[number]
            left = 0.5 ** ((self.drawn - seen.visited_at) / len(self.problems))
            alpha = 1 + 4 * seen.prior + left * seen.right
            beta = 1 + 4 * (1 - seen.prior) + left * seen.wrong
            rate = float(special.betaincinv(alpha, beta, uniform))
            signal[number] = rate * (1 - rate)
        best = sorted(candidates, key=lambda number: -signal[number])[:count]
        return dict.fromkeys(best, "signal")

    def _pool(
        self, order: Sequence[int], count: int, revisit: float, generator: np.random.Generator
    ) -> dict[int, str]:
        in_turn = sorted(order, key=lambda number: self.problems[number].visited_at)
        aside = [number for number in in_turn if self.problems[number].outcome != "mixed"]
        fresh = [number for number in in_turn if self.problems[number].outcome == "mixed"]
        wanted = sum(uniform < revisit for uniform in generator.random(count).tolist())
        chosen = dict.fromkeys(fresh[: count - min(wanted, len(aside))], "open")
        return {**chosen, **dict.fromkeys(aside[: count - len(chosen)], "revisit")}
