"""From the tuned items of a file of results to the table that travels with the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palora.errors import PaloraError
from palora_kernels.triton import shipped, tuning
from palora_kernels.triton.tuning import Tile, Tuning


def tuned(content: Mapping[str, Any]) -> Tuning:
    """The tiles and plans of all tuned items; of two for one bucket the later stays."""
    tiles: dict[str, Tile] = {}
    plans: dict[str, str] = {}
    for result in content["times"].values():
        if "gain" in result:
            found = tuning.checked(result["tiles"], result["plans"])
            tiles |= found.tiles
            plans |= found.plans
    return Tuning(tiles, plans)


def write(content: Mapping[str, Any], folder: Path | None = None) -> Path:
    """Write the device's table, or add to it. Raises PaloraError where nothing was tuned or the device is not said."""
    header, found = content["header"], tuned(content)
    if not found or "gpu" not in header:
        raise PaloraError("The results should hold tuned tiles. Found none: `make gpu-check` on a GPU measures them.")
    gpu = shipped.Gpu(**header["gpu"])
    path = (folder or shipped.FOLDER) / f"{shipped.slug(gpu.name)}.json"
    about = {name: header[name] for name in ("torch", "triton", "cuda", "code")}
    tuning.write(path, found, shipped.about(gpu) | about)
    return path
