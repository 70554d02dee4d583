"""The columns of exported rows, for each preset (each trainer).

They follow the documentation of these projects: TRL's GRPOTrainer (`prompt`, `images`, and further columns for the
reward functions) and SFTTrainer (prompt and completion), veRL (docs/preparation/prepare_data.rst and its Geometry3K
example: data_source, prompt, ability, reward_model, extra_info, images) and EasyR1 (README, Custom Dataset: problem,
answer, images). The columns for `verifiers` are read by `diva_grpo.trainer.hosts.verifiers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diva_grpo.pipeline.export.rows import Picture, TrainingRow
from diva_grpo.pipeline.export.verl import data_source

if TYPE_CHECKING:
    from datasets import Features

ABOUT = {
    "problem_id": "problem that the row belongs to",
    "variant_id": "variant, or `original`",
    "kind": "what the variant does: reword, harder, think_step, image, image_text, composite; or original",
    "source": "data set that the problem comes from",
    "delta": "difficulty offset to the original, in levels of 1 to 9 (negative is easier)",
    "difficulty": "measured difficulty from 1 to 9 (null where it was not measured)",
}
"""Columns that every preset has, with their descriptions. The preset `verl` has them inside `extra_info`."""

_COLUMNS: Mapping[str | None, Mapping[str, str]] = {
    None: {
        "split": "split of the problem",
        "text": "the question, without options and hint; <image> or <image1> mark where images stand",
        "options": "texts of the choices A, B, ... (empty: an open question)",
        "hint": "first steps of a solution, given with the question",
        "answer": "reference answer",
        "solution_steps": "worked solution of the original, a step each (may be empty)",
        "generator_model": "model that wrote the variant",
        "prompt_version": "version of the prompt that it was asked with",
    },
    "trl": {
        "prompt": "the question as a conversation (or as text, by --prompt text)",
        "answer": "reference answer",
        "solution": "the same in math mode, as trl.rewards.accuracy_reward reads it",
    },
    "sft": {
        "prompt": "the question as a conversation (or as text, by --prompt text)",
        "completion": "the worked solution, which ends with the boxed answer, likewise",
        "answer": "reference answer",
    },
    "verl": {
        "data_source": "data set that the problem comes from, by the name that veRL knows it by",
        "prompt": "the question as a conversation, <image> where an image stands",
        "ability": "always math",
        "reward_model": "style rule, and the reference answer as ground_truth",
        "extra_info": "split, index, question, answer, options, and what the row is",
    },
    "easyr1": {
        "problem": "the question, <image> where an image stands",
        "answer": "reference answer",
    },
    "verifiers": {
        "prompt": "the question, <image> where an image stands",
        "answer": "reference answer",
        "options": "texts of the choices A, B, ... (empty: an open question)",
        "hint_steps": "steps of a solution in the question (0: no hint)",
    },
}
_IMAGES = {"images": "images in the order in which they stand in the question"}


@dataclass(frozen=True)
class Shape:
    """The columns of a row for a preset.

    Attributes:
        preset: `trl`, `verl`, `easyr1`, `verifiers`, `sft`, or None for all columns without changes.
        with_images: whether there is a column `images`.
        prompt: form of the prompt for the presets `trl` and `sft`: `chat` or `text`.
        instruction: text that is appended to each question.
        data_source: for the preset `verl`, the `data_source` of all rows; None derives it from the source of each row.
    """

    preset: str | None
    with_images: bool
    prompt: str = "chat"
    instruction: str = ""
    data_source: str | None = None

    @property
    def descriptions(self) -> dict[str, str]:
        """The columns in order, with their descriptions."""
        about = {} if self.preset == "verl" else ABOUT
        return {**about, **_COLUMNS[self.preset], **(_IMAGES if self.with_images else {})}

    def features(self) -> Features:
        """Return the columns with their types, as `datasets` features."""
        from datasets import Features, Image, List, Value

        text, texts, number = Value("string"), List(Value("string")), Value("float64")
        content = List({"type": text, "text": text}) if self.with_images else text
        about = {name: number if name in ("delta", "difficulty") else text for name in ABOUT}
        chat = List({"role": text, "content": text})
        special: dict[str, Any] = {
            "options": texts,
            "hint": texts,
            "solution_steps": texts,
            "hint_steps": Value("int64"),
            "reward_model": {"style": text, "ground_truth": text},
            "extra_info": {
                "split": text,
                "index": Value("int64"),
                "question": text,
                "answer": text,
                **about,
                "options": texts,
            },
            "images": List(Image()),
            **about,
        }
        if self.preset == "verl":
            special["prompt"] = chat
        elif self.preset == "verifiers":
            special["prompt"] = text
        elif self.prompt == "chat":
            special["prompt"] = special["completion"] = List({"role": text, "content": content})
        return Features({name: special.get(name, text) for name in self.descriptions})

    def row(self, row: TrainingRow, index: int) -> tuple[dict[str, Any], Sequence[Picture]]:
        """Return the columns of a row, and its images. The writer adds the images as the column `images`.

        Args:
            row: the original or variant.
            index: number of the row in its split, from 0.
        """
        values, pictures = row.values, row.pictures
        found = {name: values[name] for name in ABOUT}
        if self.preset is None:
            plain = {name: values[name] for name in _COLUMNS[None]}
            return {**found, **plain, "hint": values["hint"] or []}, pictures
        parts, pictures = row.placed(self.instruction)
        flat = "".join("<image>" if part["type"] == "image" else part["text"] for part in parts)
        answer = values["answer"]
        if self.preset == "easyr1":
            return {**found, "problem": flat, "answer": answer}, pictures
        if self.preset == "verifiers":
            own = {"prompt": flat, "options": values["options"], "hint_steps": len(values["hint"] or ())}
            return {**found, **own, "answer": answer}, pictures
        if self.preset == "sft":
            return {**found, **self._with_completion(parts, values), "answer": answer}, pictures
        if self.preset == "trl":
            said: Any = [{"type": part["type"], "text": part.get("text")} for part in parts]
            content = said if self.with_images else flat
            prompt = flat if self.prompt == "text" else [{"role": "user", "content": content}]
            return {**found, "prompt": prompt, "answer": answer, "solution": f"${answer}$"}, pictures
        extra = {"split": values["split"], "index": index, "question": flat, "answer": answer, **found}
        extra["options"] = values["options"]
        return {
            "data_source": self.data_source or data_source(values["source"]),
            "prompt": [{"role": "user", "content": flat}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": answer},
            "extra_info": extra,
        }, pictures

    def _with_completion(self, parts: list[dict[str, str]], values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns `prompt` and `completion`. The completion contains the boxed answer, as rewards expect."""
        solution = "\n".join(values["solution_steps"])
        if "\\boxed" not in solution:
            solution += f"\n\nThe answer is $\\boxed{{{values['answer']}}}$."
        if self.prompt == "text":
            return {"prompt": "".join(part["text"] for part in parts), "completion": solution}
        asked: Any = [{"type": part["type"], "text": part.get("text")} for part in parts]
        replied: Any = [{"type": "text", "text": solution}]
        if not self.with_images:
            asked, replied = "".join(part["text"] for part in parts), solution
        return {
            "prompt": [{"role": "user", "content": asked}],
            "completion": [{"role": "assistant", "content": replied}],
        }
