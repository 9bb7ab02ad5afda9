"""A run folder: config.json, environment.json, metrics.jsonl, checkpoints/, and what the evaluation adds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from torch import Tensor

from palora.engine.config import WHERE, RunConfig, differences
from palora.engine.environment import describe
from palora.engine.sole_writer import LOCK
from palora.engine.state import Position
from palora.errors import PaloraError
from palora.evaluation import Front
from palora.files import write_file, writing
from palora.reading import read_record, read_records
from palora_kernels.typed import AnyNumber, Range

_Count = Annotated[int, Range(0, 10**15)]


class StepRecord(TypedDict):
    """The line of a step in metrics.jsonl."""

    kind: Literal["step"]
    epoch: _Count
    step: _Count
    tau: float
    lr: float
    rays: list[list[float]]
    losses: list[list[float]]


class ValidationRecord(TypedDict):
    """What an epoch's line says of the validation; a metric that is undefined is nan."""

    hypervolume: float
    nondominated: _Count
    rays: list[list[float]]
    losses: list[list[float]]
    metrics: dict[str, list[AnyNumber]]


class _Epoch(TypedDict):
    kind: Literal["epoch"]
    epoch: _Count
    step: _Count
    losses: list[float]


class EpochRecord(_Epoch, total=False):
    """The line of an epoch, with its validation where there was one."""

    validation: ValidationRecord


class RunFolder:
    """The paths of a run and the record of its metrics."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.environment_file = self.path / "environment.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.last = self.path / "checkpoints" / "last.pt"
        self.best = self.path / "checkpoints" / "best.pt"
        self.front_file = self.path / "front.json"

    @classmethod
    def vacant(cls, path: Path | str) -> RunFolder:
        """The folder of a new run; PaloraError if there is anything in it already."""
        run = cls(path)
        if run.path.is_dir() and any(found.name != LOCK for found in run.path.iterdir()):
            other = "choose another folder with --out"
            remedy = f"go on with --resume, or {other}" if run.config_file.exists() else other
            raise PaloraError(f"The run folder {run.path} is not empty: {remedy}.")
        return run

    def create(self, config: RunConfig) -> None:
        """Make the folder and write what the run is and where it runs.

        config.json comes first: from then on the folder holds a run, which can be resumed.
        """
        write_file(self.config_file, _json(config.to_dict()))
        write_file(self.environment_file, _json(describe()))
        write_file(self.metrics_file, "")

    def started(self) -> bool:
        """Whether training began: without a checkpoint and a record of it, a run that is resumed starts anew."""
        recorded = self.metrics_file.exists() and self.metrics_file.stat().st_size > 0
        return recorded or self.last.exists() or self.best.exists()

    @classmethod
    def resumable(cls, path: Path | str, config: RunConfig) -> tuple[RunFolder, list[str]]:
        """The folder of a run to go on with under `config`, and remarks on what is not as it was.

        Raises PaloraError, naming the key, if `config` describes another run than its config.json.
        """
        run = cls(path)
        remarks = []
        for key, old, new in differences(RunConfig.read(run.config_file), config):
            if key not in WHERE:
                raise PaloraError(
                    f"{run.path} was started with {key} = {_show(old)}, not {_show(new)}: resume it as it "
                    "was, or start a new run with another --out."
                )
            if key in ("device", "ray_chunk"):
                remarks.append(f"{key} was {_show(old)}, now {_show(new)}")
        return run, remarks + _changed_environment(run.environment_file)

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with writing(self.metrics_file), self.metrics_file.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def metrics_size(self) -> int:
        """Bytes of metrics.jsonl, all of them on disk on return."""
        with writing(self.metrics_file), self.metrics_file.open("a") as file:
            os.fsync(file.fileno())
            return file.tell()

    def truncate_metrics(self, size: int) -> None:
        """Keep the first `size` bytes: what came after the checkpoint is about to be recorded again."""
        found = self.metrics_file.stat().st_size if self.metrics_file.exists() else 0
        if found < size:
            raise PaloraError(
                f"{self.metrics_file} has {found} bytes, its checkpoint counts {size}: it was cut or "
                "replaced, so the run cannot be resumed; start a new one with another --out."
            )
        with writing(self.metrics_file), self.metrics_file.open("a") as file:
            file.truncate(size)


def step_record(position: Position, tau: float, lr: float, rays: Tensor, losses: Tensor) -> dict[str, Any]:
    """The line of a step: rays and losses, both (M, T). No times, so that a resumed run records the same."""
    return {
        "kind": "step",
        "epoch": position.epoch + 1,
        "step": position.step,
        "tau": tau,
        "lr": lr,
        "rays": rays.tolist(),
        "losses": losses.tolist(),
    }


def validation_record(front: Front, hypervolume: float) -> dict[str, Any]:
    """What an epoch's line says of the validation."""
    return {
        "hypervolume": hypervolume,
        "nondominated": int(front.nondominated().sum()),
        "rays": front.rays.tolist(),
        "losses": front.losses.tolist(),
        "metrics": {name: values.tolist() for name, values in front.metrics.items()},
    }


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The records of a run folder's metrics.jsonl, in order; a half-written last line is left out. PaloraError if it
    is missing or damaged."""
    file = RunFolder(path).metrics_file
    if not file.exists():
        raise PaloraError(f"{path} has no metrics.jsonl: nothing was trained there.")
    return read_records(file, StepRecord | EpochRecord, "The record")


def _changed_environment(path: Path) -> list[str]:
    """What differs from when the run began and may cost the repetition bit for bit."""
    try:
        before = read_record(path, dict[str, Any], "The environment")
    except PaloraError:
        return ["environment.json cannot be read"]
    now = describe()
    return [
        f"{key} was {_show(before.get(key))}, now {_show(now[key])}"
        for key in ("torch", "threads", "processor")
        if before.get(key) != now[key]
    ]


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def _show(value: Any) -> str:
    return "unset" if value is None else str(value)
