"""Reward functions in TRL's form: lists over completions, None for what could not be judged."""

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
"""The paper's mix (section 4.1)."""

# Reasoning inside think tags, then an answer with \boxed, as the paper's prompt demands.
_FORMAT = re.compile(r"\s*<think>.*?</think>.*\\boxed\{.+\}.*", re.DOTALL)


def completion_text(completion: Completion) -> str:
    """The text of a completion, plain or conversational."""
    return completion if isinstance(completion, str) else str(completion[-1].get("content") or "")


def accuracy_reward(
    completions: Sequence[Completion],
    answer: Sequence[str],
    options: Sequence[Sequence[str]] | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 where the project's grader calls a completion right, 0 where not, None where it cannot decide."""
    choices = options or [()] * len(completions)
    values: list[float | None] = []
    for completion, reference, choice in zip(completions, answer, choices, strict=True):
        values.append(graded(completion_text(completion), reference, tuple(choice or ())).score)
    return values


def graded(text: str, reference: str, options: tuple[str, ...]) -> Grade:
    """The grade that `accuracy_reward` gives for; asked again for the same answer, it is remembered.

    Args:
        text: a completion's, with its opening.
        reference: the right answer.
        options: texts of the choices, if there are any.
    """
    try:
        return _decided(text, reference, options)
    except _UndecidedGradeError as undecided:
        return undecided.grade


class _UndecidedGradeError(Exception):
    """What ran into a deadline may be decided the next time, so it is not remembered."""

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
    r"""1 where a completion thinks within `<think>` tags and answers in `\boxed{}` after them, else 0."""
    return [float(_FORMAT.fullmatch(completion_text(completion)) is not None) for completion in completions]


BY_NAME: dict[str, RewardFunc] = {"accuracy": accuracy_reward, "format": format_reward}


def load_rewards(names: Sequence[str]) -> tuple[list[RewardFunc], list[float] | None]:
    """Reward functions by name, and their weights where the name decides these.

    Args:
        names: `accuracy`, `format`, `paper` (0.9 accuracy and 0.1 format), or the dotted path of a user's
            own function; the working folder counts as a place to import from.

    Raises:
        ConfigError: no such function.
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
            raise ConfigError(f"reward {name!r}: choose accuracy, format, paper, or give a dotted path")
    return found, None
