"""What a file of results of `make gpu-check` may hold, and reading one. Needs no more than the check itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from palora.reading import reading
from palora_kernels.reading import read_json
from palora_kernels.triton.shipped import Gpu
from palora_kernels.triton.tuning import Tile
from palora_kernels.typed import AnyNumber, Range, conform

Seconds = Annotated[float, Range(1e-12, 1e9)]
Rate = Annotated[float, Range(1, 1e21)]
Count = Annotated[int, Range(0, 10**15)]


class _Header(TypedDict):
    code: str
    devices: list[str]
    torch: str
    triton: str | None


class Header(_Header, total=False):
    """The machine and the versions."""

    gpu: Gpu
    cuda: str | None


class Content(TypedDict):
    """The whole file; `values` and `times`: job → its result."""

    format: Literal[1]
    header: Header
    values: dict[str, dict[str, Any]]
    times: dict[str, dict[str, Any]]


class Lost(TypedDict):
    """A job that has no result, and why."""

    lost: str


class Wrong(TypedDict):
    """A call that was wrong."""

    worst: str
    error: AnyNumber
    tiles: dict[str, str]
    note: str


class Values(TypedDict):
    """A job that was compared with float64."""

    rounds: Count
    worst: str
    error: AnyNumber
    wrong: list[Wrong]


class Rates(TypedDict):
    """What the device can move and multiply in a second."""

    bandwidth: Rate
    products: Rate


class Least(TypedDict):
    """Bytes and flops that a call cannot do without."""

    bytes: Annotated[float, Range(0, 1e21)]
    flops: Annotated[float, Range(0, 1e21)]


class _Row(TypedDict):
    name: str
    part: str
    precision: str
    plan: str
    errors: dict[str, AnyNumber]
    tolerance: float
    graph: dict[str, Seconds]
    eager: dict[str, Seconds]
    peak: dict[str, Count]
    notes: dict[str, str]


class Row(_Row, total=False):
    """A timed row; `least` is empty where it is not known."""

    least: dict[str, float]


class Rows(TypedDict):
    """The rows of an op."""

    rows: list[Row]


class Tuned(TypedDict):
    """Tiles and plans that were measured."""

    name: str
    tiles: dict[str, Tile]
    plans: dict[str, str]
    gain: Seconds
    notes: list[str]


def load(path: Path) -> dict[str, Any]:
    """The file's content. Raises PaloraError if it is missing, damaged, or none that `make gpu-check` wrote."""
    with reading("The file of results", path, "name one that make gpu-check wrote"):
        content: dict[str, Any] = read_json(path, nan=True, longest=2**20)
        conform("", content, Content)
        for name, result in content["values"].items():
            conform(f"values.{name}", result, Lost if "lost" in result else Values)
        for name, result in content["times"].items():
            conform(f"times.{name}", result, _kind(result))
            for row in result.get("rows", [result] if "graph" in result else []):
                if row.setdefault("least", {}):
                    conform(f"times.{name}.least", row["least"], Least)
    return content


def _kind(result: Mapping[str, Any]) -> Any:
    """What a timed item is, told by the keys that only it has."""
    for key, kind in (("lost", Lost), ("bandwidth", Rates), ("gain", Tuned), ("rows", Rows)):
        if key in result:
            return kind
    return Row
