"""A store with known shortages: problems of each sort that a top-up meets, with what it should decide."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.schemas.records import Attempt, DifficultyEvent, Label, Problem, Setting, Variant
from tests.support.store_records import label

RUN = "train-1"
LAST_STEP = 300
THINGS = "apples boxes coins drums eggs forks goats hats inks jars keys lamps mats nuts".split()


def problem(number: int, **values: Any) -> Problem:
    """A sum about things of its own."""
    thing = THINGS[number]
    a, b = 10 + 3 * number, 4 + number
    defaults: dict[str, Any] = {
        "problem_id": f"p/{thing}",
        "source": "p",
        "split": "train",
        "text": f"A shop has {a} {thing} on its shelf and gets {b} more {thing} on Monday. How many are there then?",
        "answer": str(a + b),
        "solution_steps": [f"At first there are {a} {thing}.", f"{a} + {b} = {a + b}"],
    }
    return Problem.model_validate(defaults | values)


def event(problem_id: str, difficulty: float, step: int = LAST_STEP, run_id: str = RUN) -> DifficultyEvent:
    return DifficultyEvent(
        run_id=run_id, step=step, problem_id=problem_id, old_difficulty=5.0, new_difficulty=difficulty,
        accuracy=0.5, rollouts=4, rule="paper", attempt=0,
    )  # fmt: skip


def planted(problem_id: str, kind: str, delta: float, number: int = 0, **values: Any) -> Variant:
    """An accepted variant of somebody else."""
    hint = {"hint": ["At first."], "hint_steps": 1, "hint_total": 3} if kind == "think_step" else {}
    defaults: dict[str, Any] = {
        "variant_id": f"{problem_id}:{kind}:planted:{number}",
        "problem_id": problem_id,
        "kind": kind,
        "text": f"{kind} {number} of {problem_id}",
        "delta_designed": delta,
        "status": "accepted",
        "generator_model": "somebody",
        "prompt_version": "planted-1",
    }
    return Variant.model_validate(defaults | hint | values)


def plant_shortages(store: VariantStore, model: str, prompt_version: str) -> dict[str, list[str]]:
    """Problems of each sort, with variants, labels and the events of a training run.

    Args:
        store: an empty one.
        model: the teacher, whose tries for one problem are spent.
        prompt_version: of its think steps.

    Returns:
        The kinds to be asked for, by the problems that are short and can be helped.
    """
    picture = io.BytesIO()
    Image.effect_noise((64, 64), 60).convert("RGB").save(picture, "PNG")
    digest = store.put_image(picture.getvalue(), "PNG")
    image = {"images": [{"hash": digest, "width": 64, "height": 64}], "solution_steps": []}
    shown = {"text": "<image> What is the size of the angle?", "answer": "30"}
    problems = [problem(n) for n in range(12)] + [problem(12, **image, **shown), problem(13)]
    store.append(problems)
    ids = [p.problem_id for p in problems]
    difficulty = dict(
        zip(ids, [9.0, 9.0, 1.0, 4.0, 5.0, 9.0, 8.0, 9.0, 9.0, 1.0, 6.0, 2.0, 3.0, 9.0], strict=True)
    )
    apples, boxes, coins, drums, eggs, forks, goats, hats, inks, jars, keys, lamps, mats, nuts = ids
    store.append([
        planted(apples, "reword", 0.0),  # hard, without a think step
        planted(boxes, "think_step", -4.0),  # hard, and has one
        planted(drums, "reword", 0.0),  # easy, without a harder one
        planted(forks, "think_step", -4.0),  # its measured delta misses
        planted(goats, "think_step", -2.0),  # near enough
        planted(hats, "reword", 0.0),  # the run saw it long ago
        planted(inks, "think_step", -4.0, status="rejected", reason="answer: 1"),
        planted(jars, "harder", 2.0),  # so easy that no kind reaches
        planted(keys, "reword", 0.0),  # about right
        planted(lamps, "harder", 2.0, status="candidate"),  # waits for a verdict
        *(
            planted(nuts, "think_step", -2.0, n, sample=n, status="rejected", reason="answer: 1",
                    generator_model=model, prompt_version=prompt_version)
            for n in range(4)
        ),
    ])  # fmt: skip
    measured = [label(forks, 1, 8), label(f"{forks}:think_step:planted:0", 1, 8)]
    store.append(list[Label](measured))
    store.append([Setting(name="label_model", value="policy")])
    store.append([Attempt(run_id=RUN, attempt=0, resumed_step=0)])
    store.append([event(i, d, LAST_STEP - 200 if i == hats else LAST_STEP) for i, d in difficulty.items()])
    store.append([event(boxes, 1.0, run_id="another")])
    return {
        apples: ["think_step"],
        coins: ["harder"],
        drums: ["harder"],
        eggs: ["reword", "harder"],
        forks: ["think_step"],
        inks: ["think_step"],
        lamps: ["harder"],
        mats: ["composite"],
    }
