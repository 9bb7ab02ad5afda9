"""The live model: any preference, samples of the test set, and inputs that were uploaded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from palora.engine.samples import COUNT, answer, collect
from palora.engine.trained import Trained
from palora.errors import PaloraError
from palora.explore import uploads
from palora.showing import show_input, show_tasks

MOST_SAMPLES = 24
"""At once."""
MOST_UPLOADS = 16
"""Kept; of more the oldest are forgotten."""

Name = int | str
"""A place in the test set, or the name of an upload."""


class Live:
    """Answers of a trained run, in the form of samples.json (:mod:`palora.showing`). One question at a time."""

    def __init__(self, trained: Trained) -> None:
        self.trained = trained
        self.split = trained.parts.dataset.test
        if not len(self.split):
            raise PaloraError("There is nothing to show: the test set is empty.")
        inputs, self._targets = self.split.rows(torch.tensor([0]))
        self.like = inputs[0]
        self.uploaded: OrderedDict[str, Tensor] = OrderedDict()
        self._count = 0
        self._lock = threading.Lock()

    def first(self) -> dict[str, Any]:
        """What the page begins with: the samples that `palora evaluate` would keep, at the rays of the grid."""
        with self._lock:
            return collect(self.trained.parts, self.split, self.trained.grid, COUNT)

    def answers(self, ray: Any, names: Any) -> list[list[dict[str, Any]]]:
        """For each of the named samples one answer a task at the preference `ray`, a list of T weights."""
        weights = self._ray(ray)
        return [sample["answers"][0] for sample in self._samples(weights, self._names(names))]

    def samples(self, ray: Any, start: Any) -> list[dict[str, Any]]:
        """The samples of the test set from place `start` on, as many as the page begins with."""
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < len(self.split):
            raise PaloraError(f"`start` should be a place in the test set, 0 … {len(self.split) - 1}. Found {start!r}.")
        return self._samples(self._ray(ray), range(start, min(start + COUNT, len(self.split))))

    def upload(self, ray: Any, kind: str, body: bytes) -> dict[str, Any]:
        """Keep an input that was uploaded; returns it as a sample without truth."""
        weights = self._ray(ray)
        found = uploads.read(kind, body, self.like)
        with self._lock:
            self._count += 1
            name = f"upload {self._count}"
            self.uploaded[name] = found
            while len(self.uploaded) > MOST_UPLOADS:
                self.uploaded.popitem(last=False)
        return self._samples(weights, [name])[0]

    def _ray(self, ray: Any) -> Tensor:
        """(1, T). Any weights on the simplex."""
        tasks = self.trained.tasks
        numbers = isinstance(ray, list) and all(isinstance(w, (int, float)) and not isinstance(w, bool) for w in ray)
        weights = torch.tensor(ray if numbers else [], dtype=torch.float64)
        if len(weights) != len(tasks) or not (weights >= 0).all() or not abs(weights.sum().item() - 1) < 1e-3:
            raise PaloraError(f"`preference` should be {len(tasks)} weights >= 0 that sum to 1. Found {str(ray)[:80]}.")
        weights = (weights / weights.sum()).float()
        self.trained.check_ray(weights)
        return weights[None]

    def _names(self, names: Any) -> list[Name]:
        if not isinstance(names, list) or not 1 <= len(names) <= MOST_SAMPLES:
            raise PaloraError(f"`samples` should be a list of 1 … {MOST_SAMPLES} samples.")
        for name in names:
            of_test = type(name) is int and 0 <= name < len(self.split)
            if not of_test and not (isinstance(name, str) and name in self.uploaded):
                raise PaloraError(f"There is no sample {str(name)[:40]!r}: take one of the test set, or upload again.")
        return names

    def _samples(self, ray: Tensor, names: Sequence[Name]) -> list[dict[str, Any]]:
        with self._lock:
            gathered = [self._sample(name) for name in names]
            inputs = torch.stack([x for x, _ in gathered])
            outputs = answer(self.trained.parts, inputs, ray)
        samples = []
        for i, (name, (x, targets)) in enumerate(zip(names, gathered, strict=True)):
            shown = show_tasks([output[:, i] for output in outputs], targets)
            entry = {"index": name, "chosen": "first", "input": show_input(x)}
            samples.append({**entry, "truth": shown.truth, "answers": shown.answers})
        return samples

    def _sample(self, name: Name) -> tuple[Tensor, list[Tensor]]:
        """One input and its targets, none of them with a batch dimension."""
        if isinstance(name, str):
            if name not in self.uploaded:
                raise PaloraError(f"There is no sample {name!r} any more: upload it again.")
            return self.uploaded[name], [_unknown(target[0]) for target in self._targets]
        inputs, targets = self.split.rows(torch.tensor([name]))
        return inputs[0], [target[0] for target in targets]


def _unknown(target: Tensor) -> Tensor:
    """A target that says that nothing is known: no class, no depth and no normal in any pixel, no value."""
    if not target.is_floating_point():
        return torch.full_like(target, -1)
    return torch.zeros_like(target) if target.dim() == 3 else torch.full_like(target, torch.nan)
