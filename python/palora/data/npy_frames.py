"""Frames in the layout of the MTAN authors: <part>/<field>/<number>.npy, numbered from 0.

Every file is checked before training starts. That means reading all of them once; a stamp in the cache (names,
sizes, times of change) saves the next run from it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palora.data.cache import cached
from palora.data.download import Progress
from palora.data.lazy import Batch, Lazy, default_workers
from palora.data.types import Split
from palora.errors import PaloraError
from palora_kernels.reading import require_file

Check = Callable[[NDArray[np.float64]], "str | None"]
"""An array → what is wrong with it, or None."""


@dataclass(frozen=True)
class Field:
    """A kind of file: its folder, channels (0: a plain (H, W) map), and the check of its values."""

    folder: str
    channels: int
    check: Check


def within(low: float, high: float, slack: float = 0.05) -> Check:
    """All values are finite and lie in low … high, or as little beyond as resizing may have put them."""

    def check(values: NDArray[np.float64]) -> str | None:
        least, most = float(values.min()), float(values.max())
        if low - slack <= least and most <= high + slack:  # false for NaN
            return None
        return f"values should lie in {low:g} … {high:g}. Found {least:g} … {most:g}"

    return check


def classes(count: int) -> Check:
    """Whole numbers in 0 … count − 1, or −1 for a pixel without label."""
    span = within(-1, count - 1, slack=0)

    def check(values: NDArray[np.float64]) -> str | None:
        if (values != np.round(values)).any():
            return "classes should be whole numbers"
        return span(values)

    return check


def normals(values: NDArray[np.float64]) -> str | None:
    """Vectors along the last axis of length 1 (less where resizing has mixed two), or 0 for none."""
    longest = float(np.sqrt((values**2).sum(-1)).max())
    return None if longest <= 1.05 else f"normals should have length 1, or 0 for none. Found up to {longest:g}"


@dataclass(frozen=True)
class NpyFrames:
    """The frames of one part ("train", "val"): fields in the order input, targets.

    `scale` divides height and width: the input is averaged over scale × scale pixels, of the targets every
    scale-th pixel is taken.
    """

    place: Path
    fields: tuple[Field, ...]
    remedy: str
    scale: int = 1

    def count(self) -> int:
        """How many frames there are. PaloraError if a field lacks one or has others."""
        numbers = {field.folder: self._numbers(field) for field in self.fields}
        total = max(map(len, numbers.values()))
        for folder, found in numbers.items():
            absent = sorted(set(range(total)) - found)
            if absent or len(found) != total:
                what = f"{absent[0]}.npy" if absent else f"numbers 0 … {total - 1}; found {max(found)}.npy"
                raise PaloraError(
                    f"{self.place / folder} is incomplete: it has {len(found):,} of {total:,} frames, missing {what}. "
                    f"{self.remedy}"
                )
        if total < 2:
            raise PaloraError(f"{self.place} should hold at least two frames. Found {total}. {self.remedy}")
        return total

    def verify(self, progress: Progress | None = None) -> tuple[int, int]:
        """Check every file, once for each state of the folder; returns height and width of the frames."""
        total = self.count()
        files = [self._path(field, i) for i in range(total) for field in self.fields]
        stamp = hashlib.sha256()
        for path in files:
            about = path.stat()
            stamp.update(f"{path}|{about.st_size}|{about.st_mtime_ns}\n".encode())

        def check_all() -> dict[str, Tensor]:
            size: tuple[int, ...] | None = None
            for i, path in enumerate(files):
                field = self.fields[i % len(self.fields)]
                found = self._check(path, field, size)
                size = size or found
                if progress and i % 100 == 0:
                    progress(f"checking {self.place.name}", i, len(files))
            return {"size": torch.tensor(size)}

        kinds = ",".join(field.folder for field in self.fields)
        key: Mapping[str, str | int | None] = {"version": 1, "fields": kinds, "files": stamp.hexdigest()}
        height, width = cached("checked-frames", key, check_all)["size"].tolist()
        return height, width

    def __call__(self, index: Tensor) -> Batch:
        """Read frames: input (n, 3, H, W); a class map (n, H, W) int64, other targets (n, C, H, W) float32."""
        columns = [torch.stack([self._read(field, i) for i in index.tolist()]) for field in self.fields]
        return columns[0], tuple(columns[1:])

    def _read(self, field: Field, number: int) -> Tensor:
        path = self._path(field, number)
        try:
            values = torch.from_numpy(_array(path))
        except (OSError, ValueError, TypeError) as error:
            raise PaloraError(f"{path} was changed while it was used ({error}). {self.remedy}") from error
        if field.channels == 0:
            return values[:: self.scale, :: self.scale].long()
        values = values.float().movedim(-1, 0).contiguous()
        return shrink(values, self.scale, average=field is self.fields[0])

    def _numbers(self, field: Field) -> set[int]:
        folder = self.place / field.folder
        if not folder.is_dir():
            raise PaloraError(f"{self.place} has no folder {field.folder}. {self.remedy}")
        return {int(path.stem) for path in folder.glob("*.npy") if path.stem.isdigit()}

    def _path(self, field: Field, number: int) -> Path:
        return self.place / field.folder / f"{number}.npy"

    def _check(self, path: Path, field: Field, size: tuple[int, ...] | None) -> tuple[int, ...]:
        try:
            values = _array(path)
        except (OSError, ValueError) as error:
            raise PaloraError(f"{path} is damaged or cut short ({error}). {self.remedy}") from error
        shape, dimensions = values.shape, 2 if field.channels == 0 else 3
        usable = values.dtype.kind in "fiu" and values.size > 0
        if not usable or len(shape) != dimensions or (field.channels and shape[2] != field.channels):
            expected = "(H, W)" if field.channels == 0 else f"(H, W, {field.channels})"
            raise PaloraError(
                f"{path} should hold numbers of shape {expected}. Found {values.dtype} {shape}. {self.remedy}"
            )
        if size is not None and shape[:2] != size:
            raise PaloraError(f"{path} should be {size[0]} × {size[1]} as the others. Found {shape[:2]}. {self.remedy}")
        wrong = field.check(values.astype(np.float64))
        if wrong:
            raise PaloraError(f"{path}: {wrong}. {self.remedy}")
        return tuple(shape[:2])


def _array(path: Path) -> NDArray[Any]:
    """The array in an npy file, and only that: np.load would take archives and pickles for arrays. The file is mapped
    before it is copied, so that a header that promises more than there is costs nothing."""
    require_file(path)
    try:
        return np.array(np.lib.format.open_memmap(path, mode="r"))
    except (OSError, ValueError):
        raise
    except Exception as error:  # the header is a Python expression, and fails in many ways
        raise ValueError(f"its header cannot be understood: {type(error).__name__}") from error


def shrink(values: Tensor, scale: int, average: bool) -> Tensor:
    """(C, H, W) or (n, C, H, W) with 1/scale of height and width: averaged, or every scale-th pixel."""
    if scale == 1:
        return values
    if not average:
        return values[..., ::scale, ::scale].contiguous()
    batch = values if values.dim() == 4 else values[None]
    # ceil_mode: as many pixels as the slices above take.
    pooled = torch.nn.functional.avg_pool2d(batch, scale, ceil_mode=True)
    return pooled if values.dim() == 4 else pooled[0]


def held_or_lazy(read: Callable[[Tensor], Batch], parts: Sequence[Tensor], memory: bool | None) -> list[Split | Lazy]:
    """Each of `parts` (indices) as a split in memory if all fit, else read by workers.

    `memory`: True or False decide; None: in memory where they take at most a quarter of the machine's.
    """
    if memory is None:
        inputs, targets = read(parts[0][:1])
        frame = sum(tensor.numel() * tensor.element_size() for tensor in (inputs, *targets))
        memory = frame * sum(map(len, parts)) <= machine_memory() // 4
    if memory:
        return [Split(*read(part)) for part in parts]
    return [Lazy(read, part, workers=default_workers()) for part in parts]


def machine_memory() -> int:
    """Bytes of memory of this machine; 8 GB where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 8 << 30


def held_out(count: int, validation: int, of: int) -> tuple[Tensor, Tensor]:
    """Fixed training and validation indices: `validation` of every `of` frames, by a permutation."""
    order = torch.from_numpy(np.random.default_rng(42).permutation(count))
    few = max(1, round(count * validation / of))
    return order[few:].sort().values, order[:few].sort().values
