"""`PolicySolver`: a local model that answers questions, for labelling and evaluation.

A language model answers only questions without images. A vision-language model also reads images, which are opened
batch by batch, so that memory use does not grow with the number of questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)

from diva_grpo.pipeline.images.shown import ImagePath, Shown, shown_images
from diva_grpo.schemas.exceptions import ConfigError
from diva_grpo.schemas.policy import PolicyConfig, PolicyOptions
from diva_grpo.schemas.question import Question
from diva_grpo.schemas.replies import Answer, Reply
from diva_grpo.trainer.asking import (
    known_policy,
    plain_generation,
    prompts_of,
    sampling,
    template_digest,
    unapplied,
)
from diva_grpo.trainer.loading import load_model, load_processor, load_tokenizer, reads_images
from diva_grpo.trainer.prompts import with_image_parts
from diva_grpo.trainer.vision import ShownImage, each_image_once

TEXT_BATCH = 256
VISION_BATCH = 16

_NO_IMAGES = "images: the model reads text alone"


@dataclass(frozen=True, slots=True)
class _Prompt:
    """The input of the model for a question.

    Attributes:
        content: token ids for a language model, text for a vision-language model. Includes the opening.
        opening: opening of the answer (a hint with hint style `prefix`); empty if there is none.
        images: images in the order of the image parts in the content.
    """

    content: Any
    opening: str
    images: tuple[ShownImage, ...] = ()

    @property
    def order(self) -> tuple[int, int]:
        """Sort key. Prompts are put into batches in this order, so that those of a batch have similar lengths."""
        return len(self.images), len(self.content)


class _Reader(Protocol):
    """Makes a model's inputs from questions."""

    tokenizer: Any

    def prompt(self, question: Question) -> _Prompt:
        """Return the prompt of a question."""

    def batch(self, prompts: Sequence[_Prompt]) -> Any:
        """Return input tensors by name, padded on the left. All prompts must have the same number of images."""


class _TextReader:
    """Makes inputs from questions without images."""

    def __init__(self, tokenizer: Any, policy: PolicyConfig) -> None:
        self.tokenizer = tokenizer
        self._prompts = prompts_of(policy, chat=tokenizer.chat_template is not None)
        self._template_kwargs = policy.chat_template_kwargs

    def prompt(self, question: Question) -> _Prompt:
        prompt, opening = self._prompts.of_question(question)
        if isinstance(prompt, str):
            ids = self.tokenizer(prompt)["input_ids"]
        else:
            ids = self.tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_dict=True, tokenize=True, **self._template_kwargs
            )["input_ids"]
        opened = self.tokenizer(opening, add_special_tokens=False)["input_ids"] if opening else []
        return _Prompt([*ids, *opened], opening)

    def batch(self, prompts: Sequence[_Prompt]) -> Any:
        return self.tokenizer.pad({"input_ids": [p.content for p in prompts]}, return_tensors="pt")


class _VisionReader:
    """Makes inputs from questions with or without images. The images of one question are opened at a time."""

    def __init__(self, processor: Any, policy: PolicyConfig, images: ImagePath | None) -> None:
        self.tokenizer = processor.tokenizer
        self._processor = processor
        self._prompts = prompts_of(policy, chat=True)
        self._policy = policy
        self._image_path = images

    def prompt(self, question: Question) -> _Prompt:
        prompt, opening = self._prompts.of_question(question)
        messages, order = with_image_parts(prompt, len(question.image_hashes))
        text = self._processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **self._policy.chat_template_kwargs
        )
        images = tuple(ShownImage(self._shown(question), place) for place in order)
        return _Prompt(text + opening, opening, images)

    def _shown(self, question: Question) -> Shown:
        if self._image_path is None:
            raise ConfigError("the question has images: say where they lie (PolicySolver's `images`)")
        smallest, largest = self._policy.min_pixels, self._policy.max_pixels
        return shown_images(question, self._image_path, min_pixels=smallest, max_pixels=largest)

    def batch(self, prompts: Sequence[_Prompt]) -> Any:
        with each_image_once(self._processor):
            return self._processor(
                text=[prompt.content for prompt in prompts],
                images=[list(prompt.images) for prompt in prompts]
                if any(p.images for p in prompts)
                else None,
                padding=True,
                add_special_tokens=False,  # the chat template has already added them
                return_tensors="pt",
            )


