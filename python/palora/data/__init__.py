"""Data sets as tensors, found in a folder, downloaded with checksum, or bundled."""

from __future__ import annotations

from palora.data.batches import Batches, epoch_order
from palora.data.lazy import Lazy
from palora.data.registry import describe, load, names, prepare
from palora.data.types import Dataset, Split, TaskSpec

__all__ = [
    "Batches",
    "Dataset",
    "Lazy",
    "Split",
    "TaskSpec",
    "describe",
    "epoch_order",
    "load",
    "names",
    "prepare",
]
