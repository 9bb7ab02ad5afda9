"""UTKFace: age, gender and ethnicity of a face (64 × 64 pixels).

The labels are in the file names, AGE_GENDER_RACE_DATE.jpg.chip.jpg. Five names of the official set are malformed:
two still say all three labels, three lack one and are left out, so 23,705 of its 23,708 faces are used. Any other name
without labels is an error. A face that lies in several folders, as in copies of the set that hold it twice, is used
once, known by its labels and date. The age is standardised by the training faces (the authors' code: by all faces) and
learnt with the Huber loss (δ = 1). 70/10/20 per cent for training, validation and testing by a fixed permutation, the
shares of the authors' code (PaMaL paper: 80/20).

The faces may be used for non-commercial research only, so nothing here downloads them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from palora.data.cache import cached
from palora.data.download import Progress
from palora.data.entry import Entry, Folder
from palora.data.lazy import Batch, Lazy
from palora.data.pictures import Pictures, beside
from palora.data.places import missing, places
from palora.data.types import Dataset, TaskSpec
from palora.errors import PaloraError

SIDE = 64
TASKS = (
    TaskSpec("age", loss="huber", metric="huber", outputs=1),
    TaskSpec("gender", loss="cross_entropy", metric="accuracy", outputs=2),
    TaskSpec("ethnicity", loss="cross_entropy", metric="accuracy", outputs=5),
)
SHARES = (7, 1, 2)
OFFICIAL = 23_705
OLDEST = 116
UNLABELLED = ("39_1_20170116174525125", "61_1_20170109142408075", "61_1_20170109150557335", "61_3_20170109150557335")
"""Beginnings of the names that lack a label: those of the official set, in its first and its present version."""

_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_\d+")
_REMEDY = (
    "Get the aligned and cropped faces from https://susanqq.github.io/UTKFace/ (non-commercial research only) and put "
    "the .zip file or the folder of .jpg files into utkface/."
)
_VERSION = 1


@dataclass(frozen=True)
class _Faces:
    """uint8 faces (N, 3, 64, 64) as they lie in memory; float32 in [0, 1] only by the batch."""

    faces: Tensor
    targets: tuple[Tensor, ...]

    def __call__(self, index: Tensor) -> Batch:
        return self.faces[index].float().div_(255), tuple(target[index] for target in self.targets)


def load(
    *, folder: Folder = None, seed: int = 0, limit: int | None = None, progress: Progress | None = None
) -> Dataset:
    """UTKFace: inputs (N, 3, 64, 64), targets age (N, 1) in standard deviations, gender and ethnicity (N,).

    Args:
        folder: data root, see `palora.data.folder.data_root`.
        seed: not used, the splits are fixed.
        limit: use only the first so many training faces, and 1/7 and 2/7 as many for validation and testing.
        progress: called while pictures are decoded, which happens once: they are kept in the cache.

    Raises:
        PaloraError: the faces are missing, a picture is damaged, or the names are those of another set.
    """
    place = locate(folder)
    if place is None:
        raise missing(folder, "utkface", "UTKFace", "a .zip file or .jpg files", _REMEDY)
    pictures = Pictures(place, _REMEDY)
    named = labelled(pictures)
    listing = json.dumps([[name, pictures.stamps[name]] for name in named])
    key: dict[str, str | int | None] = {
        "version": _VERSION,
        "faces": hashlib.sha256(listing.encode()).hexdigest(),
    }
    tensors = cached("utkface", key, lambda: _decode(pictures, named, progress))
    labels = tensors["labels"]

    order = torch.from_numpy(np.random.default_rng(42).permutation(len(labels)))
    first = len(order) * SHARES[0] // 10
    second = len(order) * (SHARES[0] + SHARES[1]) // 10
    age = labels[:, 0].double()
    mean, deviation = age[order[:first]].mean(), age[order[:first]].std().clamp(min=1e-6)
    scaled = ((age - mean) / deviation).float().unsqueeze(1)
    read = _Faces(tensors["faces"], (scaled, labels[:, 1].long(), labels[:, 2].long()))
    parts = [Lazy(read, index) for index in (order[:first], order[first:second], order[second:])]
    if limit is not None:
        if not 7 <= limit <= first:
            raise ValueError(f"`limit` should be a number of training faces in 7 … {first}, or None. Found {limit!r}.")
        shares = [(limit * share) // SHARES[0] for share in SHARES]
        parts = [part.take(min(share, len(part))) for part, share in zip(parts, shares, strict=True)]
    note = (
        f"UTKFace: {len(parts[0]):,} / {len(parts[1]):,} / {len(parts[2]):,} faces; an age of {mean:.1f} ± "
        f"{deviation:.1f} years is 0 ± 1."
    )
    if len(labels) != OFFICIAL:
        note += f" {len(labels):,} of the official {OFFICIAL:,} faces: not comparable with published numbers."
    return Dataset("utkface", parts[0], parts[1], parts[2], TASKS, note)


def labelled(pictures: Pictures) -> dict[str, tuple[int, int, int]]:
    """File name → (age, gender, race), each face once, without the known names that lack a label.

    PaloraError if there are no faces, or a name says something else.
    """
    jpegs = [name for name in pictures.names if name.lower().endswith((".jpg", ".jpeg"))]
    found = {}
    for name in jpegs:
        match = _NAME.match(name.rsplit("/", 1)[-1])
        if match and int(match[1]) <= OLDEST:
            found[name] = (int(match[1]), int(match[2]), int(match[3]))
    strange = [n for n in jpegs if n not in found and not n.rsplit("/", 1)[-1].startswith(UNLABELLED)]
    if strange or len(found) < 10:
        example = f", for example {strange[0]}" if strange else ""
        raise PaloraError(
            f"{pictures.path} is not UTKFace: of {len(jpegs):,} .jpg files {len(strange):,} have no name of the form "
            f"AGE_GENDER_RACE_DATE (age up to {OLDEST}, gender 0 or 1, race 0 … 4){example}. {_REMEDY}"
        )
    once = _once(found)
    return {name: labels for name, labels in found.items() if name in once}


def _once(names: Iterable[str]) -> set[str]:
    """Of the files of each face, AGE_GENDER_RACE_DATE, the one in the folder that holds most: with copies both sides of
    a split would see it."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    faces: dict[str, str] = {}
    for folder in sorted(folders, key=lambda folder: (-len(folders[folder]), folder)):
        for name in folders[folder]:
            match = _NAME.match(name.rsplit("/", 1)[-1])
            faces.setdefault(match[0] if match else name, name)
    return set(faces.values())


