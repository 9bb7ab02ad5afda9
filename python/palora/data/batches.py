"""Mini-batches of tensors whose order depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from palora.data.lazy import Batch, Lazy
from palora.data.types import Augment, Split

# Keep these draws apart from one another and from those that made the data from the same seed.
_STREAM, _AUGMENT_STREAM = 9, 10


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
    """Batches of a split: of tensors, cut by one index_select each; of a `Lazy` split, read ahead by its workers.

    Iterating gives epoch 0; `epoch(e, start)` gives any epoch from any step on. Nothing is remembered between
    iterations: the same epoch always gives the same batches, bit for bit, whatever the number of workers.

    Args:
        split: the samples.
        batch_size: samples per batch; the last batch of an epoch may be smaller.
        seed: of the order; only with `shuffle`.
        shuffle: a new order every epoch; without it, the order of the split.
        drop_last: leave out the last batch if it is smaller.
        device: where batches are moved to; default: where the split lies. A split that fits there is better
            moved as a whole (`split.to(device)`).
        augment: applied to every sample, with a generator that depends on seed, epoch and sample alone.
    """

    def __init__(
        self,
        split: Split | Lazy,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        augment: Augment | None = None,
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
        self.augment = augment

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
        order = epoch_order(self.seed, epoch, len(self.split)) if self.shuffle else None
        return map(self._placed, self._batches(_Reader(self, order, epoch), start))

    def _batches(self, reader: _Reader, start: int) -> Iterator[Batch]:
        steps = range(start, len(self))
        if not isinstance(self.split, Lazy) or not self.split.workers:
            return map(reader.__getitem__, steps)
        # A generator of its own: the loader's draws must not move the global one, which a resumed run restores.
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(reader, batch_size=None, sampler=steps, num_workers=self.split.workers, generator=generator)
        return iter(loader)

    def _placed(self, batch: Batch) -> Batch:
        if self.device is None:
            return batch
        inputs, targets = batch
        place = self.device
        moved = tuple(target.to(place, non_blocking=True) for target in targets)
        return inputs.to(place, non_blocking=True), moved


class _Reader(Dataset[Batch]):
    """Step → batch, in this process or another."""

    def __init__(self, batches: Batches, order: Tensor | None, epoch: int) -> None:
        self.split, self.size, self.seed = batches.split, batches.batch_size, batches.seed
        self.augment, self.order, self.epoch = batches.augment, order, epoch

    def __getitem__(self, step: int) -> Batch:
        rows = slice(step * self.size, (step + 1) * self.size)
        batch = self.split.rows(rows if self.order is None else self.order[rows])
        if self.augment is None:
            return batch
        places = range(len(self.split))[rows] if self.order is None else self.order[rows].tolist()
        return self._augmented(self.augment, batch, places)

    def _augmented(self, augment: Augment, batch: Batch, places: Sequence[int]) -> Batch:
        inputs, targets = batch
        samples = []
        for i, place in enumerate(places):
            generator = np.random.default_rng((_AUGMENT_STREAM, self.seed, self.epoch, place))
            samples.append(augment(inputs[i], tuple(target[i] for target in targets), generator))
        changed = [torch.stack(column) for column in zip(*(sample[1] for sample in samples), strict=True)]
        return torch.stack([sample[0] for sample in samples]), tuple(changed)
