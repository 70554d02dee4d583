"""`PromptBuilder` makes the policy's prompts from questions, with a chat template or without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.policy import HintStyle
from diva_grpo.schemas.question import Question, place_images, render_question

Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class PromptBuilder:
    """Builds the prompts of originals and variants for training, labelling and evaluation.

    Attributes:
        chat: whether prompts are conversations (the tokenizer has a chat template) or plain text.
        system: system message of a conversation; None for no system message.
        instruction: text added after the question, such as where to put the answer.
        hint_style: `prompt` (the hint is part of the question) or `prefix` (the hint is the start of the answer).
        hint_opening: with `prefix`, a text before the hint.

    Raises:
        ConfigError: there is a system message, but prompts are plain text.
    """

    chat: bool
    system: str | None = None
    instruction: str = ""
    hint_style: HintStyle = "prompt"
    hint_opening: str = ""

    def __post_init__(self) -> None:
        if self.system and not self.chat:
            raise ConfigError(
                "the model has no chat template, so a system prompt would have no effect: leave it out, or give the "
                "tokenizer a template"
            )

    def prompt(self, text: str, options: Sequence[str] = (), hint: Sequence[str] = ()) -> Prompt:
        """Return the prompt of a question. With hint style `prefix` it does not contain the hint (see `prefix`).

        Args:
            text: text of the question.
            options: texts of the choices, if any.
            hint: steps of the hint, if any.
        """
        shown = hint if self.hint_style == "prompt" else ()
        question = render_question(text, options=options, hint=shown) + self.instruction
        if not self.chat:
            return question + "\n"
        messages = [{"role": "system", "content": self.system}] if self.system else []
        return [*messages, {"role": "user", "content": question}]

    def prefix(self, hint: Sequence[str]) -> str:
        """Return the opening of the answer: the hint with hint style `prefix`, else an empty text."""
        if not hint or self.hint_style == "prompt":
            return ""
        return self.hint_opening + "\n".join(hint) + "\n"

    def of_question(self, question: Question) -> tuple[Prompt, str]:
        """Return the prompt of a question, and the opening of its answer (empty if it has none)."""
        return self.prompt(question.text, question.options, question.hint), self.prefix(question.hint)


def with_image_parts(prompt: Prompt, images: int) -> tuple[list[dict[str, Any]], list[int]]:
    """Return a prompt as messages whose content is a list of parts, with image parts in place of the placeholders.

    Args:
        prompt: a conversation, or a plain text, which becomes a user message.
        images: number of images; they belong to the last message.

    Returns:
        The messages, and for each image part, in order, the number of its image from 0.
    """
    said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages: list[dict[str, Any]] = []
    order: list[int] = []
    for message in said:
        parts, places = place_images(message["content"], images if message is said[-1] else 0)
        messages.append({**message, "content": parts})
        order += places
    return messages, order
