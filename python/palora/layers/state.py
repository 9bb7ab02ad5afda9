"""Which rays are active: one small state object per model, shared by its adapted layers.

The rays are plain tensors in a slot per thread, never buffers (DDP would broadcast those). A slot lives as long as its
``with palora.at(...)`` block; activation checkpointing, which recomputes layers after the block has ended, finds the
slot again through the autograd node that asked for the recomputation.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from palora.layers import private

Mode = Literal["one", "many", "per_sample"]

# Forward passes whose rays are remembered for recomputation; each costs one small tensor.
_REMEMBERED_PASSES = 1024


class Slot:
    """The rays of one ``at`` block.

    Attributes:
        rays: (M, T); (1, T) in mode "one"; (n, T) in mode "per_sample".
        inside: how many expansion points the thread is inside of now.
        first_node: number of the first autograd node that the current pass may make; None where none is recorded.
        rows: batch size before expansion, known while a pass runs.
        expanded: pairs of (expanded tensor, the tensor it came from) of the current pass.
    """

    def __init__(self, rays: Tensor, mode: Mode, graph_task: int) -> None:
        self.rays = rays
        self.mode = mode
        self.graph_task = graph_task
        self.inside = 0
        self.first_node: int | None = None
        self.depth = 0
        self.rows: int | None = None
        self.expanded: list[tuple[Tensor, Tensor]] = []

    @property
    def count(self) -> int:
        return self.rays.shape[0]


class _Pass(NamedTuple):
    """A finished pass through an expansion point: the autograd nodes it made, and its rays."""

    first_node: int
    last_node: int
    slot: Slot
    expanded: list[tuple[Any, Any]]  # weak references: remembering a pass must not keep activations alive


class _PerThread(threading.local):
    """A slot per thread. `threading.local` runs ``__init__`` in every thread, so the attribute is always there, which
    the guards of compiled code rely on."""

    def __init__(self) -> None:
        self.slot: Slot | None = None


class RayState:
    """The active rays of one adapted model, per thread."""

    def __init__(self, tasks: int, task_names: tuple[str, ...] | None = None) -> None:
        self.tasks = tasks
        self.task_names = task_names or tuple(str(t) for t in range(tasks))
        self.local = _PerThread()
        self.passes: deque[_Pass] = deque(maxlen=_REMEMBERED_PASSES)

    # A thread-local can be neither copied nor pickled; a copy of a model starts without active rays.
    def __deepcopy__(self, memo: dict[int, Any]) -> RayState:
        copied = RayState(self.tasks, self.task_names)
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return (RayState, (self.tasks, self.task_names))

    def current(self) -> Slot | None:
        """The slot of this thread's innermost ``at`` block, or, in a recomputation, of the original forward."""
        slot = self.local.slot
        if torch.compiler.is_compiling():
            return slot
        graph_task = private.graph_task()
        if graph_task == -1 or (slot is not None and slot.graph_task == graph_task):
            return slot
        remembered = self._recomputing()
        return slot if remembered is None else remembered

    def _recomputing(self) -> Slot | None:
        """Inside a backward: the rays of the pass that made the node now being differentiated."""
        number = private.differentiated_number()
        if number is None:
            return None
        found = [p for p in self.passes if p.first_node <= number < p.last_node]
        if not found:
            return None
        if any(p.slot is not found[0].slot for p in found):
            raise RuntimeError(
                "A checkpointed layer is being recomputed, and passes of several threads fit it; run the threads' "
                "forward passes without activation checkpointing, or on copies of the model."
            )
        return self._revived(found[0])

    @staticmethod
    def _revived(done: _Pass) -> Slot:
        slot = Slot(done.slot.rays, done.slot.mode, done.slot.graph_task)
        slot.inside = 1
        slot.rows = done.slot.rows
        for expanded_ref, original_ref in done.expanded:
            expanded, original = expanded_ref(), original_ref()
            if expanded is not None:
                n = expanded.shape[0] // slot.count
                slot.expanded.append((expanded, expanded[:n] if original is None else original))
        return slot

    def remember(self, first_node: int, last_node: int, slot: Slot) -> None:
        refs = [(weakref.ref(e), weakref.ref(o)) for e, o in slot.expanded]
        kept = Slot(slot.rays, slot.mode, slot.graph_task)
        kept.rows = slot.rows
        self.passes.append(_Pass(first_node, last_node, kept, refs))
