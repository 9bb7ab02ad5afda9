"""Sets of collages: which images meet on a canvas, where, and what the tasks are.

MultiMNIST-3, Multi-Fashion and Fashion-and-MNIST differ in these alone. Every set has 50,000 training,
10,000 validation and 10,000 test collages; no image is shared by two splits. Column t of a collage shows an
image of source t at corner t of the layout, and its class is task t. In collage i the first column shows
image i of the split; the others are drawn uniformly. The seed decides the collages and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palora.data.cache import cached
from palora.data.collage import Layout, compose, draw, resize
from palora.data.download import Progress
from palora.data.entry import Entry, Folder
from palora.data.idx_source import Digits, IdxSource
from palora.data.types import Dataset, Split, TaskSpec

PARTS = {"train": ("train", 0, 50_000), "validation": ("train", 50_000, 60_000), "test": ("test", 0, 10_000)}
"""Split → (file, first image, end): which images its collages are made of, each once in the first column."""

# Random streams, apart from one another and from those of `multimnist` and `epoch_order`.
_STREAMS = {"train": 21, "validation": 22, "test": 23}
_ROWS = 4096
_VERSION = 1


@dataclass(frozen=True)
class CollageSet:
    """A set by name: its tasks, the source of each column, and the layout."""

    name: str
    title: str
    tasks: tuple[str, ...]
    sources: tuple[Callable[[], IdxSource], ...]
    layout: Layout
    licence: str
    size: str

    def load(
        self,
        *,
        folder: Folder = None,
        seed: int = 0,
        limit: int | None = None,
        progress: Progress | None = None,
    ) -> Dataset:
        """The set as tensors, from the cache if it was made before.

        Args:
            folder: data root, see `palora.data.folder.data_root`.
            seed: of the collages. Runs that are to be compared share it, whatever their training seeds.
            limit: use only the first so many training collages.
            progress: called while collages are made.

        Raises:
            PaloraError: a source is missing or damaged.
            ValueError: an argument is out of range.
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"`seed` should be an integer >= 0. Found {seed!r}.")
        if limit is not None and not 1 <= limit <= 50_000:
            raise ValueError(f"`limit` should be a number of collages in 1 … 50000, or None. Found {limit!r}.")
        images = self._read(folder)
        key = {f"column {t} {part}": column[part].checksum for t, column in enumerate(images) for part in column}
        tensors = cached(
            self.name,
            {"version": _VERSION, "seed": seed, "limit": limit, **key},
            lambda: self._build(images, seed, limit, progress),
        )
        splits = [self._split(tensors, part) for part in PARTS]
        tasks = tuple(TaskSpec(task, "cross_entropy", "accuracy", 10) for task in self.tasks)
        note = f"{self.title}: {len(splits[0]):,} / 10,000 / 10,000 collages, no image in two splits."
        return Dataset(self.name, splits[0], splits[1], splits[2], tasks, note)

    def indices(self, seed: int) -> dict[str, NDArray[np.int64]]:
        """Per split the (P, T) images that meet, as indices into the file that `PARTS` names."""
        drawn = {}
        alike = len({source().name for source in self.sources}) == 1
        for part, (_, start, end) in PARTS.items():
            count, stream = end - start, (_STREAMS[part], seed)
            # Images of one source differ within a collage; different sources are independent draws.
            rows = draw(count, count, len(self.tasks), stream) if alike else _independent(count, self.tasks, stream)
            drawn[part] = rows + start
        return drawn

    def prepare(self, folder: Folder = None, progress: Progress | None = None) -> Path:
        """Get what is missing and put the default collages into the cache; returns the first source's folder."""
        places = [source().prepare(folder, progress) for source in self.sources]
        self.load(folder=folder, progress=progress)
        return places[0]

    def locate(self, folder: Folder = None) -> Path | None:
        """Where the first source lies, if all are there."""
        places = [source().locate(folder) for source in self.sources]
        return places[0] if all(places) else None

    @property
    def entry(self) -> Entry:
        """The line of the registry."""
        needs = " and ".join(dict.fromkeys(source().name for source in self.sources))
        return Entry(self.name, needs, self.licence, self.size, self.locate, self.prepare, self.load)

    def _read(self, folder: Folder) -> list[dict[str, Digits]]:
        read: dict[str, dict[str, Digits]] = {}
        for source in (make() for make in self.sources):
            if source.name not in read:
                place = source.require(folder)
                read[source.name] = {part: source.read(part, place) for part in ("train", "test")}
        return [read[make().name] for make in self.sources]

    def _build(
        self, images: list[dict[str, Digits]], seed: int, limit: int | None, progress: Progress | None
    ) -> dict[str, Tensor]:
        """uint8 tensors "<split>.inputs" (P, 28, 28) and "<split>.labels" (P, T)."""
        tensors = {}
        for part, rows in self.indices(seed).items():
            columns = [column[PARTS[part][0]] for column in images]
            rows = rows[:limit] if part == "train" else rows
            made = np.empty((len(rows), 28, 28), dtype=np.uint8)
            for start in range(0, len(rows), _ROWS):
                some = rows[start : start + _ROWS]
                made[start : start + _ROWS] = resize(self._canvases(columns, some), 28)
                if progress:
                    progress(f"{part} collages", min(start + _ROWS, len(rows)), len(rows))
            labels = np.stack([column.labels[index] for column, index in zip(columns, rows.T, strict=True)], 1)
            tensors[f"{part}.inputs"] = torch.from_numpy(made)
            tensors[f"{part}.labels"] = torch.from_numpy(labels)
        return tensors

    def _canvases(self, columns: list[Digits], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(P, canvas, canvas): where images overlap the brighter pixel wins."""
        canvases = np.zeros((len(rows), self.layout.canvas, self.layout.canvas), dtype=np.uint8)
        for column, index, corner in zip(columns, rows.T, self.layout.corners, strict=True):
            one = Layout(self.layout.canvas, (corner,), self.layout.digit)
            np.maximum(canvases, compose(column.images, index[:, None], one), out=canvases)
        return canvases

    def _split(self, tensors: dict[str, Tensor], part: str) -> Split:
        inputs = tensors[f"{part}.inputs"].to(torch.float32).div_(255.0).unsqueeze(1)
        labels = tensors[f"{part}.labels"].to(torch.int64)
        return Split(inputs, tuple(labels[:, task].contiguous() for task in range(len(self.tasks))))


def _independent(count: int, tasks: tuple[str, ...], seed: tuple[int, int]) -> NDArray[np.int64]:
    generator = np.random.default_rng(seed)
    first = np.arange(count)[:, None]
    return np.concatenate([first, generator.integers(count, size=(count, len(tasks) - 1))], axis=1)
