"""A training run on several processes.

torchrun --nproc_per_node 2 -m tests.support.train_distributed STORE MODEL OUT JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed

from diva_grpo.pipeline.store import VariantStore
from tests.support.tiny_training import completions, loss_inputs, make_trainer


def main() -> None:
    store, model, output, options = sys.argv[1:5]
    overrides = json.loads(options)
    checkpoint = overrides.pop("checkpoint", None)
    trainer = make_trainer(
        VariantStore(store),
        Path(model),
        Path(output),
        **{"per_device_train_batch_size": 8, "difficulty_init": "labels", **overrides},
    )
    inputs = loss_inputs(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    rank = trainer.accelerator.process_index
    report = {
        "advantages": [batch["advantages"].tolist() for batch in inputs],
        "tokens_in_loss": [int(batch["num_items_in_batch"]) for batch in inputs],
        "completions": [completions(batch) for batch in inputs],
        "difficulty": trainer.curriculum.live.difficulty.tolist(),
    }
    Path(output, f"rank{rank}.json").write_text(json.dumps(report))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
