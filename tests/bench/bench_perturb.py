"""Images a second on one core, array in and array out: every operation alone, and every pair of them.

python tests/bench/bench_perturb.py --side 1000 --strength 0.5 --repeats 5
"""

from __future__ import annotations

import argparse
import time
from itertools import combinations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from diva_grpo.pipeline.perturb import make_operation, render
from diva_grpo.schemas.recipe import OperationName, Recipe

QUESTION = (
    "The diagram shows a square and a circle. What is the area of the shaded part, in square metres? " * 3
)


def picture(side: int) -> npt.NDArray[np.uint8]:
    """Lines and letters on a gradient with grain: neither flat nor noise, (side, side, 3)."""
    ramp = np.linspace(90, 250, side, dtype=np.float32)
    grain = np.random.default_rng(0).normal(0, 4, (side, side, 3)).astype(np.float32)
    image = Image.fromarray((ramp[:, None, None] * 0.5 + ramp[None, :, None] * 0.5 + grain).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for step in range(40, side, 97):
        draw.line((step, 0, side - step, side), fill=(20, 20, 20), width=3)
        draw.text((step, step), f"A{step}", fill=(160, 0, 0))
    return np.asarray(image)


def cpu_seconds(pixels: npt.NDArray[np.uint8], recipe: Recipe, repeats: int) -> float:
    """Median processor time of one rendering, after one that fills the tables."""
    times = []
    for _ in range(repeats + 1):
        began = time.process_time()
        [image], _ = render(recipe, [Image.fromarray(pixels)], QUESTION)
        np.asarray(image)
        times.append(time.process_time() - began)
    return float(np.median(times[1:]))


def main() -> None:
    """Prints the figures; they fail nothing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1000, help="pixels; 1000 is one megapixel")
    parser.add_argument("--strength", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    pixels = picture(options.side)

    def seconds(*names: OperationName) -> float:
        operations = tuple(make_operation(name, options.strength, 1) for name in names)
        return cpu_seconds(pixels, Recipe(operations=operations, seed=1), options.repeats)

    for name in OperationName:
        print(f"{name:18} {1 / seconds(name):6.1f} a second")
    pairs = {(a, b): seconds(a, b) for a, b in combinations(OperationName, 2)}
    for pair, slowest in sorted(pairs.items(), key=lambda item: -item[1])[:3]:
        print(f"{' + '.join(pair):32} {1 / slowest:6.1f} a second, among the slowest of {len(pairs)} pairs")
    print(f"{'all ten':18} {1 / seconds(*OperationName):6.1f} a second")


if __name__ == "__main__":
    main()
