"""Reward functions in TRL's form: they return a value per completion, or None if it could not be judged."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from diva_grpo.pipeline.grade import Grade, grade
from diva_grpo.schemas.exceptions import ConfigError

Completion = str | list[dict[str, Any]]
RewardFunc = Callable[..., list[float | None]]

PAPER_WEIGHTS = {"accuracy_reward": 0.9, "format_reward": 0.1}
"""Weights of the reward functions in the paper (section 4.1)."""

# Reasoning inside think tags, then an answer with \boxed, as the paper's prompt asks for.
_FORMAT = re.compile(r"\s*<think>.*?</think>.*\\boxed\{.+\}.*", re.DOTALL)


def completion_text(completion: Completion) -> str:
    """Return the text of a completion. If it is conversational, return the content of its last message."""
    return completion if isinstance(completion, str) else str(completion[-1].get("content") or "")


def accuracy_reward(
    completions: Sequence[Completion],
    answer: Sequence[str],
    options: Sequence[Sequence[str]] | None = None,
    **columns: Any,
) -> list[float | None]:
    """Return 1 for each completion that the project's grader finds right, 0 for a wrong one, None if it cannot decide.

    Args:
        completions: plain or conversational completions.
        answer: reference answer of each.
        options: texts of the choices of each; None if there are none.
        **columns: further columns of the dataset, which are not used.
    """
    choices = options or [()] * len(completions)
    values: list[float | None] = []
    for completion, reference, choice in zip(completions, answer, choices, strict=True):
        values.append(graded(completion_text(completion), reference, tuple(choice or ())).score)
    return values


def graded(text: str, reference: str, options: tuple[str, ...]) -> Grade:
    """Return the grade on which `accuracy_reward` is based.

    Grades are cached, except those that the grader could not decide.

    Args:
        text: text of a completion, with its opening.
        reference: the reference answer.
        options: texts of the choices; empty if there are none.
    """
    try:
        return _decided(text, reference, options)
    except _UndecidedGradeError as undecided:
        return undecided.grade


class _UndecidedGradeError(Exception):
    """Raised for a grade that must not be cached: the grader reached its time limit, and may decide the next time."""

    def __init__(self, grade: Grade) -> None:
        super().__init__(grade.how)
        self.grade = grade


@lru_cache(maxsize=4_096)
def _decided(text: str, reference: str, options: tuple[str, ...]) -> Grade:
    found = grade(text, reference, options=options)
    if found.outcome == "error":
        raise _UndecidedGradeError(found)
    return found


def format_reward(completions: Sequence[Completion], **columns: Any) -> list[float | None]:
    r"""Return 1 for each completion with reasoning in `<think>` tags and then an answer in `\boxed{}`, else 0."""
    return [float(_FORMAT.fullmatch(completion_text(completion)) is not None) for completion in completions]


BY_NAME: dict[str, RewardFunc] = {"accuracy": accuracy_reward, "format": format_reward}


def load_rewards(names: Sequence[str]) -> tuple[list[RewardFunc], list[float] | None]:
    """Return reward functions by name, and their weights.

    Args:
        names: names of functions: `accuracy`, `format`, or the dotted path of a user's own function, which is imported
            from the working folder or the environment. `paper` alone stands for 0.9 accuracy and 0.1 format.

    Returns:
        The functions, and their weights if `names` is `paper`, else None.

    Raises:
        ConfigError: there is no such function.
    """
    if list(names) == ["paper"]:
        return [accuracy_reward, format_reward], list(PAPER_WEIGHTS.values())
    found: list[RewardFunc] = []
    for name in names:
        module, _, attribute = name.rpartition(".")
        if name in BY_NAME:
            found.append(BY_NAME[name])
        elif module:
            if str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            try:
                found.append(getattr(importlib.import_module(module), attribute))
            except (ImportError, AttributeError) as error:
                raise ConfigError(f"reward {name}: {error}") from error
        else:
            raise ConfigError(
                f"reward {name!r}: choose accuracy or format, give a dotted path, or give paper as the only name"
            )
    return found, None
