"""Everything a resumed run needs, in one object; checkpoints are its snapshots."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from palora.engine.rng import rng_state, set_rng_state
from palora.errors import PaloraError
from palora.files import replacing
from palora.methods import Method
from palora.reading import open_archive, reading
from palora_kernels.typed import Range, conform, shown

FORMAT = 1
_MOST = 2**40  # bytes of a member; a checkpoint's are no larger than its file
_Count = Annotated[int, Range(0, 10**15)]
_Chunk = Annotated[int, Range(1, 10**6)] | None


@dataclass
class Position:
    """How far a run has come."""

    epoch: _Count = 0
    """The epoch under way, from 0."""
    batch: _Count = 0
    """Its batches that are done."""
    step: _Count = 0
    """Steps done in the whole run."""
    loss_sums: list[float] = field(default_factory=list)
    """Per task: the sum over this epoch's steps of the losses, averaged over rays."""
    best: float | None = None
    """The best validation hypervolume so far."""
    chunk: _Chunk = None
    """Most rays in one training pass, once it is decided; a resumed run keeps it, to repeat the same sums."""
    sweep_chunk: _Chunk = None
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


class Snapshot(TypedDict):
    """What a checkpoint holds."""

    format: Literal[1]
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    method: dict[str, Any]
    position: Position
    rng: dict[str, Any]
    metrics_size: _Count


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
        """Become what `snapshot` holds. The generators come last, nothing may draw before the loop.

        Raises PaloraError for the snapshot of another model or method; half of the state may then be its.
        """
        load_weights(self.model, snapshot["model"])
        try:
            self._restore(snapshot)
        except Exception as error:  # whatever an optimiser or a method says of a state that is not its own
            raise PaloraError(f"The checkpoint is not one of this run ({_brief(error)}).") from error

    def _restore(self, snapshot: dict[str, Any]) -> None:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(snapshot["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = set_rate(rate, group["lr"])
        for parameter, found in self.optimizer.state.items():
            for name in ("step", "exp_avg", "exp_avg_sq"):
                if name != "step" and found[name].shape != parameter.shape:
                    raise ValueError(f"the optimiser's {name} has shape {tuple(found[name].shape)}")
        own, method = self.method.state_dict(), snapshot["method"]
        # None is what a method has before its first step, as rotograd's losses of the start.
        held = [name for name, value in own.items() if value is not None]
        if set(own) != set(method) or any(isinstance(own[k], Tensor) != isinstance(method[k], Tensor) for k in held):
            raise ValueError(f"the state of the method has {sorted(method)}, not {sorted(own)}")
        self.method.load_state_dict(method)
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
    """Read a checkpoint to the CPU, checksums verified (:class:`Snapshot`); missing, damaged or another format:
    PaloraError."""
    other = path.with_name("best.pt" if path.name == "last.pt" else "last.pt")
    remedy = f"copy {other.name} over it to go on from there" if other.exists() else "start the run anew elsewhere"
    if not path.exists():
        raise PaloraError(f"There is no checkpoint {path}: {remedy}.")
    with reading("The checkpoint", path, remedy):
        snapshot = load_tensors(path)
        found = conform("", snapshot, dict[str, Any]).get("format")
        if type(found) is int and found != FORMAT:
            raise PaloraError(f"The checkpoint {path} has format {found}; this version reads format {FORMAT}.")
        conform("", snapshot, Snapshot)
        for name, tensor in snapshot["model"].items():
            if tensor.is_floating_point() and tensor.isnan().any():
                raise ValueError(f"{name} in it should hold numbers, and holds nan")
    return snapshot


def load_tensors(path: Path) -> Any:
    """What `torch.save` wrote, to the CPU: tensors and plain values, no code. ValueError for anything else, and where
    the members of the archive are encrypted, compressed, or larger than the whole."""
    with open_archive(path, _MOST, stored=True) as archive:
        damaged = _sound(archive)
    if damaged is not None:
        raise ValueError(f"wrong checksum of {damaged}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds on what is not a checkpoint
        raise ValueError(_brief(error)) from error


def _sound(archive: Any) -> str | None:
    try:
        found: str | None = archive.testzip()
        return found
    except Exception as error:  # of headers that contradict the directory
        raise ValueError(_brief(error)) from error


def load_weights(model: nn.Module, weights: dict[str, Tensor], whose: str = "The checkpoint") -> None:
    """`model.load_state_dict`, or a PaloraError that names the first tensor that does not fit; the model is then as it
    was."""
    own = model.state_dict()
    odd = sorted(set(own) ^ set(weights))
    if odd:
        what = "lacks" if odd[0] in own else "holds"
        raise PaloraError(f"{whose} is of another method or model: it {what} {shown(odd[0])}.")
    for name, tensor in own.items():
        found = weights[name]
        kinds = [one.is_floating_point() or one.is_complex() for one in (tensor, found)]
        if tensor.shape != found.shape or kinds[0] != kinds[1] or found.is_complex() != tensor.is_complex():
            raise PaloraError(
                f"{whose} is of another model: {name} is {found.dtype} {tuple(found.shape)} there, and "
                f"{tensor.dtype} {tuple(tensor.shape)} here."
            )
    try:
        model.load_state_dict(weights)
    except Exception as error:  # a tensor without storage, of another layout, …
        raise PaloraError(f"{whose} cannot be taken over: {_brief(error)}.") from error


def _brief(error: Exception) -> str:
    return str(error).split("\n")[0][:120].rstrip(". ") or type(error).__name__
