"""A training run in a process of its own, which a top-up finds short of variants; see `test_top_up_flow.py`.

    python -m tests.support.train_unsolvable STORE MODEL OUTPUT REFRESH_STEPS

No answer is right, so that every problem gets hard. Prints a line at the end of each step, and trains until its
standard input ends.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from diva_grpo.pipeline.store import VariantStore
from tests.support.tiny_training import make_trainer


def coin_reward(completions: list[Any], **columns: Any) -> list[float | None]:
    return [0.0] * len(completions)


class _UntilTheEnd(TrainerCallback):
    def __init__(self) -> None:
        self._ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        sys.stdin.read()
        self._ended.set()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        print(f"step {state.global_step}", flush=True)
        control.should_training_stop = self._ended.is_set()


def main() -> None:
    store, model, output, refresh_steps = sys.argv[1:5]
    trainer = make_trainer(
        VariantStore(store),
        Path(model),
        Path(output),
        rewards=coin_reward,
        max_steps=5_000,
        store_refresh_steps=int(refresh_steps),
        store_flush_steps=2,
    )
    trainer.add_callback(_UntilTheEnd())
    trainer.train()
    trainer.recorder.flush(trainer.state.global_step)


if __name__ == "__main__":
    main()
