"""NYUv2: segmentation into 13 classes, depth in metres, surface normals; 288 × 384 pixels.

Two sources, the first that is there:

* `nyuv2/{train,val}/{image,label,depth,normal}/<number>.npy`, the layout of the MTAN authors, with the normals
  of the papers. 95 of the 795 training frames are for validation; the 654 of val/ are the test split.
* `nyuv2/nyuv2*.zip` with {train,test}/{image,depth,label13}/NNNN.{jpg,png,png}: depth in 8 bits, metres =
  (v + 0.5) / 25.5; labels with 255 for none. It has no normals: they are derived from the depth
  (`palora.data.normals`), and the note says so. The same share of frames is for validation.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from palora.data.augment import ScaleCropFlip
from palora.data.cache import cached
from palora.data.download import Progress
from palora.data.entry import Entry, Folder
from palora.data.lazy import Batch, Lazy
from palora.data.normals import derived_normals
from palora.data.npy_frames import Field, NpyFrames, classes, held_or_lazy, held_out, normals, shrink, within
from palora.data.pictures import Pictures
from palora.data.places import missing, places
from palora.data.types import Dataset, TaskSpec
from palora.errors import PaloraError
from palora_kernels.typed import Range, check_arguments

FIELDS = (
    Field("image", 3, within(0, 1)),
    Field("label", 0, classes(13)),
    Field("depth", 1, within(0, 100)),
    Field("normal", 3, normals),
)
TASKS = (
    TaskSpec("semantic", loss="cross_entropy", metric="segmentation", outputs=13),
    TaskSpec("depth", loss="masked_l1", metric="depth", outputs=1),
    TaskSpec("normals", loss="cosine_normals", metric="angles", outputs=3),
)
NORMAL_LOSSES = {"cosine": "cosine_normals", "l1": "l1_normals"}
OFFICIAL = (795, 654)
METRES = 25.5
_REMEDY = (
    "Get the preprocessed frames (288 × 384) from the MTAN authors, https://github.com/lorenmt/mtan, and put train/ "
    "and val/ into nyuv2/."
)
_VERSION = 1


def load(
    *,
    folder: Folder = None,
    seed: int = 0,
    augment: bool = True,
    scale: Annotated[int, Range(1, 64)] = 1,
    normal_loss: str = "cosine",
    memory: bool | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """NYUv2: inputs (N, 3, H, W), targets classes (N, H, W), depth (N, 1, H, W), normals (N, 3, H, W).

    Args:
        folder: data root, see `palora.data.folder.data_root`.
        seed: not used, the splits are fixed.
        augment: change training frames at random (`palora.data.augment.ScaleCropFlip`).
        scale: divide height and width by this (4: quarter resolution).
        normal_loss: "cosine" (the code of Nash-MTL) or "l1" (the code of PaLoRA).
        memory: hold all npy frames in memory, or read them by workers; None: whatever the machine allows.
        progress: called while files are checked or normals derived, which happens once.

    Raises:
        PaloraError: frames are missing, damaged, or hold what they should not.
    """
    if normal_loss not in NORMAL_LOSSES:
        raise ValueError(f"`normal_loss` should be cosine or l1. Found {normal_loss!r}.")
    scale = check_arguments(load, {"scale": scale})["scale"]
    tasks = (*TASKS[:2], TaskSpec("normals", NORMAL_LOSSES[normal_loss], "angles", 3))
    change = ScaleCropFlip(depth=1, normals=2) if augment else None
    place = locate(folder)
    if place is None:
        raise missing(folder, "nyuv2", "NYUv2", "train/image/0.npy and the others, or nyuv2*.zip", _REMEDY)
    if place.suffix == ".zip":
        first, second, third, note = _from_zip(Pictures(place, _REMEDY), scale, progress)
        return Dataset("nyuv2", first, second, third, tasks, note, change)
    training, testing = (NpyFrames(place / part, FIELDS, _REMEDY, scale) for part in ("train", "val"))
    height, width = training.verify(progress)
    testing.verify(progress)
    train, validation = held_out(training.count(), 95, 795)
    parts = held_or_lazy(training, (train, validation), memory)
    tested = held_or_lazy(testing, (torch.arange(testing.count()),), memory)
    sizes = " / ".join(f"{len(part):,}" for part in (*parts, *tested))
    note = f"NYUv2, MTAN layout: {sizes} frames of {-(-height // scale)} × {-(-width // scale)}."
    if (training.count(), testing.count()) != OFFICIAL:
        note += " Not the official frames (795 and 654): not comparable with published numbers."
    return Dataset("nyuv2", parts[0], parts[1], tested[0], tasks, note, change)


@dataclass(frozen=True)
class _Frames:
    """What the zip file holds, in 8 and 16 bits; float32 only by the batch."""

    image: Tensor
    label: Tensor
    depth: Tensor
    normal: Tensor

    def __call__(self, index: Tensor) -> Batch:
        label = self.label[index].long()
        depth = (self.depth[index].float() + 0.5) / METRES
        normal = torch.nn.functional.normalize(self.normal[index].float(), dim=1)
        return self.image[index].float() / 255, (label.masked_fill(label == 255, -1), depth[:, None], normal)


def _from_zip(pictures: Pictures, scale: int, progress: Progress | None) -> tuple[Lazy, Lazy, Lazy, str]:
    frames = {part: _frames(pictures, part, scale, progress) for part in ("train", "test")}
    count = {part: len(read.image) for part, read in frames.items()}
    train, validation = held_out(count["train"], 95, 795)
    parts = (
        Lazy(frames["train"], train),
        Lazy(frames["train"], validation),
        Lazy(frames["test"], torch.arange(count["test"])),
    )
    height, width = frames["train"].image.shape[-2:]
    note = (
        f"NYUv2 from {pictures.path.name}: {len(train)} / {len(validation)} / {count['test']} frames of {height} × "
        f"{width}, 8-bit depth, derived normals: not comparable with published numbers."
    )
    return *parts, note


def _frames(pictures: Pictures, part: str, scale: int, progress: Progress | None) -> _Frames:
    numbers = {
        kind: sorted(name.rsplit("/", 1)[1].split(".")[0] for name in pictures.names if f"{part}/{kind}/" in name)
        for kind in ("image", "depth", "label13")
    }
    if len(numbers["image"]) < 2 or any(found != numbers["image"] for found in numbers.values()):
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in numbers.items())
        raise PaloraError(
            f"{pictures.path} should hold the same frames as image, depth and label13 of {part}. Found {counts}. "
            f"{_REMEDY}"
        )
    start = next(name.split(f"{part}/image/")[0] for name in pictures.names if f"{part}/image/" in name)
    files = {
        number: [
            f"{start}{part}/{kind}" for kind in (f"image/{number}.jpg", f"label13/{number}.png", f"depth/{number}.png")
        ]
        for number in numbers["image"]
    }
    listing = json.dumps([[name, pictures.stamps.get(name)] for names in files.values() for name in names])
    key: dict[str, str | int | None] = {
        "version": _VERSION,
        "part": part,
        "scale": scale,
        "frames": hashlib.sha256(listing.encode()).hexdigest(),
    }

    def build() -> dict[str, Tensor]:
        made = []
        for i, names in enumerate(files.values()):
            made.append(_frame(pictures, names, scale))
            if progress:
                progress(f"{part} frames, deriving normals", i + 1, len(files))
        sizes = {tuple(frame[0].shape) for frame in made}
        if len(sizes) > 1:
            raise PaloraError(
                f"{pictures.path} should hold {part} images of one size. Found {sorted(sizes)}. {_REMEDY}"
            )
        columns = [torch.stack(column) for column in zip(*made, strict=True)]
        return dict(zip(("image", "label", "depth", "normal"), columns, strict=True))

    return _Frames(**cached("nyuv2", key, build))


def _frame(pictures: Pictures, names: list[str], scale: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """image (3, h, w), label (h, w), depth (h, w), all uint8; normals (3, h, w) float16."""
    image, label, depth = (
        torch.from_numpy(pictures.pixels(name, mode)) for name, mode in zip(names, ("RGB", "L", "L"), strict=True)
    )
    if not image.shape[:2] == label.shape == depth.shape:
        found = ", ".join(f"{values.shape[0]} × {values.shape[1]}" for values in (image, label, depth))
        raise PaloraError(
            f"{names[0]} in {pictures.path}: image, label and depth should match. Found {found}. {_REMEDY}"
        )
    strange = label[(label > 12) & (label != 255)]
    if len(strange):
        raise PaloraError(
            f"{names[1]} in {pictures.path} should hold classes 0 … 12, or 255 for none. Found {int(strange.max())}. "
            f"{_REMEDY}"
        )
    metres = (depth.double() + 0.5) / METRES
    normal = derived_normals(metres, camera_scale=depth.shape[1] / 640, every=scale)
    colour = shrink(image.movedim(-1, 0).float(), scale, average=True).round().to(torch.uint8)
    cut = (slice(None, None, scale),) * 2
    return colour, label[cut].contiguous(), depth[cut].contiguous(), normal.half()


def locate(folder: Folder = None) -> Path | None:
    """The folder with train/ and val/ in npy files, or the zip file."""
    own = places(folder, "nyuv2")
    for place in own:
        if (place / "train" / FIELDS[3].folder).is_dir():
            return place
    zips = [path for place in own if place.is_dir() for path in sorted(place.glob("nyuv2*.zip"))]
    return zips[0] if zips else None


def prepare(folder: Folder = None, progress: Progress | None = None) -> Path:
    """Check the frames, which must be there already, and derive normals where there are none; returns their place."""
    load(folder=folder, progress=progress, memory=False)
    place = locate(folder)
    assert place is not None
    return place


ENTRY = Entry(
    name="nyuv2",
    needs="MTAN npy frames, or a zip (by hand)",
    licence="research; none stated (cite Silberman et al., 2012)",
    size="5 GB",
    locate=locate,
    prepare=prepare,
    load=load,
)
