"""A split that is read when asked for: image sets that do not fit in memory as float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Batch = tuple[Tensor, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Lazy:
    """Samples that a function reads.

    Attributes:
        read: int64 (n,) indices into the source → (inputs (n, …) floating point, one target (n, …) per task).
            It is called in worker processes too, so it must not rely on anything that changes.
        index: (N,) which samples of the source belong to this split, in order.
        workers: processes that read ahead during an epoch; 0: the training process reads by itself.
    """

    read: Callable[[Tensor], Batch]
    index: Tensor
    workers: int = 0

    def __len__(self) -> int:
        return len(self.index)

    def take(self, count: int) -> Lazy:
        """The first `count` samples."""
        if not 0 <= count <= len(self):
            raise ValueError(f"`count` should lie in 0 … {len(self)}. Found {count}.")
        return replace(self, index=self.index[:count])

    def rows(self, which: slice | Tensor) -> Batch:
        """The samples at positions `which` of this split."""
        return self.read(self.index[which])

    def in_memory(self) -> Batch:
        """All samples at once: inputs and targets."""
        return self.read(self.index)


def default_workers() -> int:
    """Two read ahead of a step that takes a second; on one core there is nobody to read ahead."""
    return min(2, max(0, (torch.get_num_threads() or 1) - 1))
