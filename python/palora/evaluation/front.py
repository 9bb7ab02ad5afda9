"""The result of an evaluation: a set of rays and what the model achieves at each of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from palora.errors import PaloraError
from palora.evaluation.dominance import nondominated
from palora.evaluation.hypervolume import hypervolume
from palora.evaluation.monotonicity import monotonicity
from palora.files import write_file
from palora.reading import reading
from palora_kernels.reading import parse_json, read_bytes
from palora_kernels.typed import conform

FORMAT = "palora front 1"
_Number = float | Literal["nan", "inf", "-inf"]
_Type = Literal["float32", "float64"]


class _Types(TypedDict):
    rays: _Type
    losses: _Type


class FrontFile(TypedDict):
    """What `Front.to_json` writes. A number that JSON cannot say is a text."""

    format: Literal["palora front 1"]
    tasks: list[str]
    note: str
    dtype: _Types
    rays: list[list[_Number]]
    losses: list[list[_Number]]
    metrics: dict[str, list[_Number]]


@dataclass(frozen=True, eq=False)
class Front:
    """Losses and metrics at M rays.

    Attributes:
        rays: (M, T) preferences.
        losses: (M, T) mean loss of every task.
        metrics: name → (M,), for example "accuracy/left" for the accuracy on task "left".
        tasks: T names; empty for "task 1", "task 2", …
        note: one sentence shown next to the numbers (which data, which method).

    Tensors are kept on the CPU, float64 if they were given so, otherwise float32; metrics in the type of the
    losses. Wrong shapes raise ValueError. Two fronts are equal if every value is.
    """

    rays: Tensor
    losses: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        rays, losses = _floating(self.rays), _floating(self.losses)
        if rays.ndim != 2 or losses.shape != rays.shape:
            raise ValueError(
                "`rays` and `losses` should have the same shape (rays, tasks). "
                f"Found {tuple(rays.shape)} and {tuple(losses.shape)}."
            )
        metrics = {name: _floating(values).to(losses.dtype) for name, values in self.metrics.items()}
        for name, values in metrics.items():
            if values.shape != rays.shape[:1]:
                raise ValueError(
                    f"`metrics[{name!r}]` should hold one number a ray, shape ({len(rays)},). "
                    f"Found shape {tuple(values.shape)}."
                )
        tasks = tuple(self.tasks) or tuple(f"task {t + 1}" for t in range(rays.shape[1]))
        if len(tasks) != rays.shape[1] or len(set(tasks)) != len(tasks):
            raise ValueError(f"`tasks` should be {rays.shape[1]} different names. Found {tasks}.")
        for name, value in (("rays", rays), ("losses", losses), ("metrics", metrics), ("tasks", tasks)):
            object.__setattr__(self, name, value)  # the dataclass is frozen

    def __len__(self) -> int:
        return len(self.rays)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Front):
            return NotImplemented
        return self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def hypervolume(self, reference: float | Sequence[float] | Tensor | None = None) -> float:
        """Hypervolume of the losses; `reference` None means a loss of 1 for every task."""
        return hypervolume(self.losses, 1.0 if reference is None else reference)

    def nondominated(self) -> Tensor:
        """(M,) bool: the rays that no other ray of this front dominates, judged on losses."""
        return nondominated(self.losses)

    def monotonicity(self) -> Tensor:
        """(T,) Spearman coefficients between λ_t and the loss of task t; −1 is ideal."""
        return monotonicity(self.rays, self.losses)

    def to_json(self) -> str:
        """The front as JSON text, from which `from_json` restores every bit."""
        content = {
            "format": FORMAT,
            "tasks": list(self.tasks),
            "note": self.note,
            "dtype": {"rays": _name(self.rays), "losses": _name(self.losses)},
            "rays": _numbers(self.rays),
            "losses": _numbers(self.losses),
            "metrics": {name: _numbers(values) for name, values in self.metrics.items()},
        }
        return json.dumps(content, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Front:
        """Raises PaloraError if `text` is not what `to_json` writes."""
        try:
            content = conform("", parse_json(text), FrontFile)
            return cls(
                rays=_tensor("rays", content),
                losses=_tensor("losses", content),
                metrics={key: _tensor("losses", content, values) for key, values in content["metrics"].items()},
                tasks=tuple(content["tasks"]),
                note=content["note"],
            )
        except (ValueError, RuntimeError) as error:  # RuntimeError: shapes that PyTorch cannot make
            raise PaloraError(f"This is not a front: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json` to `path`; a reader finds the old file or the whole new one, never a part."""
        write_file(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Front:
        """Read what `save` wrote. Raises PaloraError if the file is missing or damaged."""
        with reading("The front", path, "evaluate again"):
            try:
                return cls.from_json(read_bytes(path).decode())
            except PaloraError as error:
                raise ValueError(str(error)) from error


_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def _floating(values: Any) -> Tensor:
    tensor = torch.as_tensor(values).detach().cpu()
    return tensor.clone() if tensor.dtype == torch.float64 else tensor.to(torch.float32, copy=True)


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _numbers(tensor: Tensor) -> Any:
    """Nested lists of the shortest decimals with the same bits. JSON has no NaN: that becomes a string."""
    if tensor.ndim:
        return [_numbers(row) for row in tensor]
    exact = tensor.item()
    short = float(str(tensor.numpy()))  # NumPy writes 0.1 for the float32 nearest to 0.1, Python 17 digits
    value = short if torch.tensor(short, dtype=tensor.dtype) == tensor else exact
    return value if math.isfinite(value) else str(value)


def _tensor(name: str, content: Any, values: Any = None) -> Tensor:
    """The numbers under `name`, or `values`, in the type that the file says; ValueError for what it cannot hold."""
    dtype = _DTYPES[content["dtype"][name]]
    exact = content[name] if values is None else values
    rows = [[float(v) for v in row] for row in exact] if values is None else [float(v) for v in exact]
    wide = torch.tensor(rows, dtype=torch.float64)
    found = wide.to(dtype)
    if not torch.equal(found.isinf(), wide.isinf()):
        raise ValueError(f"`{name}` should be numbers of {content['dtype'][name]}; some are beyond it")
    return found.reshape(-1, len(content["tasks"])) if values is None else found
