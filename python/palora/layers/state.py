"""Which rays are active: one small state object per model, shared by its adapted layers.

The rays are plain tensors in a slot of the context (`contextvars`: each asyncio task and each thread has its own),
never buffers (DDP would broadcast those). A slot lives as long as its ``with palora.at(...)`` block; activation
checkpointing, which recomputes layers after the block has ended, finds the slot again through the autograd node that
asked for the recomputation.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from contextvars import ContextVar
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from palora.layers import private
from palora.layers.blocks import MOST, MOST_BYTES, Blocks, Span, this_thread
from palora.layers.forms import Findings

Mode = Literal["one", "many", "per_sample"]


class Expanded(NamedTuple):
    """A tensor of M*n rows, the n rows that it was made of, and its version then: in-place changes raise that."""

    grown: Tensor
    original: Tensor
    version: int


class Slot:
    """The rays of one ``at`` block.

    Attributes:
        rays: (M, T); (1, T) in mode "one"; (n, T) in mode "per_sample".
        inside: how many expansion points the thread is inside of now.
        depth: how many calls of the adapted model the thread is inside of now.
        first_node: number of the first autograd node that the current pass may make; None where none is recorded.
        rows: batch size before expansion, known while a pass runs.
        expanded: the tensors that the current pass has expanded.
        index, groups: where rows were given to rays by hand: the ray of every row, and how many rays there are.
        used: names of the layers that the current pass has applied.
        trial: set while a trial pass runs (see `palora.layers.trial`).
        known: what a trial has found of passes like the current one.
        owner: who opened it (an `at` block, for example). below: the slot that was active then.
        first_node_of_block: number of the first autograd node made in its `at` block; None for other slots.
        thread: the thread it was opened in. traced: whether code that torch.compile traces opened it.
        opened: the owner of a slot that an expansion point opened in a recomputation.
        revived: whether it stands for a pass that a backward recomputes.
    """

    def __init__(self, rays: Tensor, mode: Mode, graph_task: int) -> None:
        self.rays = rays
        self.mode = mode
        self.graph_task = graph_task
        self.inside = 0
        self.first_node: int | None = None
        self.depth = 0
        self.rows: int | None = None
        self.expanded: list[Expanded] = []
        self.index: Tensor | None = None
        self.groups = 0
        self.used: set[str] = set()
        self.trial: Any = None
        self.known: Any = None
        self.owner: object = None
        self.below: Slot | None = None
        self.first_node_of_block: int | None = None
        self.thread = 0
        self.traced = False
        self.opened: object = None
        self.revived = False

    @property
    def count(self) -> int:
        return self.rays.shape[0]

    @property
    def batch(self) -> int:
        """Rows of the expanded batch, of which every layer's rows are a multiple."""
        return self.count * self.rows if self.mode == "many" and self.rows is not None else self.count

    def like(self, graph_task: int) -> Slot:
        """Another slot with the same rays, outside all passes."""
        other = Slot(self.rays, self.mode, graph_task)
        other.rows, other.index, other.groups, other.known = self.rows, self.index, self.groups, self.known
        return other


def _without_graph(rays: Tensor) -> Tensor:
    """The same values in the same memory, without what computed them."""
    return rays if rays.is_leaf else rays.detach().requires_grad_(rays.requires_grad)


class _PerThread(threading.local):
    """The slot that traced code opened, per thread: tracing can read a context variable, but not set one.
    `threading.local` runs ``__init__`` in every thread, so the attribute is always there, which the guards of compiled
    code rely on."""

    def __init__(self) -> None:
        self.slot: Slot | None = None


def _place(variable: ContextVar[Slot | None]) -> Any:
    """An object whose attribute ``slot`` is the variable's value, and the object itself where there is none.

    torch.compile cannot trace ``variable.get()``, but an attribute that a function in C computes it reads anew in every
    call, as it does for extensions written with pybind.
    """
    return type("_Place", (), {"slot": property(variable.get)})()


