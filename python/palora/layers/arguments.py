"""Which tensor arguments of a call belong to the batch, and so grow with the rays, and which stay as they are."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn

from palora.trees import walk

# torch's convention: two-dimensional masks under these names are (L, L) or (L, S), never batch-first.
_UNBATCHED_MASKS = ("attn_mask", "src_mask", "tgt_mask", "memory_mask", "mask")


class Growth(NamedTuple):
    """The batch size of a call, and the dimension in which each of its tensors has the batch: None, it has none."""

    rows: int
    axes: dict[str, int | None]


class Rules:
    """What `adapt` was told of an expansion point's arguments.

    Args:
        module: the expansion point; positional arguments have the names of its ``forward``.
        expand: pattern -> dimension of the batch. keep: patterns of what is no batch.
    """

    _numbers = itertools.count()  # one for each: traced code has no id()

    def __init__(self, module: nn.Module, expand: Mapping[str, int], keep: list[str]) -> None:
        self.number = next(Rules._numbers)
        self.expand, self.keep = dict(expand), list(keep)
        if isinstance(module, nn.RNNBase):
            self.expand = {"hx": 1, **self.expand}
        self.table: dict[str, tuple[bool, int | None]] = {}  # matched beforehand, for compiled code
        self.names: tuple[str, ...] = ()
        self.named: list[str] = []
        self.open = True  # takes arguments of any name
        try:
            parameters = inspect.signature(module.forward).parameters.values()
        except (TypeError, ValueError):
            return
        kinds = inspect.Parameter
        by_place = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
        self.names = tuple(p.name for p in parameters if p.kind in by_place)
        self.named = [p.name for p in parameters if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]
        self.open = len(self.named) < len(parameters)
        self.table = {name: self._matched(name) for name in (*self.named, *map(str, range(len(self.names), 32)))}

    def name(self, place: int) -> str:
        return self.names[place] if place < len(self.names) else str(place)

    def may_name(self, pattern: str) -> bool:
        """Whether a pattern can fit an argument."""
        return self.open or any(_fits(name, pattern.split(".")[0]) for name in self.named)

    def declared(self, path: str) -> tuple[bool, int | None]:
        """(whether a pattern names it, the dimension of its batch)."""
        found = self.table.get(path)
        return self._matched(path) if found is None else found

    def _matched(self, path: str) -> tuple[bool, int | None]:
        if any(_fits(path, pattern) for pattern in self.keep):
            return True, None
        for pattern, axis in self.expand.items():
            if _fits(path, pattern):
                return True, axis
        return False, None

    def growth(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], learned: Mapping[str, int | None] | None = None
    ) -> Growth | None:
        """Where each tensor has its batch: as declared, as a trial has shown, or dimension 0 if it is n long.

        The batch size n is that of the first tensor that may have a batch; None, there is no such tensor.
        """
        rows: int | None = None
        axes: dict[str, int | None] = {}
        for path, value in self.tensors(args, kwargs):
            known, axis = self.declared(path)
            if not known and learned is not None and path in learned:
                known, axis = True, learned[path]
            if known:
                if axis is None:
                    axes[path] = None
                    continue
                if axis >= value.dim() or (rows is not None and not _has_batch(value.shape[axis], rows)):
                    wanted = "a batch" if rows is None else f"its batch of {rows}"
                    raise ValueError(
                        f"Argument `{path}` should have {wanted} in dimension {axis} (`expand` of palora.adapt). Found "
                        f"shape {tuple(value.shape)}."
                    )
                rows = value.shape[axis] if rows is None else rows
                axes[path] = axis
            elif value.dim() == 0 or (path in kwargs and _is_unbatched_mask(path, value)):
                axes[path] = None
            elif rows is None:
                rows, axes[path] = value.shape[0], 0
            else:
                axes[path] = 0 if value.shape[0] == rows else None
        return None if rows is None else Growth(rows, axes)

    def tensors(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Tensor]]:
        found: list[tuple[str, Tensor]] = []

        def noted(path: str, value: Tensor) -> Tensor:
            if value.is_nested:
                raise TypeError(
                    f"Argument `{path}` should be an ordinary tensor under several rays. Found a nested one; pad it, "
                    "or pack its rows and give them to rays with palora.at(..., rows=...)."
                )
            found.append((path, value))
            return value

        self.map(args, kwargs, noted)
        return found

    def map(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        change: Callable[[str, Tensor], Tensor],
        leaf: Callable[[Any], Any] | None = None,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``change(path, tensor)`` for every tensor in the arguments, ``leaf(value)`` for what holds none."""
        new_args = tuple(walk(self.name(i), value, change, leaf) for i, value in enumerate(args))
        return new_args, {name: walk(name, value, change, leaf) for name, value in kwargs.items()}


def _has_batch(size: int, rows: int) -> bool:
    """Whether a dimension may be the batch, or k rows of each sample side by side (masks of attention's heads)."""
    return size == rows or (rows > 0 and size > 0 and size % rows == 0)


def _fits(path: str, pattern: str) -> bool:
    """A pattern fits an argument by its name, ``batch.mask`` inside a container, or by that of a container."""
    if path == pattern:
        return True
    parts = path.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def _is_unbatched_mask(path: str, value: Tensor) -> bool:
    return path in _UNBATCHED_MASKS and value.dim() == 2
