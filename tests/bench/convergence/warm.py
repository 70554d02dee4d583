"""The testbed's models: tiny Llamas, warmed up on exercises of all levels alike by a teacher that slips.

What the model is shown is wrong in a share of the steps, and continues from there. So it learns to work exercises out,
and to be as unsure at every step: long ones come out right now and then, and the more often the more steps are given.
A model that is only cut short in its warm-up knows some facts and not others; 60 steps of GRPO made it hardly better.

Some warm-up examples have steps in the question, so that the paper's form of a hint means something to the model;
steps that open an answer look like any other answer to it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import torch

from diva_grpo.flows.demo.toy_models import Example, batches, build_model, build_tokenizer, train
from diva_grpo.schemas.question import HINT_CLOSING, HINT_OPENING, render_question
from tests.bench.convergence.tasks import Task, held_out

SEED = 1
LAYERS, MAX_LENGTH, RAMP = 2, 512, 50
SHARE_ORIGINAL, SHARE_HINTED = 0.6, 0.2
"""Shares of the examples with the original wording, and with steps in the question."""


def phrases(task: Task) -> list[str]:
    """What a task's prompts and answers are made of, and its words."""
    pieces = [piece for frame in task.frames for piece in frame.split("{body}")]
    pieces += ["#### ", HINT_OPENING, HINT_CLOSING, *task.words]
    return sorted({piece for piece in pieces if len(piece) > 1})


def examples(task: Task, rng: random.Random) -> Iterator[Example]:
    """Examples without end, none of them of the store's problems."""
    excluded = held_out(task)
    for exercise in task.exercises(rng, task.warm_levels):
        if exercise.body in excluded:
            continue
        frame = task.frames[0] if rng.random() < SHARE_ORIGINAL else rng.choice(task.frames[1:])
        text = frame.format(body=exercise.body)
        steps, answer = exercise.worked(rng, task.slips)
        given = rng.randint(1, len(steps)) if rng.random() < SHARE_HINTED else 0
        prompt = render_question(text, hint=steps[:given])
        yield Example(f"{prompt}\n", "\n".join([*steps[given:], f"#### {answer}"]))


def warm_up(task: Task, folder: Path, *, steps: int | None = None, seed: int = SEED) -> None:
    """Train a model from nothing and save it, with its tokenizer.

    Args:
        task: what it learns.
        folder: where it is saved.
        steps: of AdamW, the learning rate falling to 0 in the last quarter; default the task's.
        seed: of weights and examples.
    """
    total = steps or task.warm_steps
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(phrases(task), MAX_LENGTH)
    model = build_model(tokenizer, LAYERS)
    drawn = batches(examples(task, random.Random(seed)), random.Random(seed))
    train(model, tokenizer, drawn, steps=total, ramp=RAMP, name=task.name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
