"""MultiMNIST: two digits on one canvas, one task for each.

Two digits are laid on a 36 × 36 canvas, the "left" one at the top-left corner, the "right" one `offset`
pixels down and to the right; where they overlap the brighter pixel wins; the canvas is resized to 28 × 28.
`offset=6` is what the authors' code does, `offset=8` (the bottom-right corner) what the papers say. Inputs
are grey values in [0, 1] without further normalisation, as in the authors' code.

No digit is shared by two splits (the authors split *pairs*, so that their training and validation pairs share
digits):

| set | train | validation | test |
|---|---|---|---|
| `multimnist` | 50,000 pairs of 50,000 digits | 10,000 of 10,000 | 10,000 of 10,000 |
| `multimnist-small` | 20,000 pairs of 7,000 digits | 2,000 of 1,000 | 4,000 of 2,000 |

`multimnist` trains on the first 50,000 training digits of MNIST, validates on the last 10,000 and tests on
the test digits; `multimnist-small` has only the 10,000 test digits, which are bundled.

The left digit of pair i is digit i (modulo their number) of the split, the right one is drawn uniformly among
the others: `palora.data.collage.draw`. The seed decides the pairs and nothing else; which digit belongs to
which split is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palora.data import mnist
from palora.data.cache import cached
from palora.data.collage import Layout, collages, draw
from palora.data.download import Progress
from palora.data.entry import Entry, Folder
from palora.data.types import Dataset, Split, TaskSpec

TASKS = (
    TaskSpec("left", loss="cross_entropy", metric="accuracy", outputs=10),
    TaskSpec("right", loss="cross_entropy", metric="accuracy", outputs=10),
)
_CANVAS = 36
# Random streams, apart from one another and from that of `epoch_order`.
_STREAMS = {"train": 1, "validation": 2, "test": 3}
_VERSION = 1


@dataclass(frozen=True)
class Part:
    """The digits of one split, as indices into MNIST's "train" or "test" file, and the number of pairs."""

    source: str
    digits: NDArray[np.int64]
    pairs: int


def complete_parts() -> dict[str, Part]:
    """Digits and numbers of pairs of `multimnist`."""
    return {
        "train": Part("train", np.arange(50_000), 50_000),
        "validation": Part("train", np.arange(50_000, 60_000), 10_000),
        "test": Part("test", np.arange(10_000), 10_000),
    }


def small_parts() -> dict[str, Part]:
    """Digits and numbers of pairs of `multimnist-small`.

    Of every ten consecutive digits seven, one and two: the second half of the test file is harder than the
    first, and each split takes from both in equal measure.
    """
    digit = np.arange(10_000)
    return {
        "train": Part("test", digit[digit % 10 < 7], 20_000),
        "validation": Part("test", digit[digit % 10 == 7], 2_000),
        "test": Part("test", digit[digit % 10 > 7], 4_000),
    }


