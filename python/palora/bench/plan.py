"""Which plans a function really ran: read off the dispatcher, not off the table that chose them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.plans: dict[str, None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.namespace == "palora" and not func._opname.endswith("_backward"):
            self.plans[args[-1]] = None  # every op of the namespace ends with its plan
        return func(*args, **(kwargs or {}))


def plans_of(run: Callable[[], object]) -> str:
    """The plans of the palora ops that ``run`` calls in its forward passes, in order of appearance."""
    with _Recorder() as recorder:
        run()
    return ", ".join(recorder.plans)
