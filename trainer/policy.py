"""The policy as a solver: a local model that answers questions, for labels and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from schemas.exceptions import ConfigError
from schemas.question import Question
from schemas.replies import Answer, Reply
from trainer.prompts import HintStyle, PromptBuilder


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, padding on the left as generation needs.

    Raises:
        ConfigError: no such model.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, padding_side="left")
    except OSError as error:
        raise ConfigError(f"model {path}: {str(error).strip().splitlines()[0]}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class PolicySolver:
    """Answers by sampling from a model with the prompts that it is trained on.

    Args:
        path: model folder or hub name.
        prompts: default: a conversation where the tokenizer has a chat template, else plain text.
        hint_style: of the default prompts, as in training.
        max_new_tokens: longest answer.
        temperature: of sampling; 0 takes the likeliest token.
        batch_size: answers generated at once.
        seed: makes the samples.
        name: under which its labels are kept; default the path's last part.

    Raises:
        ConfigError: no such model.
    """

    def __init__(
        self,
        path: str,
        prompts: PromptBuilder | None = None,
        *,
        hint_style: HintStyle = "prompt",
        max_new_tokens: int = 512,
        temperature: float = 1.0,
        batch_size: int = 256,
        seed: int = 0,
        name: str | None = None,
    ) -> None:
        self._tokenizer: Any = load_tokenizer(path)
        chat = self._tokenizer.chat_template is not None
        self._prompts = prompts or PromptBuilder(chat=chat, hint_style=hint_style)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = AutoModelForCausalLM.from_pretrained(path)
        self._model = model.to(device).eval()
        self._sampling: dict[str, Any] = {"max_new_tokens": max_new_tokens, "do_sample": temperature > 0}
        if temperature > 0:
            self._sampling |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
        self._batch_size, self._seed = batch_size, seed
        self._name = name or Path(path).name

    @property
    def model(self) -> str:
        """Name of the policy."""
        return self._name

    def solve(
        self,
        questions: Sequence[Question],
        samples: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Answer[Reply]]]:
        """`samples` answers to each question, in order; the opening that a hint gives is part of each."""
        torch.manual_seed(self._seed)
        tokens, openings = [], []
        for question in questions:
            prompt, opening = self._prompts.of_question(question)
            if isinstance(prompt, str):
                ids = self._tokenizer(prompt)["input_ids"]
            else:
                ids = self._tokenizer.apply_chat_template(
                    prompt, add_generation_prompt=True, return_dict=True, tokenize=True
                )["input_ids"]
            opened = self._tokenizer(opening, add_special_tokens=False)["input_ids"] if opening else []
            tokens.append([*ids, *opened])
            openings.append(opening)
        answers: list[list[Answer[Reply]]] = [[] for _ in questions]
        # Alike lengths share a batch, so that little of it is padding.
        order = sorted((len(ids), i) for i, ids in enumerate(tokens) for _ in range(samples))
        for start in range(0, len(order), self._batch_size):
            places = [place for _, place in order[start : start + self._batch_size]]
            for place, text in zip(places, self._generate([tokens[place] for place in places]), strict=True):
                answers[place].append(Answer(None, openings[place] + text))
            if progress:
                progress(len(places))
        return answers

    @torch.inference_mode()
    def _generate(self, prompts: list[list[int]]) -> list[str]:
        batch = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._model.device)
        generated = self._model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            pad_token_id=self._tokenizer.pad_token_id,
            **self._sampling,
        )
        new = generated[:, batch["input_ids"].shape[1] :]
        return list(self._tokenizer.batch_decode(new, skip_special_tokens=True))
