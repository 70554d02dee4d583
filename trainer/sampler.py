"""A sampler with TRL's order of problems, which can start at any epoch, so that a resumed run continues its order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from trl.trainer.utils import RepeatSampler


class EpochRepeatSampler(RepeatSampler):
    """TRL's `RepeatSampler` with an order that depends only on the seed and the epoch.

    TRL's sampler draws the orders of all epochs from one generator, so a resumed run starts again with the order of the
    first epoch. This sampler has the same orders, one for each epoch, and can start at any epoch. The Trainer of
    transformers calls `set_epoch` through accelerate.
    """

    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(self.seed)
            for _ in range(self.epoch):
                torch.randperm(self.num_samples, generator=self.generator)
        yield from super().__iter__()