class PolicySolver:
    """Answers questions by sampling from a local model.

    Prompts and sampling are those of the model's training, unless `options` say otherwise.

    Args:
        path: model folder, LoRA adapter folder, or hub name.
        batch_size: number of answers generated at once. Default: 256, or 16 for a model that reads images.
        seed: seed of the sampling.
        name: name of the solver for its labels. Default: the last part of `path`.
        images: returns the file of an image by its content hash. Without it, only questions without images are
            answered.
        usual: prompt and sampling options for a model that was not trained by `diva train`. Default: `PolicyConfig()`.
        **options: fields of `PolicyOptions` that replace those of the training or of `usual`.

    Attributes:
        policy: the prompt and sampling options in use.

    Raises:
        ConfigError: there is no such model; a vision-language model has no processor or chat template; or there is a
            system prompt for a model without a chat template.

    Example:
        >>> PolicySolver("data/demo_model", max_new_tokens=64, temperature=0).policy.max_new_tokens
        64
    """

    def __init__(
        self,
        path: str,
        *,
        batch_size: int | None = None,
        seed: int = 0,
        name: str | None = None,
        images: ImagePath | None = None,
        usual: PolicyConfig | None = None,
        **options: Any,
    ) -> None:
        sees = reads_images(path)
        self._trained = known_policy(path)
        policy = (self._trained or usual or PolicyConfig()).asked_with(PolicyOptions(**options))
        self._reader: _Reader
        if sees:
            processing = load_processor(path, policy.min_pixels, policy.max_pixels)
            self._reader = _VisionReader(processing, policy, images)
        else:
            processing = load_tokenizer(path)
            self._reader = _TextReader(processing, policy)
        self.policy = policy.model_copy(update={"chat_template": template_digest(processing)})
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = load_model(path, AutoModelForImageTextToText if sees else AutoModelForCausalLM)
        self._model = model.to(device).eval()
        self._sampling = sampling(self.policy, model, self._reader.tokenizer)
        self._batch_size = batch_size or (VISION_BATCH if sees else TEXT_BATCH)
        self._seed = seed
        self._name = name or Path(path).name
        self._reads_images = sees and images is not None

    def remarks(self) -> list[str]:
        """Return remarks for the user: options that differ from the training, and ignored settings of the model."""
        said = []
        if self._trained and (other := self.policy.differences(self._trained)):
            said.append(f"asked otherwise than in training: {other}")
        if ignored := unapplied(self._model, self.policy):
            said.append(f"the model's generation_config is not applied, as in training: it has {ignored}")
        return said

    @property
    def model(self) -> str:
        """Name of the solver."""
        return self._name

    @property
    def reads_images(self) -> bool:
        """Whether the solver can answer questions with images."""
        return self._reads_images

    def solve(
        self,
        questions: Sequence[Question],
        samples: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Answer[Reply]]]:
        """Return `samples` answers to each question, in the order of the questions. Answers include their opening.

        If a question has images and the solver cannot read them, its answers are failures.

        Args:
            questions: the questions.
            samples: number of answers to each.
            progress: called with the number of answers finished since the last call.

        Raises:
            StoreError: an image is missing.
        """
        torch.manual_seed(self._seed)
        prompts: dict[int, _Prompt] = {}
        answers: list[list[Answer[Reply]]] = [[] for _ in questions]
        for place, question in enumerate(questions):
            if question.image_hashes and not self.reads_images:
                answers[place] = [Answer(None, "", _NO_IMAGES)] * samples
            else:
                prompts[place] = self._reader.prompt(question)
        if progress and len(prompts) < len(questions):
            progress(samples * (len(questions) - len(prompts)))
        for places in self._batches(prompts, samples):
            texts = self._generate([prompts[place] for place in places])
            for place, text in zip(places, texts, strict=True):
                answers[place].append(Answer(None, prompts[place].opening + text))
            if progress:
                progress(len(places))
        return answers

    @torch.inference_mode()
    def perplexity(self, questions: Sequence[Question], answers: Sequence[str]) -> float | None:
        """Return the perplexity per token of given answers; None for a model that reads images.

        Args:
            questions: questions without images.
            answers: one answer to each question; at least one must not be empty.
        """
        if not isinstance(self._reader, _TextReader):
            return None
        loss, tokens = 0.0, 0
        for question, answer in zip(questions, answers, strict=True):
            prompt = self._reader.prompt(question).content
            given = self._reader.tokenizer(answer, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([[*prompt, *given]], device=self._model.device)
            logits = self._model(ids).logits[0, len(prompt) - 1 : -1].float()
            loss += float(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))
            tokens += len(given)
        return math.exp(loss / tokens)

    def _batches(self, prompts: dict[int, _Prompt], samples: int) -> list[list[int]]:
        """Return the numbers of the questions, each `samples` times, in batches of similar prompts.

        All prompts of a batch have the same number of images.
        """
        order = sorted(prompts, key=lambda place: (prompts[place].order, place))
        repeated = [place for place in order for _ in range(samples)]
        batches: list[list[int]] = []
        for place in repeated:
            last = batches[-1] if batches else []
            alike = last and len(prompts[last[0]].images) == len(prompts[place].images)
            if alike and len(last) < self._batch_size:
                last.append(place)
            else:
                batches.append([place])
        return batches

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[_Prompt]) -> list[str]:
        tokenizer = self._reader.tokenizer
        # Convert pixels to the model's dtype; token ids stay integers.
        inputs = self._reader.batch(prompts).to(self._model.device)
        inputs = {
            name: value.to(self._model.dtype) if torch.is_floating_point(value) else value
            for name, value in inputs.items()
        }
        with plain_generation(self._model):
            generated = self._model.generate(**inputs, generation_config=self._sampling)
        new = generated[:, inputs["input_ids"].shape[1] :]
        return list(tokenizer.batch_decode(new, skip_special_tokens=True))
