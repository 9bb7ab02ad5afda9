"""CityScapes in the layout of the MTAN authors: segmentation into 7 classes and inverse depth, 128 × 256 pixels.

`cityscapes/{train,val}/{image,label_7,depth}/<number>.npy`: images (H, W, 3) in 0 … 1, classes (H, W) with −1 for
no label, inverse depth (H, W, 1) with 0 for none. Of the 2,975 training frames 475 are for validation, by a fixed
permutation; the official validation frames are the test split, as in the papers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch

from palora.data.augment import ScaleCropFlip
from palora.data.download import Progress
from palora.data.entry import Entry, Folder
from palora.data.npy_frames import Field, NpyFrames, classes, held_or_lazy, held_out, within
from palora.data.places import missing, places
from palora.data.types import Dataset, TaskSpec
from palora_kernels.typed import Range, check_arguments

FIELDS = (
    Field("image", 3, within(0, 1)),
    Field("label_7", 0, classes(7)),
    Field("depth", 1, within(0, 1e4)),
)
TASKS = (
    TaskSpec("semantic", loss="cross_entropy", metric="segmentation", outputs=7),
    TaskSpec("depth", loss="masked_l1", metric="depth", outputs=1),
)
OFFICIAL = (2_975, 500)
_REMEDY = (
    "Get the preprocessed frames (128 × 256) from the MTAN authors, https://github.com/lorenmt/mtan, and put train/ "
    "and val/ into cityscapes/."
)


def load(
    *,
    folder: Folder = None,
    seed: int = 0,
    augment: bool = True,
    scale: Annotated[int, Range(1, 64)] = 1,
    memory: bool | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """CityScapes: inputs (N, 3, H, W), targets classes (N, H, W) and inverse depth (N, 1, H, W).

    Args:
        folder: data root, see `palora.data.folder.data_root`.
        seed: not used, the splits are fixed.
        augment: change training frames at random (`palora.data.augment.ScaleCropFlip`).
        scale: divide height and width by this.
        memory: hold all frames in memory, or read them by workers; None: whatever the machine allows.
        progress: called while files are checked, once for each state of the folder.

    Raises:
        PaloraError: frames are missing, damaged, or hold what they should not.
    """
    scale = check_arguments(load, {"scale": scale})["scale"]
    place = locate(folder)
    if place is None:
        raise missing(folder, "cityscapes", "CityScapes", "train/image/0.npy and the others", _REMEDY)
    training, testing = (NpyFrames(place / part, FIELDS, _REMEDY, scale) for part in ("train", "val"))
    height, width = training.verify(progress)
    testing.verify(progress)
    train, validation = held_out(training.count(), 475, 2_975)
    first, second = held_or_lazy(training, (train, validation), memory)
    (third,) = held_or_lazy(testing, (torch.arange(testing.count()),), memory)
    note = (
        f"CityScapes, MTAN layout: {len(first):,} / {len(second):,} / {len(third):,} frames of "
        f"{-(-height // scale)} × {-(-width // scale)}."
    )
    if (training.count(), testing.count()) != OFFICIAL:
        note += " Not the official frames (2,975 and 500): not comparable with published numbers."
    return Dataset("cityscapes", first, second, third, TASKS, note, ScaleCropFlip(depth=1) if augment else None)


def locate(folder: Folder = None) -> Path | None:
    """The folder with train/ and val/."""
    own = places(folder, "cityscapes")
    return next((place for place in own if (place / "train" / FIELDS[1].folder).is_dir()), None)


def prepare(folder: Folder = None, progress: Progress | None = None) -> Path:
    """Check the frames, which must be there already; returns their folder."""
    place = locate(folder)
    if place is None:
        raise missing(folder, "cityscapes", "CityScapes", "train/image/0.npy and the others", _REMEDY)
    for part in ("train", "val"):
        NpyFrames(place / part, FIELDS, _REMEDY).verify(progress)
    return place


ENTRY = Entry(
    name="cityscapes",
    needs="MTAN npy frames (by hand)",
    licence="CityScapes terms (registration)",
    size="2.8 GB",
    locate=locate,
    prepare=prepare,
    load=load,
)
