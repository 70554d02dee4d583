"""How a question becomes a prompt of the policy, with a chat template or without one."""

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
    """Builds the prompts of originals and variants alike, in training, labelling and evaluation.

    Attributes:
        chat: whether prompts are conversations (the tokenizer has a chat template) or plain text.
        system: system message of a conversation, if any.
        instruction: added after the question, such as where to put the answer.
        hint_style: `prompt` (steps in the question) or `prefix` (steps open the answer).
        hint_opening: text before the steps that open an answer.

    Raises:
        ConfigError: a system message where prompts are plain text, which has no place for it.
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
        """The prompt of a question; the hint is left out where it opens the answer instead."""
        shown = hint if self.hint_style == "prompt" else ()
        question = render_question(text, options=options, hint=shown) + self.instruction
        if not self.chat:
            return question + "\n"
        messages = [{"role": "system", "content": self.system}] if self.system else []
        return [*messages, {"role": "user", "content": question}]

    def prefix(self, hint: Sequence[str]) -> str:
        """The opening of the answer that a hint gives; empty where it stands in the question."""
        if not hint or self.hint_style == "prompt":
            return ""
        return self.hint_opening + "\n".join(hint) + "\n"

    def of_question(self, question: Question) -> tuple[Prompt, str]:
        """Prompt and opening of the answer, for a solver's question."""
        return self.prompt(question.text, question.options, question.hint), self.prefix(question.hint)


def with_image_parts(prompt: Prompt, images: int) -> tuple[list[dict[str, Any]], list[int]]:
    """A prompt as a conversation of parts, with parts for its images where their placeholders stand.

    Args:
        prompt: a conversation, or a plain text, which becomes a user message.
        images: how many it has; they belong to the user's last message.

    Returns:
        The messages, and the number (from 0) of the image that each image part stands for.
    """
    said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages: list[dict[str, Any]] = []
    order: list[int] = []
    for message in said:
        parts, places = place_images(message["content"], images if message is said[-1] else 0)
        messages.append({**message, "content": parts})
        order += places
    return messages, order
