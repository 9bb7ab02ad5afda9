"""Several digits on one canvas: which digits meet (drawn from a seed), how they overlap, and the resize.

Nothing here knows how many digits there are: MultiMNIST places two, MultiMNIST-3 three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from palora.data.download import Progress
from palora.optional import need

_ROWS = 4096


@dataclass(frozen=True)
class Layout:
    """A square canvas and the (top, left) corner of each digit on it (pixels). `digit` is a digit's side."""

    canvas: int
    corners: tuple[tuple[int, int], ...]
    digit: int = 28

    def __post_init__(self) -> None:
        room = self.canvas - self.digit
        for corner in self.corners:
            if not all(0 <= place <= room for place in corner):
                raise ValueError(
                    f"`corners` should lie in 0 … {room}, so that a digit of {self.digit} pixels fits on a "
                    f"canvas of {self.canvas}. Found {corner}."
                )


def draw(digits: int, collages: int, tasks: int, seed: Sequence[int]) -> NDArray[np.int64]:
    """Which digits meet: (collages, tasks) indices into `digits`, all different within a row.

    The first column runs through the digits in order, again and again, so that every digit has its turn on
    the left; the others are independent uniform draws. The same `seed` gives the same rows, and fewer
    collages a prefix of them.
    """
    if digits < tasks:
        raise ValueError(f"`digits` should be >= {tasks}, one per place. Found {digits}.")
    generator = np.random.default_rng(seed)
    index = np.empty((collages, tasks), dtype=np.int64)
    index[:, 0] = np.arange(collages) % digits
    # One draw per row and column, in row order; each of the few clashes is mended by a stream of its own.
    index[:, 1:] = generator.integers(digits, size=(collages, tasks - 1))
    for row in np.flatnonzero(_clashes(index)):
        others = np.random.default_rng([*seed, int(row) + 1])
        while len(set(index[row].tolist())) < tasks:
            index[row, 1:] = others.integers(digits, size=tasks - 1)
    return index


def _clashes(index: NDArray[np.int64]) -> NDArray[np.bool_]:
    ordered = np.sort(index, axis=1)
    clash: NDArray[np.bool_] = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    return clash


def compose(images: NDArray[np.uint8], index: NDArray[np.int64], layout: Layout) -> NDArray[np.uint8]:
    """Lay digits on canvases; where they overlap the brighter pixel wins.

    Args:
        images: (N, d, d).
        index: (P, T) into `images`; column t goes to `layout.corners[t]`.

    Returns:
        (P, canvas, canvas).
    """
    side = layout.digit
    canvases = np.zeros((len(index), layout.canvas, layout.canvas), dtype=np.uint8)
    for column, (top, left) in zip(index.T, layout.corners, strict=True):
        region = canvases[:, top : top + side, left : left + side]
        np.maximum(region, images[column], out=region)
    return canvases


def resize(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize (P, c, c) to (P, size, size) with the default filter of PIL's Image.resize (bicubic), image by
    image.

    PIL rounds an 8-bit image to 0 … 255 after each of its two passes. The papers' authors resize floats,
    which keeps the filter's overshoot beyond black and white (up to 0.14 of full scale); on average the grey
    values of the two differ by 0.004, and accuracies trained on them by no more than those of two seeds.
    """
    Image = need("PIL.Image", "Resizing pictures")
    resized = np.empty((len(images), size, size), dtype=np.uint8)
    for row, image in enumerate(images):
        resized[row] = np.asarray(Image.fromarray(image).resize((size, size)))
    return resized


def collages(
    images: NDArray[np.uint8],
    index: NDArray[np.int64],
    layout: Layout,
    size: int = 28,
    progress: Progress | None = None,
    what: str = "collages",
) -> NDArray[np.uint8]:
    """`resize(compose(…))` in slices of bounded memory: (P, size, size)."""
    made = np.empty((len(index), size, size), dtype=np.uint8)
    for start in range(0, len(index), _ROWS):
        rows = slice(start, start + _ROWS)
        made[rows] = resize(compose(images, index[rows], layout), size)
        if progress:
            progress(what, min(start + _ROWS, len(index)), len(index))
    return made
