"""The policy as a solver: a local model that answers questions, for labels and for evaluation.

A language model answers questions of text alone. A vision-language model also sees their images, which are
opened a batch at a time, so that memory does not grow with the number of questions.
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
    """A question as the model is to see it.

    Attributes:
        content: token ids, or text where images stand in it.
        opening: the start of the answer that a hint gives; part of the content.
        images: in the order of the content's image parts.
    """

    content: Any
    opening: str
    images: tuple[ShownImage, ...] = ()

    @property
    def order(self) -> tuple[int, int]:
        """Prompts of alike order share a batch, so that little of it is padding."""
        return len(self.images), len(self.content)


class _Reader(Protocol):
    """Turns questions into a model's inputs."""

    tokenizer: Any

    def prompt(self, question: Question) -> _Prompt:
        """The prompt of a question."""

    def batch(self, prompts: Sequence[_Prompt]) -> Any:
        """Input tensors by name, padded on the left; of prompts with equally many images."""


class _TextReader:
    """Reads questions of text alone."""

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
    """Reads questions with images, which are opened one question at a time."""

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
                add_special_tokens=False,  # the chat template has written them
                return_tensors="pt",
            )


class PolicySolver:
    """Answers by sampling from a model, asked as it was in its training unless it is to be asked otherwise.

    Args:
        path: model folder, LoRA adapter folder, or hub name.
        batch_size: answers generated at once; default 256, and 16 of a model that sees.
        seed: of the sampling.
        name: under which its labels are kept; default the path's last part.
        images: finds the images of questions; without it, only questions of text alone are answered.
        usual: how a model is asked that `diva train` has not trained.
        **options: fields of `PolicyOptions`: what to ask otherwise.

    Attributes:
        policy: how it is asked.

    Raises:
        ConfigError: no such model; one that sees without a processor or a chat template; a system prompt for one
            without a chat template.

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
        """What a user should know of how it is asked: what differs from its training, and from its own settings."""
        said = []
        if self._trained and (other := self.policy.differences(self._trained)):
            said.append(f"asked otherwise than in training: {other}")
        if ignored := unapplied(self._model, self.policy):
            said.append(f"the model's generation_config is not applied, as in training: it has {ignored}")
        return said

    @property
    def model(self) -> str:
        """Name of the policy."""
        return self._name

    @property
    def reads_images(self) -> bool:
        """Whether questions with images are answered."""
        return self._reads_images

    def solve(
        self,
        questions: Sequence[Question],
        samples: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Answer[Reply]]]:
        """`samples` answers to each question, in order; the opening that a hint gives is part of each.

        A question with images that the model cannot see is not guessed at: its answers are failures.

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
        """Perplexity at a token of given answers, one to each question; None of a model that reads images.

        Args:
            questions: of text alone.
            answers: not all empty.
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
        """Places of the questions, each `samples` times, in batches of alike prompts."""
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
        # Pixels take the model's precision, token ids stay integers.
        inputs = self._reader.batch(prompts).to(self._model.device)
        inputs = {
            name: value.to(self._model.dtype) if torch.is_floating_point(value) else value
            for name, value in inputs.items()
        }
        with plain_generation(self._model):
            generated = self._model.generate(**inputs, generation_config=self._sampling)
        new = generated[:, inputs["input_ids"].shape[1] :]
        return list(tokenizer.batch_decode(new, skip_special_tokens=True))