class RayState:
    """The active rays of one adapted model, per context.

    Attributes:
        number: one of its own, by which traced code names it, and `by_number` finds it.
    """

    by_number: ClassVar[weakref.WeakValueDictionary[int, RayState]] = weakref.WeakValueDictionary()
    _numbers = itertools.count()

    def __init__(self, tasks: int, task_names: tuple[str, ...] | None = None) -> None:
        self.tasks = tasks
        self.task_names = task_names or tuple(str(t) for t in range(tasks))
        self.variable: ContextVar[Slot | None] = ContextVar("palora_rays")
        self.place = _place(self.variable)
        self.traced = _PerThread()
        self.passes: deque[Span] = deque()
        self.blocks = Blocks()
        self.remembered = 0  # bytes
        self.forgotten = 0  # the first number of autograd nodes that no forgotten pass has made
        self.findings = Findings()  # of trials, by the form of the arguments
        self.reported: set[str] = set()  # layers whose adapters a pass left out, and that were named
        self.told_reduced = False  # that an output is one number for all rays
        self.told_untried = False  # that the model was compiled by what is around it
        self.number = next(RayState._numbers)
        RayState.by_number[self.number] = self

    # A context variable can be neither copied nor pickled; a copy of a model starts without active rays.
    def __deepcopy__(self, memo: dict[int, Any]) -> RayState:
        copied = RayState(self.tasks, self.task_names)
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return (RayState, (self.tasks, self.task_names))

    def innermost(self) -> Slot | None:
        """The slot that was opened last in this context."""
        slot = self.traced.slot
        if slot is not None:
            return slot
        slot = self.place.slot
        return None if slot is self.place else slot

    def enter(self, slot: Slot, owner: object) -> None:
        """Make a slot the innermost one, until its owner leaves."""
        slot.owner = owner
        slot.traced = torch.compiler.is_compiling() or self.traced.slot is not None
        if slot.traced:
            slot.below, self.traced.slot = self.traced.slot, slot
        else:
            slot.thread = this_thread()
            slot.below = self.innermost()
            self.variable.set(slot)

    def leave(self, owner: object) -> bool:
        """Take the owner's innermost slot away; nothing happens where it has none in this context.

        Returns:
            Whether it was the innermost of all, as it is unless blocks overlap.
        """
        slot = self.traced.slot
        if slot is not None:
            if slot.owner is owner:
                self.traced.slot = slot.below
            return True
        above, slot = None, self.innermost()
        while slot is not None and slot.owner is not owner:
            above, slot = slot, slot.below
        if slot is None:
            return True
        here = slot.thread == this_thread()
        if slot.first_node_of_block is not None and here and torch.is_grad_enabled():
            self._close(slot, slot.first_node_of_block)
        if above is None:
            self.variable.set(slot.below)
            return True
        above.below = slot.below
        return False

    def _moved(self, slot: Slot) -> Slot:
        """A thread that was given a copy of another's context gets a slot of its own, as its passes are its own."""
        moved = slot.like(slot.graph_task)
        moved.rows = None
        moved.owner, moved.below, moved.thread = slot.owner, slot.below, this_thread()
        self.variable.set(moved)
        return moved

    def current(self) -> Slot | None:
        """The slot of this context's innermost ``at`` block, or, in a recomputation, of the original forward."""
        slot = self.innermost()
        if torch.compiler.is_compiling():
            return slot
        if slot is not None and not slot.traced and slot.thread != this_thread():
            slot = self._moved(slot)
        graph_task = private.graph_task()
        if graph_task == -1 or (slot is not None and slot.graph_task == graph_task):
            return slot
        remembered = self._recomputing(graph_task, slot)
        return slot if remembered is None else remembered

    def _recomputing(self, graph_task: int, slot: Slot | None) -> Slot | None:
        """Inside a backward: the rays of the pass, or else the block, that made the node now being differentiated."""
        number = private.differentiated_number()
        if number is None:
            return None
        found = [p for p in self.passes if p.first_node <= number < p.last_node]
        if not found:
            if number < self.forgotten:
                raise RuntimeError(
                    f"A checkpointed layer is being recomputed whose forward lies more than {MOST} "
                    f"passes or {MOST_BYTES >> 20} MiB of rays back, so its rays are not known any more; run "
                    "the backward earlier."
                )
            block = self.blocks.find(number, graph_task, slot)
            if not isinstance(block, Span):
                return block  # type: ignore[no-any-return]
            found = [block]
        if any(p.slot is not found[0].slot for p in found):
            raise RuntimeError(
                "A checkpointed layer is being recomputed, and passes of several threads fit it; run the threads' "
                "forward passes without activation checkpointing, or on copies of the model."
            )
        revived = self._revived(found[0])
        self.blocks.replay(graph_task, revived)
        return revived

    @staticmethod
    def _revived(done: Span) -> Slot:
        slot = done.slot.like(done.slot.graph_task)
        slot.inside, slot.revived = 1, True
        rays = done.rays()
        if rays is not None:
            slot.rays = rays
        elif slot.rays.requires_grad and private.in_reentrant_checkpoint():
            raise RuntimeError(
                "`rays` needs gradients, and a reentrant checkpoint is being recomputed after the block of palora.at "
                "that computed them; use checkpoint(..., use_reentrant=False), or run the backward inside the block."
            )
        for grown_ref, original_ref, version in done.expanded:
            grown, original = grown_ref(), original_ref()
            if grown is not None:
                n = grown.shape[0] // slot.count
                slot.expanded.append(Expanded(grown, grown[:n] if original is None else original, version))
        return slot

    def _close(self, slot: Slot, first_node: int) -> None:
        if private.transformed():
            return
        kept = slot.like(slot.graph_task)
        kept.rays, kept.rows, kept.thread = _without_graph(slot.rays), None, slot.thread
        self.blocks.close(Span(first_node, private.next_number(), kept, weakref.ref(slot.rays), []))

    def remember(self, first_node: int, last_node: int, slot: Slot) -> None:
        if private.transformed():
            return
        refs = [(weakref.ref(e.grown), weakref.ref(e.original), e.version) for e in slot.expanded]
        kept = slot.like(slot.graph_task)
        kept.rays = _without_graph(slot.rays)
        done = Span(first_node, last_node, kept, weakref.ref(slot.rays), refs)
        self.passes.append(done)
        self.remembered += done.nbytes
        while len(self.passes) > MOST or (self.remembered > MOST_BYTES and len(self.passes) > 1):
            old = self.passes.popleft()
            self.remembered -= old.nbytes
            self.forgotten = max(self.forgotten, old.last_node)

    def remember_without_graph(self, number: int, slot: Slot) -> None:
        """A pass without gradients: reentrant checkpointing of a whole model runs one, inside the node ``number``.

        If that node is somebody else's, it belongs to an earlier pass, or nothing is ever recomputed for it.
        """
        for done in reversed(self.passes):
            if done.last_node <= number:
                break
            if done.first_node <= number:
                return
        self.remember(number, number + 1, slot)
