"""A tiny vision-language model, and a store of problems with images, that tests build for themselves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from diva_grpo.flows.demo.vision import IMAGE_SIZE, IMAGE_TOKENS, tiny_processor, tiny_vision_model
from diva_grpo.pipeline.perturb import follow, make_operation
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.recipe import OperationName, Recipe
from diva_grpo.schemas.records import Image, Problem, Variant

__all__ = ["IMAGE_SIZE", "IMAGE_TOKENS", "tiny_processor", "tiny_vision_model"]

COLOURS = ("red", "green", "blue", "orange", "purple", "grey")


def colour_image(store: VariantStore, colour: str, size: tuple[int, int] = (60, 40)) -> Image:
    """A picture of one colour with a black bar, kept in a store."""
    picture = PillowImage.new("RGB", size, colour)
    picture.paste("black", (0, 0, size[0] // 3, size[1]))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Image(hash=store.put_image(buffer.getvalue(), "PNG"), width=size[0], height=size[1])


def recipes() -> dict[str, Recipe]:
    """A recipe of each kind of image variant, by kind."""
    turn, noise, question = (
        make_operation(name, 0.3, 1)
        for name in (OperationName.ROTATE, OperationName.GAUSSIAN_NOISE, OperationName.QUESTION)
    )
    return {
        "image": Recipe(operations=(turn,), seed=1),
        "image_text": Recipe(operations=(question,), seed=1),
        "composite": Recipe(operations=(turn, noise), seed=1),
    }


def vision_store(
    root: Path, *, one: int = 4, two: int = 1, text: int = 1, kinds: tuple[str, ...] = ("image", "think_step")
) -> VariantStore:
    """A store of problems with one image, with two, and with none, and accepted variants of the given kinds."""
    store = VariantStore(root, create=True)
    problems: list[Problem] = []
    for number, images in enumerate([1] * one + [2] * two + [0] * text):
        places = "".join(f"<image{i + 1}>" for i in range(images))
        colours = [COLOURS[(number + i) % len(COLOURS)] for i in range(images)]
        problems.append(
            Problem(
                problem_id=f"see/{number:03d}",
                source="see",
                split="train",
                text=f"{places}How much is {number} + 1?",
                answer=str(number + 1),
                images=[colour_image(store, colour) for colour in colours],
                solution_steps=[f"{number} + 1 = {number + 1}"],
            )
        )
    store.append(problems)
    store.append([variant for problem in problems for variant in _variants(problem, kinds)])
    return store


def _variants(problem: Problem, kinds: tuple[str, ...]) -> list[Variant]:
    common: dict[str, Any] = {"problem_id": problem.problem_id, "status": "accepted"}
    common |= {"generator_model": "test", "prompt_version": "test-1"}
    made = []
    for kind in kinds:
        name = f"{problem.problem_id}:{kind}:0"
        recipe = recipes().get(kind)
        if recipe is not None and problem.images:
            shown = follow(recipe, problem.text, len(problem.images))
            own: dict[str, Any] = {"recipe": recipe.model_dump_json(), "text": shown, "delta_designed": 2.0}
        elif recipe is None and kind == "think_step":
            own = {"text": problem.text, "hint": problem.solution_steps, "hint_steps": 1, "hint_total": 1}
            own |= {"delta_designed": -8.0}
        else:
            own = {"text": f"{problem.text} Say it.", "delta_designed": 0.0}
        kept = kind if "hint" in own or "recipe" in own else "reword"
        made.append(Variant.model_validate({"variant_id": name, "kind": kept, **own, **common}))
    return made