def _decode(pictures: Pictures, named: dict[str, tuple[int, int, int]], progress: Progress | None) -> dict[str, Tensor]:
    faces = np.empty((len(named), 3, SIDE, SIDE), dtype=np.uint8)
    for i, name in enumerate(named):
        faces[i] = pictures.pixels(name, "RGB", (SIDE, SIDE)).transpose(2, 0, 1)
        if progress and i % 500 == 0:
            progress("faces", i, len(named))
    return {"faces": torch.from_numpy(faces), "labels": torch.tensor(list(named.values()), dtype=torch.uint8)}


def locate(folder: Folder = None) -> Path | None:
    """The zip file, or the folder in which or below which the .jpg files lie."""
    own, root = places(folder, "utkface")
    for place in (own, root):
        zipped = [path for path in sorted(place.glob("*[uU][tT][kK]*.zip")) if not beside(path.name)]
        if zipped:
            return zipped[0]
    pictures = (place for place in (own, own / "UTKFace", root / "UTKFace") if place.is_dir())
    return next((place for place in pictures if any(not beside(path.name) for path in place.glob("*.jpg"))), None)


def prepare(folder: Folder = None, progress: Progress | None = None) -> Path:
    """Decode the faces into the cache; they must be there already. Returns where they lie."""
    load(folder=folder, progress=progress)
    place = locate(folder)
    assert place is not None
    return place


ENTRY = Entry(
    name="utkface",
    needs="faces (.zip or .jpg; by hand)",
    licence="non-commercial research only",
    size="39 MB at 64 × 64, and 290 MB of cache",
    locate=locate,
    prepare=prepare,
    load=load,
)
