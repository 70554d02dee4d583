"""Decoded images at once, and memory, of one large generation batch of prompts with images.

    PYTHONPATH=. python tests/bench/bench_images.py [--prompts 512] [--side 800] [--eager]

Every prompt has an image of its own: half are originals, half their perturbed variants. `--eager` hands TRL opened
images in the place of references, for comparison. Counts every Pillow image in the process that is larger than what
the model sees. Run it in a process of its own: the peak of memory is the process's.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diva_grpo.pipeline.perturb import follow
from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Image as Stored
from diva_grpo.schemas.records import Kind, Problem, Status, Variant
from diva_grpo.trainer.vision import ImageRows
from tests.support.tiny_training import make_trainer
from tests.support.tiny_vision_model import IMAGE_SIZE, recipes, tiny_vision_model

GENERATIONS = 2


@dataclass
class Alive:
    """Decoded images that are in memory, and the most that ever were."""

    now: int = 0
    most: int = 0

    def more(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def less(self) -> None:
        self.now -= 1


@contextmanager
def counted() -> Iterator[Alive]:
    """Counts images whose pixels are set while it is open, until they are let go."""
    alive, original = Alive(), Image.Image.__dict__["im"]
    seen: set[int] = set()

    def gone(key: int) -> None:
        seen.discard(key)
        alive.less()

    def put(self: Image.Image, pixels: Any) -> None:
        original.__set__(self, pixels)
        large = getattr(pixels, "size", None) and pixels.size[0] * pixels.size[1] > 4 * IMAGE_SIZE**2
        if large and id(self) not in seen:
            seen.add(id(self))
            alive.more()
            weakref.finalize(self, gone, id(self))

    setattr(Image.Image, "im", property(original.fget, put))  # noqa: B010 - a property in place of another
    try:
        yield alive
    finally:
        setattr(Image.Image, "im", original)  # noqa: B010 - as above


class EagerRows(ImageRows):
    """Opens every image when its row is made."""

    def columns(self, row: Any, prompt: Any, recipe: str | None = None) -> dict[str, Any]:
        made = super().columns(row, prompt, recipe)
        opened = [image.reference[0].open()[image.reference[1]] for image in made["images"]]
        return {**made, "images": opened}


def image_store(root: Path, problems: int, side: int) -> VariantStore:
    """Problems with an image each, all different, and a rotated variant of each."""
    store = VariantStore(root, create=True)
    recipe = recipes()["image"]
    rows, variants = [], []
    for number in range(problems):
        pixels = np.full((side * 3 // 4, side, 3), 255, np.uint8)
        pixels[: 8 * (number // 256 + 1), : number % 256 + 1] = 0
        path = root / "picture.png"
        Image.fromarray(pixels).save(path, compress_level=1)
        digest = store.put_image(path.read_bytes(), "PNG")
        text = f"<image>What is {number}?"
        rows.append(
            Problem(
                problem_id=f"p/{number:05d}", source="p", split="train", text=text, answer=str(number),
                images=[Stored(hash=digest, width=side, height=side * 3 // 4)],
            )
        )  # fmt: skip
        variants.append(
            Variant(
                variant_id=f"p/{number:05d}:image", problem_id=rows[-1].problem_id, kind=Kind.IMAGE,
                status=Status.ACCEPTED,
                text=follow(recipe, text, 1), recipe=recipe.model_dump_json(), delta_designed=1.0,
                generator_model="bench", prompt_version="1",
            )
        )  # fmt: skip
    store.append(rows)
    store.append(variants)
    return store


def measure(prompts: int, side: int, eager: bool) -> None:
    """Print the figures of one batch."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = image_store(root / "store", prompts // 2, side)
        trainer = make_trainer(
            store,
            tiny_vision_model(root / "model"),
            root / "out",
            num_generations=GENERATIONS,
            per_device_train_batch_size=16,
            steps_per_generation=prompts * GENERATIONS // 16,
            gradient_accumulation_steps=prompts * GENERATIONS // 16,
            max_completion_length=4,
            max_steps=1,
        )
        if eager:
            trainer._images = EagerRows(store.image_path, max_pixels=None)
        else:
            trainer._images = ImageRows(store.image_path, max_pixels=None)
        rows = [
            row
            for row in map(dict, trainer.train_dataset.select(range(prompts // 2)))
            for _ in range(GENERATIONS * 2)
        ]
        trainer.model.train()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        with counted() as alive:
            trainer._generate_and_score_completions(rows)
        seconds = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    one = side * side * 3 // 4 * 3 / 1e6
    print(
        f"{'eager' if eager else 'by reference'}: {prompts} prompts, {len(rows)} rollouts, images of {one:.1f} MB"
    )
    print(f"decoded images at once: {alive.most} at most; left behind the batch: {alive.now}")
    print(f"peak memory above that before the batch: {(after - before) / 1024:.0f} MiB; {seconds:.0f} s")


def main() -> None:
    """Parse arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--side", type=int, default=800, help="width of the images in pixels; 3/4 of it high")
    parser.add_argument("--eager", action="store_true", help="hand TRL opened images")
    args = parser.parse_args()
    measure(args.prompts, args.side, args.eager)


if __name__ == "__main__":
    main()
