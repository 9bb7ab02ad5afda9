"""What every module of a model was given and gave, and whether stacked rays are the single ones side by side."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from palora.layers.comparing import close, dense, leaves


class Event(NamedTuple):
    """A module began (with its inputs) or ended (with its outputs)."""

    name: str
    began: bool
    parent: str
    tensors: list[Tensor]


class Recorder:
    """Records a pass by hooks on every module; `running` names the innermost module, also after an error."""

    def __init__(self, model: nn.Module) -> None:
        self.events: list[Event] = []
        self.stack: list[str] = []
        self.running: str | None = None
        self.handles = []
        self.ids: dict[str, int] = {}  # a trial runs doubles of the modules, and their hooks
        for name, module in model.named_modules():
            self.ids[name] = id(module)
            self.handles.append(module.register_forward_pre_hook(self._began(name), with_kwargs=True))
            self.handles.append(module.register_forward_hook(self._ended(name), always_call=True))

    def _began(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self.ids[name] != id(module):
                return
            parent = self.stack[-1] if self.stack else ""
            self.events.append(Event(name, True, parent, _kept((args, kwargs))))
            self.stack.append(name)

        return hook

    def _ended(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if self.ids[name] != id(module):
                return
            if output is None and self.running is None:
                self.running = name  # perhaps an error; the innermost one comes first
            if self.stack:
                self.stack.pop()
            self.events.append(Event(name, False, self.stack[-1] if self.stack else "", _kept(output)))

        return hook

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def _kept(value: Any) -> list[Tensor]:
    return [dense(tensor.detach()).clone() for tensor in leaves(value)]


def side_by_side(stacked: Tensor, singles: list[Tensor]) -> bool:
    """Whether ``stacked`` holds the rows of all single passes: ray-major, batch-second, token by token, or the same for
    all rays, which is the only way for a number."""
    if stacked.dim() and all(single.shape == stacked.shape[1:] for single in singles):
        return len(stacked) == len(singles) and close(stacked, torch.stack(singles))  # one sample a ray, squeezed
    if any(single.dim() != stacked.dim() for single in singles):
        return False
    if all(single.shape == stacked.shape for single in singles):
        return all(close(stacked, single) for single in singles)
    if any(close(stacked, torch.cat(singles, dim=d)) for d in range(stacked.dim()) if _alike(singles, d)):
        return True
    first = singles[0].shape
    if stacked.dim() < 2 or any(single.shape != first for single in singles) or stacked.shape[1:] != first[1:]:
        return False
    counts = [n for n in range(1, first[0]) if first[0] % n == 0]
    return any(
        close(stacked, torch.cat([s.unflatten(0, (-1, n)) for s in singles], dim=1).flatten(0, 1)) for n in counts
    )


def _alike(singles: list[Tensor], d: int) -> bool:
    """Whether they can be joined along ``d``."""
    shapes = {(*single.shape[:d], *single.shape[d + 1 :]) for single in singles}
    return len(shapes) == 1


def first_parting(stacked: list[Event], singles: list[list[Event]], numbers: bool = False) -> Event | None:
    """The first event of the stacked pass that is not the single passes' side by side; ``numbers``: tensors without
    dimensions are looked at too."""
    alone: list[dict[tuple[str, bool], list[Event]]] = []
    for events in singles:
        table: dict[tuple[str, bool], list[Event]] = {}
        for event in events:
            table.setdefault((event.name, event.began), []).append(event)
        alone.append(table)
    met: dict[tuple[str, bool], int] = {}
    for event in stacked:
        key = event.name, event.began
        turn = met[key] = met.get(key, -1) + 1
        calls = [table.get(key, []) for table in alone]
        if any(turn >= len(call) for call in calls):
            return event
        if event.name == "" and event.began:
            continue  # what the model itself was given
        theirs = [call[turn].tensors for call in calls]
        if any(len(tensors) != len(event.tensors) for tensors in theirs):
            return event
        for i, tensor in enumerate(event.tensors):
            if (tensor.dim() or numbers) and not side_by_side(tensor, [tensors[i] for tensors in theirs]):
                return event
    return None
