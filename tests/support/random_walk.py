"""Training under settings drawn by a seed, against what must hold under any.

    torchrun --nproc_per_node 2 -m tests.support.random_walk SEED FOLDER

A walk trains twice: once without a break (with evaluations, if the seed says so), and once stopped at a step,
resumed from its last checkpoint, and without evaluations. Held are: finite weights; as many rollouts in the rewards,
in `train_steps` and in `rollouts`, and as many tokens; as many rollouts with an advantage in the loss as recorded;
and the same rollouts, difficulties and weights of both.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import TrainerCallback

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.trainer.checkpoints import latest_checkpoint
from diva_grpo.trainer.steps import StepRecorder
from tests.support.tiny_text_model import planted_store, tiny_model
from tests.support.tiny_training import coin_reward, loss_inputs, make_trainer
from tests.support.tiny_vision_model import tiny_vision_model, vision_store

MAX_STEPS = 4
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "vespo", "luspo", "sapo")


@dataclass(frozen=True, slots=True)
class Walk:
    """What a seed draws.

    Attributes:
        seed: that drew it.
        processes: 1 or 2.
        vision: a vision-language model, on problems with images and without.
        lora: an adapter is trained.
        evaluates: the unbroken run evaluates after each step.
        save_steps: steps between checkpoints.
        stop: step after which the other run stops.
        options: of `DivaGRPOConfig`.
    """

    seed: int
    processes: int
    vision: bool
    lora: bool
    evaluates: bool
    save_steps: int
    stop: int
    options: dict[str, Any] = field(hash=False)


def drawn(seed: int) -> Walk:
    """The settings of a seed; all of them can work."""
    draw = random.Random(seed)
    processes, vision, lora = draw.choice([1, 1, 2]), draw.random() < 0.25, draw.random() < 0.3
    generations, variants, problems = draw.choice([2, 4]), draw.choice([0, 1, 1, 2]), draw.choice([1, 2, 3])
    slices, style = draw.choice([1, 2]), draw.choice(["prompt", "prefix"])
    rows = generations * (variants + 1) * problems
    while rows % (processes * slices):
        rows += generations * (variants + 1)
    loss, beta = draw.choice(LOSSES), draw.choice([0.0, 0.05])
    stop = draw.randint(1, MAX_STEPS - 1)
    by_token = style == "prefix" and loss not in ("vespo", "luspo")
    advantage = draw.choice(["diva", "diva", "dgpo", "dr_grpo", "grpo"])
    options: dict[str, Any] = {
        "num_generations": generations,
        "num_variants": variants,
        "steps_per_generation": slices,
        "per_device_train_batch_size": rows // (processes * slices),
        "gradient_accumulation_steps": draw.choice([1, 2]),
        "num_iterations": draw.choice([1, 2]),
        "loss_type": loss,
        "importance_sampling_level": "sequence" if loss == "luspo" else "token",
        "beta": beta,
        "sync_ref_model": bool(beta) and not lora and draw.random() < 0.5,
        "ref_model_sync_steps": 1,
        "advantage": advantage,
        "scale_rewards": draw.choice(["group", "batch", "none"]) if advantage == "grpo" else "group",
        "hint_style": style,
        "opening_advantage": draw.choice([0.0, 1.5]) if by_token else 0.0,
        "refill_rounds": draw.choice([0, 1, 2]),
        "selector": draw.choice(["paper", "tier", "posterior", "signal", "uniform"]),
        "difficulty_rule": draw.choice(["paper", "bands", "posterior"]),
        "aim": draw.choice(["variants", "variants", "all"]) if variants else "variants",
        "variant_warmup_steps": draw.choice([0, 0, 1]),
        "mask_truncated_completions": draw.random() < 0.2,
        "use_adaptive_entropy": draw.random() < 0.2,
        "entropy_target": 9.0,
        "log_rollouts": draw.choice(["4", "all", "none"]),
        "seed": seed,
    }
    options["opening_anchor"] = bool(by_token and beta and not options["opening_advantage"])
    return Walk(
        seed, processes, vision, lora, draw.random() < 0.5, draw.randint(1, stop), stop, options
    )  # fmt: skip


class _Stop(TrainerCallback):
    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self._step


@dataclass(slots=True)
class Seen:
    """What a run did on one process.

    Attributes:
        generated: rollouts that the rewards were asked of, in training.
        trained: rows of the loss with an advantage other than 0.
        weights: of all parameters in the end.
        difficulty: of all problems in the end.
    """

    generated: int
    trained: int
    weights: list[float]
    difficulty: list[float]


def model_of(walk: Walk, folder: Path) -> Path:
    """Where the model of a walk is, beside its folder; it is made there once."""
    model = folder.parent / ("vision" if walk.vision else "text")
    if not model.exists():
        (tiny_vision_model if walk.vision else tiny_model)(model)
    return model


def store_of(walk: Walk, root: Path) -> VariantStore:
    """A new store for one run of a walk."""
    if walk.vision:
        return vision_store(root, one=9, two=3, text=3)
    return planted_store(root, problems=15)


def train(
    walk: Walk, model: Path, store: VariantStore, output: Path, *, until: int = MAX_STEPS, **more: Any
) -> Seen:
    """One run, from its last checkpoint if there is one; `until` stops it without a checkpoint."""
    generated = 0

    def coin(completions: list[Any], **columns: Any) -> list[float | None]:
        nonlocal generated
        if trainer.model.training:
            generated += len(completions)
        return coin_reward(completions)

    coin.__name__ = "coin_reward"
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"]) if walk.lora else None
    trainer: Any = make_trainer(
        store, model, output, rewards=coin, adapter=lora, max_steps=MAX_STEPS, learning_rate=1e-2,
        save_strategy="steps", save_steps=walk.save_steps, **walk.options, **more,
    )  # fmt: skip
    trainer.add_callback(_Stop(until))
    trainer.add_callback(StepRecorder(trainer.recorder, trainer, "coin_reward"))
    seen = loss_inputs(trainer)
    trainer.train(resume_from_checkpoint=latest_checkpoint(str(output)))
    trained = sum(
        int((b["advantages"].reshape(len(b["prompt_ids"]), -1) != 0).any(dim=1).sum()) for b in seen
    )
    flat = torch.cat([p.detach().flatten().cpu() for p in trainer.model.parameters()])
    return Seen(generated, trained, flat.tolist(), trainer.curriculum.live.difficulty.tolist())


def walked(
    walk: Walk, model: Path, stores: tuple[VariantStore, VariantStore], folder: Path
) -> tuple[Seen, Seen]:
    """The unbroken run, and the one that was stopped and resumed."""
    generations = walk.options["num_generations"]
    evaluation = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": generations}
    more = {**evaluation, "eval_problems": 2 * walk.processes} if walk.evaluates else {}
    whole = train(walk, model, stores[0], folder / "whole", **more)
    train(walk, model, stores[1], folder / "parts", until=walk.stop)
    return whole, train(walk, model, stores[1], folder / "parts")


ROLLOUTS = """
SELECT step, problem_id, slot, sample, variant_id, reward, round(advantage, 9), completion_tokens, completion, finish
FROM rollouts ORDER BY ALL
"""


def faults(walk: Walk, stores: tuple[VariantStore, VariantStore], runs: list[tuple[Seen, Seen]]) -> list[str]:
    """What did not hold.

    Args:
        walk: the settings.
        stores: of the unbroken and of the resumed run.
        runs: both runs, as each process saw them.
    """
    whole, store = [first for first, _ in runs], stores[0]
    steps = store.query("SELECT sum(rollouts)::INT, sum(completion_tokens)::INT FROM train_steps")[0]
    rows = store.query("SELECT count(*), sum(completion_tokens)::INT FROM rollouts")[0]
    generated = sum(seen.generated for seen in whole)
    [(with_advantage,)] = store.query("SELECT count(*) FROM rollouts WHERE advantage <> 0")
    trained = sum(seen.trained for seen in whole) / walk.options["num_iterations"]
    found = {
        "weights are not finite": not torch.tensor(whole[0].weights).isfinite().all(),
        f"rewards saw {generated} rollouts, train_steps has {steps}, rollouts {rows}": generated != rows[0]
        or steps != rows,
        f"the loss saw {trained:g} rollouts with an advantage, recorded are {with_advantage}": trained
        != with_advantage
        and not walk.options["opening_advantage"],
        "the resumed run has other rollouts": store.query(ROLLOUTS) != stores[1].query(ROLLOUTS),
        "the resumed run has other difficulties": any(a.difficulty != b.difficulty for a, b in runs),
        "the resumed run has other weights": any(a.weights != b.weights for a, b in runs),
        "processes differ": any(seen.difficulty != whole[0].difficulty for seen in whole),
    }
    return [fault for fault, there in found.items() if there]


def main() -> None:
    seed, folder = int(sys.argv[1]), Path(sys.argv[2])
    walk = drawn(seed)
    stores = VariantStore(folder / "a"), VariantStore(folder / "b")
    runs = walked(walk, model_of(walk, folder), stores, folder)
    rank = torch.distributed.get_rank()
    (folder / f"rank{rank}.json").write_text(json.dumps([asdict(seen) for seen in runs]))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
