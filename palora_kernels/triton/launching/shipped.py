"""The tables of tiles and plans that travel with the package: what was measured on a device, one JSON file for each in
``palora_kernels/measured``, and which of them serves a device that nobody measured. Needs no triton."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch

from palora_kernels.reading import read_json
from palora_kernels.typed import Range, conform

FOLDER = Path(__file__).parents[2] / "measured"


@dataclass(frozen=True)
class Gpu:
    """What decides which table serves a device. family: "sm_9" of an NVIDIA GPU of compute capability 9.x, the whole
    architecture of an AMD GPU, "gfx942". processors: multiprocessors, or compute units."""

    name: str
    family: str
    processors: Annotated[int, Range(1, 100_000)]


class _About(TypedDict):
    gpu: Gpu


class _Table(TypedDict):
    about: _About


def slug(name: str) -> str:
    """A device's name as the name of a file."""
    return "".join(c if c.isalnum() else "-" for c in name)


def gpu_of(device: torch.device) -> Gpu:
    """Of a device of type "cuda"."""
    properties = torch.cuda.get_device_properties(device)
    amd = torch.version.hip is not None
    family = properties.gcnArchName.split(":")[0] if amd else f"sm_{properties.major}"
    return Gpu(properties.name, family, properties.multi_processor_count)


def nearest(gpu: Gpu, known: Iterable[Gpu]) -> Gpu | None:
    """The one of the same name; else, in the same family, the nearest by processors, then by name; else None."""
    family = [other for other in known if other.family == gpu.family]
    distance = {other: (other.name != gpu.name, abs(other.processors - gpu.processors), other.name) for other in family}
    return min(family, key=lambda other: distance[other], default=None)


@functools.cache
def tables(folder: Path = FOLDER) -> dict[Gpu, Path]:
    """The tables of a folder by the device they were measured on. Raises ValueError for one that does not say it."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found[conform("", read_json(path), _Table)["about"]["gpu"]] = path
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path} should say on which device it was measured: about, gpu: name, family, processors. "
                f"Found: {error}"
            ) from error
    return found


def table_of(device: torch.device) -> tuple[Gpu, Path] | None:
    """The table that serves a device; None on a CPU, and where nothing of its family was measured."""
    if device.type != "cuda":
        return None
    known = tables(FOLDER)
    gpu = nearest(gpu_of(device), known)
    return None if gpu is None else (gpu, known[gpu])


def about(gpu: Gpu) -> dict[str, Any]:
    """What a table has to say of its device."""
    return {"gpu": asdict(gpu)}