def pairs(parts: dict[str, Part], seed: int = 0, limit: int | None = None) -> dict[str, NDArray[np.int64]]:
    """Per split the (P, 2) digits that meet, as indices into the file `part.source`.

    `limit` keeps the first so many training pairs.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`seed` should be an integer >= 0. Found {seed!r}.")
    most = parts["train"].pairs
    if limit is not None and not 1 <= limit <= most:
        raise ValueError(f"`limit` should be a number of training pairs in 1 … {most}, or None. Found {limit!r}.")
    drawn = {}
    for name, part in parts.items():
        rows = limit if name == "train" and limit is not None else part.pairs
        index = draw(len(part.digits), part.pairs, len(TASKS), (_STREAMS[name], seed))
        drawn[name] = part.digits[index[:rows]]
    return drawn


def load_complete(
    *,
    folder: Folder = None,
    seed: int = 0,
    offset: int = 6,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """MultiMNIST on the complete MNIST set; the pairs are kept in the cache folder.

    Args:
        folder: data root, see `palora.data.folder.data_root`.
        seed: of the pairs. Runs that are to be compared share it, whatever their training seeds.
        offset: corner of the right digit, 0 … 8 pixels.
        limit: use only the first so many training pairs.
        progress: called while pairs are made.

    Raises:
        PaloraError: MNIST is missing or damaged.
        ValueError: an argument is out of range.
    """
    layout, parts = _layout(offset), complete_parts()
    index = pairs(parts, seed, limit)
    place = mnist.require(folder)
    sources = {name: mnist.read(name, place) for name in ("train", "test")}
    tensors = cached(
        "multimnist",
        _key(sources, seed, offset, limit),
        lambda: _build(sources, parts, index, layout, progress),
    )
    note = (
        f"MultiMNIST on the complete MNIST set: {len(tensors['train.labels']):,} / 10,000 / 10,000 pairs, "
        f"right digit at ({offset}, {offset}), no digit in two splits."
    )
    return _dataset("multimnist", tensors, note)


def load_small(
    *,
    folder: Folder = None,
    seed: int = 0,
    offset: int = 6,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """MultiMNIST on the bundled digits. `folder` is not used; the other arguments are `load_complete`'s."""
    layout, parts = _layout(offset), small_parts()
    index = pairs(parts, seed, limit)
    tensors = _build({"test": mnist.read("test", mnist.BUNDLED)}, parts, index, layout, progress)
    note = (
        f"The small bundled set: {len(index['train']):,} training pairs of 7,000 MNIST digits, tested on "
        "pairs of 2,000 others; its numbers are not comparable with the papers'."
    )
    return _dataset("multimnist-small", tensors, note)


def prepare_complete(folder: Folder = None, progress: Progress | None = None) -> Path:
    """Download MNIST where it is missing and put the default pairs into the cache; returns MNIST's folder."""
    place = mnist.prepare(folder, progress)
    load_complete(folder=place, progress=progress)
    return place


def _layout(offset: int) -> Layout:
    most = _CANVAS - 28
    if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset <= most:
        raise ValueError(
            f"`offset` should be an integer in 0 … {most} (6: the authors' code, 8: the papers). Found {offset!r}."
        )
    return Layout(_CANVAS, ((0, 0), (offset, offset)))


def _key(sources: dict[str, mnist.Digits], seed: int, offset: int, limit: int | None) -> dict[str, str | int | None]:
    checksums = {f"{name} digits": digits.checksum for name, digits in sources.items()}
    return {"version": _VERSION, "seed": seed, "offset": offset, "limit": limit, **checksums}


def _build(
    sources: dict[str, mnist.Digits],
    parts: dict[str, Part],
    index: dict[str, NDArray[np.int64]],
    layout: Layout,
    progress: Progress | None,
) -> dict[str, Tensor]:
    """uint8 tensors "<split>.inputs" (P, 28, 28) and "<split>.labels" (P, 2)."""
    tensors = {}
    for name, part in parts.items():
        digits, rows = sources[part.source], index[name]
        made = collages(digits.images, rows, layout, progress=progress, what=f"{name} pairs")
        tensors[f"{name}.inputs"] = torch.from_numpy(made)
        tensors[f"{name}.labels"] = torch.from_numpy(digits.labels[rows])
    return tensors


def _dataset(name: str, tensors: dict[str, Tensor], note: str) -> Dataset:
    def split(part: str) -> Split:
        inputs = tensors[f"{part}.inputs"].to(torch.float32).div_(255.0).unsqueeze(1)
        labels = tensors[f"{part}.labels"].to(torch.int64)
        return Split(inputs, tuple(labels[:, task].contiguous() for task in range(len(TASKS))))

    return Dataset(name, split("train"), split("validation"), split("test"), TASKS, note)


def _bundled(folder: Folder = None, progress: Progress | None = None) -> Path:
    return mnist.BUNDLED


COMPLETE = Entry(
    name="multimnist",
    needs="mnist",
    licence=mnist.LICENCE,
    size="11 MB, and 55 MB of cache",
    locate=mnist.locate,
    prepare=prepare_complete,
    load=load_complete,
)
SMALL = Entry(
    name="multimnist-small",
    needs="nothing (bundled)",
    licence=mnist.LICENCE,
    size="1.6 MB",
    locate=_bundled,
    prepare=_bundled,
    load=load_small,
)
