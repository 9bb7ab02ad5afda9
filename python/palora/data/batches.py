"""Mini-batches of tensors whose order depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from palora.data.types import Split

# Keeps these draws apart from those that made the data from the same seed.
_STREAM = 9

Batch = tuple[Tensor, tuple[Tensor, ...]]


def epoch_order(seed: int, epoch: int, n: int) -> Tensor:
    """The order of `n` samples in an epoch: a permutation, int64 (n,), that is a function of its arguments
    alone.

    No generator is carried from epoch to epoch, so a run resumed at any epoch sees the order it would have
    seen.
    """
    for name, value in (("seed", seed), ("epoch", epoch), ("n", n)):
        if value < 0:
            raise ValueError(f"`{name}` should be an integer >= 0. Found {value}.")
    return torch.from_numpy(np.random.default_rng((_STREAM, seed, epoch)).permutation(n))


class Batches:
    """Batches of a split, cut by one index_select per tensor: no per-sample Python.

    Iterating gives epoch 0; `epoch(e, start)` gives any epoch from any step on. Nothing is remembered between
    iterations: the same epoch always gives the same batches, bit for bit.

    Args:
        split: the samples.
        batch_size: samples per batch; the last batch of an epoch may be smaller.
        seed: of the order; only with `shuffle`.
        shuffle: a new order every epoch; without it, the order of the split.
        drop_last: leave out the last batch if it is smaller.
        device: where batches are moved to; default: where the split lies. A split that fits there is better
            moved as a whole (`split.to(device)`).
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` should be an integer >= 1. Found {batch_size!r}.")
        if drop_last and len(split) < batch_size:
            raise ValueError(
                f"`batch_size` should be <= the {len(split)} samples of the split with `drop_last`, else "
                f"no batch is left. Found {batch_size}."
            )
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.device = None if device is None else torch.device(device)

    def __len__(self) -> int:
        """Batches per epoch."""
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from step `start` (0 … len(self)) on: (inputs (n, …), targets: a tuple)."""
        if not 0 <= start <= len(self):
            raise ValueError(f"`start` should be a step in 0 … {len(self)}. Found {start}.")
        order = None
        if self.shuffle:
            order = epoch_order(self.seed, epoch, len(self.split)).to(self.split.inputs.device)
        return (self._batch(order, step) for step in range(start, len(self)))

    def _batch(self, order: Tensor | None, step: int) -> Batch:
        rows = slice(step * self.batch_size, (step + 1) * self.batch_size)

        def cut(tensor: Tensor) -> Tensor:
            part = tensor[rows] if order is None else tensor.index_select(0, order[rows])
            return part if self.device is None else part.to(self.device, non_blocking=True)

        return cut(self.split.inputs), tuple(cut(target) for target in self.split.targets)
