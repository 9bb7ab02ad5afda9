"""What a data set is to the rest of the library: three splits of plain tensors, a word on each task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from palora.data.lazy import Batch, Lazy
from palora_kernels.typed import Range, conform

Augment = Callable[[Tensor, tuple[Tensor, ...], np.random.Generator], Batch]
"""(one input, its targets, a generator of its own) → the same, changed at random; shapes stay as they are."""


@dataclass(frozen=True)
class TaskSpec:
    """One task: its name, the names of its loss and metric, and how many outputs its head has."""

    name: str
    loss: str
    metric: str
    outputs: int

    def __post_init__(self) -> None:
        for field in ("name", "loss", "metric"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value:
                raise ValueError(f"`{field}` of a task should be a non-empty string. Found {value!r}.")
        conform(f"outputs of task {self.name}", self.outputs, Annotated[int, Range(1, 2**20)])


@dataclass(frozen=True)
class Split:
    """Samples held as tensors.

    Attributes:
        inputs: (N, …), floating point.
        targets: one tensor (N, …) per task.
    """

    inputs: Tensor
    targets: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Tensor) or not self.inputs.is_floating_point() or self.inputs.dim() < 1:
            found = str(self.inputs.dtype) if isinstance(self.inputs, Tensor) else type(self.inputs).__name__
            raise TypeError(f"`inputs` should be a floating-point tensor (N, …). Found {found}.")
        if not isinstance(self.targets, tuple) or not self.targets:
            raise TypeError(
                f"`targets` should be a tuple with one tensor per task. Found {type(self.targets).__name__}."
            )
        for task, target in enumerate(self.targets):
            if not isinstance(target, Tensor) or target.dim() < 1 or len(target) != len(self.inputs):
                found = str(tuple(target.shape)) if isinstance(target, Tensor) else type(target).__name__
                raise ValueError(
                    f"`targets[{task}]` should be a tensor with {len(self.inputs)} rows, as `inputs`. Found {found}."
                )

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, count: int) -> Split:
        """The first `count` samples, as views."""
        if not 0 <= count <= len(self):
            raise ValueError(f"`count` should lie in 0 … {len(self)}. Found {count}.")
        return Split(self.inputs[:count], tuple(target[:count] for target in self.targets))

    def rows(self, which: slice | Tensor) -> Batch:
        """The samples at positions `which`, an int64 tensor or a slice: one index_select per tensor."""

        def cut(tensor: Tensor) -> Tensor:
            return tensor[which] if isinstance(which, slice) else tensor.index_select(0, which.to(tensor.device))

        return cut(self.inputs), tuple(cut(target) for target in self.targets)

    def to(self, device: torch.device | str) -> Split:
        """The same samples on `device`."""
        return Split(self.inputs.to(device), tuple(target.to(device) for target in self.targets))


@dataclass(frozen=True)
class Dataset:
    """A data set ready to train on.

    Attributes:
        name: name in the registry.
        train, validation, test: disjoint splits: tensors, or `Lazy` where they would not fit.
        tasks: one `TaskSpec` per target, in the order of `Split.targets`.
        note: one sentence that every run on this set prints.
        augment: how training samples are changed at random, anew in every epoch.
    """

    name: str
    train: Split | Lazy
    validation: Split | Lazy
    test: Split | Lazy
    tasks: tuple[TaskSpec, ...]
    note: str
    augment: Augment | None = None

    def __post_init__(self) -> None:
        for part, split in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            if isinstance(split, Lazy):
                continue  # its loader has checked the files
            if len(split.targets) != len(self.tasks):
                raise ValueError(
                    f"{self.name}: `{part}` should have one target per task ({len(self.tasks)}). "
                    f"Found {len(split.targets)}."
                )
            for task, target in zip(self.tasks, split.targets, strict=True):
                if task.loss == "cross_entropy" and len(target):
                    _check_classes(f"{self.name}: `{part}` targets of task {task.name!r}", target, task.outputs)


def _check_classes(what: str, target: Tensor, outputs: int) -> None:
    """Class indices are int64 in 0 … outputs - 1, or -1 for a pixel without label."""
    if target.dtype != torch.int64:
        raise TypeError(f"{what} should be int64 class indices. Found {target.dtype}.")
    low, high = int(target.min()), int(target.max())
    if low < -1 or high >= outputs:
        raise ValueError(f"{what} should lie in 0 … {outputs - 1} (-1: no label). Found {low} … {high}.")
