"""The order of problems: TRL's own, but known by epoch, so that a resume in epoch 2 is in epoch 2."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from trl.trainer.utils import RepeatSampler


class EpochRepeatSampler(RepeatSampler):
    """TRL's `RepeatSampler` whose order is a function of (seed, epoch).

    TRL's draws each epoch's order from one generator in turn, so that a resumed run starts again with the
    order of the first epoch. This one gives the same orders, and can start at any epoch: transformers'
    Trainer calls `set_epoch` through accelerate.
    """

    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self.epoch):
                torch.randperm(self.num_samples, generator=self.generator)
        yield from super().__iter__()
