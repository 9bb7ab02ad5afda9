"""Data sets as tensors, found in a folder, downloaded with checksum, or bundled."""

from __future__ import annotations

from palora.data.batches import Batches, epoch_order
from palora.data.registry import describe, load, names, prepare
from palora.data.types import Dataset, Split, TaskSpec

__all__ = [
    "Batches",
    "Dataset",
    "Split",
    "TaskSpec",
    "describe",
    "epoch_order",
    "load",
    "names",
    "prepare",
]
