"""Everything a resumed run needs, in one object; checkpoints are its snapshots."""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from palora.engine.rng import rng_state, set_rng_state
from palora.errors import PaloraError
from palora.files import replacing
from palora.methods import Method

FORMAT = 1


@dataclass
class Position:
    """How far a run has come."""

    epoch: int = 0
    """The epoch under way, from 0."""
    batch: int = 0
    """Its batches that are done."""
    step: int = 0
    """Steps done in the whole run."""
    loss_sums: list[float] = field(default_factory=list)
    """Per task: the sum over this epoch's steps of the losses, averaged over rays."""
    best: float | None = None
    """The best validation hypervolume so far."""
    chunk: int | None = None
    """Most rays in one training pass, once it is decided; a resumed run keeps it, to repeat the same sums."""
    sweep_chunk: int | None = None
    """Most rays in one pass without gradients."""
    chunk_setting: int | str | None = "undecided"
    """The setting of `ray_chunk` that these two follow from."""

    def advance(self, losses: Tensor) -> None:
        """One more step is done, with the losses (M, T), which are on the host."""
        means = losses.double().mean(0).tolist()
        before = self.loss_sums or [0.0] * len(means)
        self.loss_sums = [total + mean for total, mean in zip(before, means, strict=True)]
        self.batch += 1
        self.step += 1

    def mean_losses(self) -> list[float]:
        """Per task: the mean loss of this epoch so far."""
        return [total / max(self.batch, 1) for total in self.loss_sums]

    def next_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch += 1
        self.batch = 0
        self.loss_sums = []


@dataclass
class TrainState:
    """Model, optimiser, method and position, as one thing to save and restore.

    The data order and the learning rate follow from the configuration and the position.
    """

    model: nn.Module
    optimizer: Optimizer
    method: Method
    position: Position = field(default_factory=Position)

    def snapshot(self) -> dict[str, Any]:
        """All of it, and the random number generators."""
        return {
            "format": FORMAT,
            "model": self.model.state_dict(),
            "optimizer": _with_numbers(self.optimizer.state_dict()),
            "method": self.method.state_dict(),
            "position": asdict(self.position),
            "rng": rng_state(),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Become what `snapshot` holds. The generators come last, nothing may draw before the loop."""
        self.model.load_state_dict(snapshot["model"])
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(snapshot["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = set_rate(rate, group["lr"])
        self.method.load_state_dict(snapshot["method"])
        self.position = Position(**snapshot["position"])
        set_rng_state(snapshot["rng"])


def set_rate(rate: float | Tensor, value: float) -> float | Tensor:
    """The learning rate `value`, in the place of `rate`: a tensor is written, since a captured step reads it there."""
    return rate.fill_(value) if isinstance(rate, Tensor) else value


def _with_numbers(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state with learning rates as numbers, whatever device it was on."""
    groups = [{**group, "lr": float(group["lr"])} for group in optimizer["param_groups"]]
    return {**optimizer, "param_groups": groups}


def save_checkpoint(state: TrainState, path: Path, metrics_size: int) -> None:
    """Write `state` and the size of the metrics so far; `path` is the old file or the whole new one."""
    snapshot = {**state.snapshot(), "metrics_size": metrics_size}
    with replacing(path) as new, new.open("wb") as file:
        torch.save(snapshot, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU, checksums verified; missing, damaged or another format: PaloraError."""
    other = path.with_name("best.pt" if path.name == "last.pt" else "last.pt")
    remedy = f"copy {other.name} over it to go on from there" if other.exists() else "start the run anew elsewhere"
    if not path.exists():
        raise PaloraError(f"There is no checkpoint {path}: {remedy}.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        snapshot: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = snapshot["format"]
    except Exception as error:
        raise PaloraError(f"The checkpoint {path} is damaged ({_brief(error)}): {remedy}.") from error
    if found != FORMAT:
        raise PaloraError(f"The checkpoint {path} has format {found}; this version reads format {FORMAT}.")
    return snapshot


def _brief(error: Exception) -> str:
    return str(error).split("\n")[0][:120].rstrip(". ") or type(error).__name__
