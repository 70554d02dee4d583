"""A training run in a process of its own, to be killed and resumed by `test_resume.py`.

    python -m tests.support.train_resumable STORE MODEL OUTPUT SEED STEPS_PER_GENERATION [JSON]

JSON are further options of the trainer. Prints a line at the end of each step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.trainer.checkpoints import latest_checkpoint
from tests.support.tiny_training import make_trainer

MAX_STEPS = 24  # 16 problems, two a generation: the second epoch begins after 8 generations


class _Told(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        print(f"step {state.global_step}", flush=True)


def main() -> None:
    store, model, output, seed, steps_per_generation, *more = sys.argv[1:]
    per_generation = int(steps_per_generation)
    options: dict[str, Any] = {
        "seed": int(seed),
        "max_steps": MAX_STEPS,
        "per_device_train_batch_size": 16 // per_generation,
        "steps_per_generation": per_generation,
        "save_strategy": "steps",
        "save_steps": 3,
        "store_flush_steps": 2,
        "selector": "posterior",
        "difficulty_rule": "posterior",
        "hint_style": "prefix",
        "opening_advantage": 1.0,
        **(json.loads(more[0]) if more else {}),
    }
    trainer = make_trainer(VariantStore(store), Path(model), Path(output), **options)
    trainer.add_callback(_Told())
    trainer.train(resume_from_checkpoint=latest_checkpoint(output))


if __name__ == "__main__":
    main()
