"""Which `at` block a node of autograd was made in, for what a backward recomputes outside all passes of the model.

A checkpointed function may hold more than a pass, ``checkpoint(lambda x: model(x).cos(), x)``, or layers that are
called by themselves. The node that asks for its recomputation then lies in no pass, but in the block of its forward.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from functools import partial
from typing import Any, NamedTuple

from palora.layers import private

# Passes, or blocks, whose rays are remembered for recomputation, and the bytes of those rays.
MOST = 1024
MOST_BYTES = 16 * 2**20


_numbers = itertools.count()


class _Thread(threading.local):
    """`threading.local` runs ``__init__`` in every thread."""

    def __init__(self) -> None:
        self.number = next(_numbers)


_thread = _Thread()


def this_thread() -> int:
    """A number of this thread alone: identifiers of ended threads are used again."""
    return _thread.number


class Span(NamedTuple):
    """A finished pass through an expansion point, or a closed block: the autograd nodes made in it, and its rays."""

    first_node: int
    last_node: int
    slot: Any  # its rays without their graph
    rays: Any  # weak references: remembering a pass must not keep graphs or activations alive
    expanded: list[tuple[Any, Any, int]]

    @property
    def nbytes(self) -> int:
        index = self.slot.index
        return int(self.slot.rays.untyped_storage().nbytes()) + (0 if index is None else int(index.nbytes))


class Blocks:
    """The blocks of one model that were closed last; of older ones nothing is known."""

    def __init__(self) -> None:
        self.closed: deque[Span] = deque()
        self.bytes = 0
        self.replayed: dict[int, tuple[int, Any]] = {}  # thread -> (its outer backward, the rays of that)

    def close(self, block: Span) -> None:
        if block.first_node == block.last_node:
            return  # nothing to differentiate
        self.closed.append(block)
        self.bytes += block.nbytes
        while len(self.closed) > MOST or (self.bytes > MOST_BYTES and len(self.closed) > 1):
            self.bytes -= self.closed.popleft().nbytes

    def find(self, number: int, task: int, slot: Any) -> Any:
        """The innermost block that a node was made in: a closed one as a `Span`, or the slot of an open one; or None.

        Args:
            number: the node's. task: the backward that asks for it. slot: the innermost open block's.

        Raises:
            RuntimeError: blocks of several threads fit, as each thread counts its own nodes.
        """
        found: list[Any] = [block for block in self.closed if block.first_node <= number < block.last_node]
        if not found:
            outer, replayed = self.replayed.get(this_thread(), (task, None))
            if outer != task:  # a backward inside a backward: reentrant checkpoints in each other
                return replayed
        threads = {block.slot.thread for block in found}
        while slot is not None:
            if slot.first_node_of_block is not None and slot.first_node_of_block <= number:
                found.append(slot)
                threads.add(slot.thread)
            slot = slot.below
        if len(threads) > 1:
            raise RuntimeError(
                "A checkpointed layer is being recomputed, and blocks of palora.at of several threads fit it; run the "
                "threads' forward passes without activation checkpointing, or on copies of the model."
            )
        return max(found, key=_first, default=None)

    def replay(self, task: int, slot: Any) -> None:
        """A backward recomputes with these rays, and until it ends those inside it do."""
        thread = this_thread()
        if thread not in self.replayed:
            private.at_end_of_backward(partial(self.replayed.pop, thread, None))
            self.replayed[thread] = task, slot
        elif self.replayed[thread][0] == task:
            self.replayed[thread] = task, slot


def _first(block: Any) -> int:
    return int(block.first_node if isinstance(block, Span) else block.first_node_of_block)
