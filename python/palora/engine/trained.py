"""A trained run at one of its checkpoints: the model, its data, and what it achieves at any preference."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from palora.data import Batches
from palora.engine.config import RunConfig
from palora.engine.grids import grid_of
from palora.engine.losses import loss_fn
from palora.engine.run import RunFolder, read_metrics
from palora.engine.setup import Parts, assemble
from palora.engine.state import load_checkpoint
from palora.engine.validate import front_of
from palora.errors import PaloraError
from palora.evaluation import Front
from palora.evaluation.naming import ray_text
from palora.evaluation.selection import position
from palora.evaluation.sensitivity import sensitivity

SPLITS = ("train", "validation", "test")


class Trained:
    """The run in `folder` as it was at `checkpoint`, "last" or "best"; `data`, `device` and `make_model` replace those
    of the training. Raises PaloraError for a folder that is no run, and for a missing or damaged checkpoint."""

    def __init__(
        self,
        folder: Path | str,
        *,
        checkpoint: str = "last",
        data: str | None = None,
        device: str | None = None,
        make_model: Callable[[], nn.Module] | None = None,
    ) -> None:
        if checkpoint not in ("last", "best"):
            raise PaloraError(f"`checkpoint` should be last or best. Found {checkpoint!r}.")
        self.run, self.checkpoint, self.make_model = RunFolder(folder), checkpoint, make_model
        config = RunConfig.read(self.run.config_file)
        self.config = replace(config, data=data or config.data, device=device or config.device)
        self.snapshot = load_checkpoint(self.run.last if checkpoint == "last" else self.run.best)
        self.position: dict[str, Any] = self.snapshot["position"]

    @cached_property
    def parts(self) -> Parts:
        """Data, method, and the model with the checkpoint's weights, in evaluation mode."""
        parts = assemble(self.config, self.make_model)
        parts.model.load_state_dict(self.snapshot["model"])
        parts.model.eval()
        return parts

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return tuple(task.name for task in self.parts.dataset.tasks)

    @cached_property
    def grid(self) -> Tensor:
        """(K, T): the rays at which the recipe evaluates; one for a method without preferences."""
        return grid_of(self.parts.method, self.config)

    def check_ray(self, ray: Tensor) -> None:
        """PaloraError where a method without preferences is asked for another than its own."""
        if len(self.grid) == 1 and not torch.allclose(ray, self.grid[0].to(ray), atol=1e-4):
            raise PaloraError(
                f"The method '{self.config.method}' holds a single point and has no preferences: leave the preference "
                f"out, or give the nearest and only one, {ray_text(self.grid[0])}."
            )

    def front(self, split: str, rays: Tensor) -> Front:
        """Losses and metrics on `split` at `rays` (K, T), measured now."""
        samples = getattr(self.parts.dataset, split)
        return front_of(self.parts, self.config, samples, rays, self.position.get("sweep_chunk"))

    def grid_front(self, split: str) -> Front:
        """The front on the grid: what training or `palora evaluate` wrote down of this checkpoint, or measured now."""
        known = self._known(split)
        return known if known is not None and torch.equal(known.rays, self.grid) else self.front(split, self.grid)

    def achieved(self, split: str, ray: Tensor) -> dict[str, float]:
        """Everything measured at one preference (T,): "loss/<task>", and the metrics."""
        known = self._known(split)
        if known is not None:
            with contextlib.suppress(PaloraError):  # not on the grid
                return measured(known, position(known, ray))
        return measured(self.front(split, ray[None]), 0)

    def sensitivity(self, split: str, ray: Tensor) -> Tensor | None:
        """(T, T), see :func:`palora.evaluation.sensitivity.sensitivity`, on `split`."""
        parts = self.parts
        samples = getattr(parts.dataset, split)

        def batches() -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
            for inputs, targets in Batches(samples, self.config.batch, shuffle=False):
                yield parts.place(inputs), targets

        return sensitivity(parts.model, batches(), loss_fn(parts.dataset.tasks), ray, parts.method.forward)

    def _known(self, split: str) -> Front | None:
        return self._validated() if split == "validation" else self._evaluated(split)

    def _validated(self) -> Front | None:
        """What training measured after the epoch at whose end the checkpoint was written."""
        if self.position["batch"] or not self.run.metrics_file.exists():
            return None
        for record in reversed(read_metrics(self.run.path)):
            if record.get("kind") == "epoch" and record["step"] == self.position["step"] and "validation" in record:
                found = record["validation"]
                metrics = {name: torch.tensor(values) for name, values in found["metrics"].items()}
                rays, losses = torch.tensor(found["rays"]), torch.tensor(found["losses"])
                return Front(rays, losses, metrics, self.tasks)
        return None

    def _evaluated(self, split: str) -> Front | None:
        """front.json, if it is of this split and checkpoint."""
        if self.position["batch"] or not self.run.front_file.exists():
            return None
        front = Front.load(self.run.front_file)
        about = json.loads(self.run.front_file.read_text(encoding="utf-8")).get("summary", {})
        epochs = f"{self.position['epoch']} of {self.config.epochs}"
        same = {"split": split, "checkpoint": self.checkpoint, "epochs": epochs}
        return front if all(about.get(key) == value for key, value in same.items()) else None


def measured(front: Front, index: int) -> dict[str, float]:
    """Everything that was measured at one ray, by name: "loss/<task>", and the metrics."""
    losses = {f"loss/{task}": front.losses[index, t].item() for t, task in enumerate(front.tasks)}
    return {**losses, **{name: values[index].item() for name, values in front.metrics.items()}}
