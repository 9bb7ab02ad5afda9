"""The private functions of PyTorch that `palora.at` needs; no other file of palora calls any of ``torch._C``.

A layer that activation checkpointing recomputes runs inside a backward, perhaps long after its ``at`` block has ended,
and has to find the rays of its own forward. `torch.utils.checkpoint` tells a module nothing of that unless the caller
passes ``context_fn``, and no public function says whether a backward runs here and for which node. A release that lacks
one of these raises, at the first call: to take the rays of the moment instead would give wrong gradients silently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def find(name: str) -> Callable[..., Any]:
    """``torch._C.<name>``, or a function that raises and says what is missing."""
    found: Any = torch._C
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        text = (
            f"PyTorch {torch.__version__} has no torch._C.{name}, by which palora.at tells a layer that activation "
            "checkpointing recomputes from one that runs forward. Install a release that palora was tested with (see "
            "its README)."
        )

        def missing(*_: Any) -> Any:
            raise RuntimeError(text)

        return missing
    return found  # type: ignore[no-any-return]


graph_task: Callable[[], int] = find("_current_graph_task_id")
"""The backward that runs in this thread, -1 for none."""

next_number: Callable[[], int] = find("_autograd._get_sequence_nr")
"""The number that the next node of autograd's graph will get in this thread."""


def at_end_of_backward(function: Callable[[], Any]) -> None:
    """Call ``function`` when the backward that runs here has ended."""
    torch.autograd.Variable._execution_engine.queue_callback(function)  # type: ignore[attr-defined]


_current_node: Callable[[], Any] = find("_current_autograd_node")


def differentiated_number() -> int | None:
    """The number of the node whose gradient is being computed in this thread, or None."""
    node = _current_node()
    return None if node is None else int(node._sequence_nr())


def in_reentrant_checkpoint() -> bool:
    """Whether the node whose gradient is being computed is that of ``checkpoint(..., use_reentrant=True)``."""
    node = _current_node()
    return node is not None and "CheckpointFunction" in node.name()


_modes: Callable[[], int] = find("_len_torch_dispatch_stack")
_mode: Callable[[int], Any] = find("_get_dispatch_stack_at")
transformed: Callable[[], bool] = find("_are_functorch_transforms_active")
"""Whether torch.func transforms what runs here: nothing is checkpointed inside, and tensors have no memory."""

_tracing: Callable[[], Any] = find("_get_tracing_state")


def watched(but: type) -> bool:
    """Whether something looks at every operation: a dispatch mode, but for one of the class ``but``, torch.func, a
    tracer, a CUDA graph's capture."""
    if torch.compiler.is_compiling() or transformed() or _tracing() is not None:
        return True
    if _modes() > 1 or (_modes() == 1 and not isinstance(_mode(0), but)):
        return True
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


PlainTensors: Any = find("DisableTorchFunctionSubclass")
"""Inside it subclasses of Tensor are taken as plain tensors."""
