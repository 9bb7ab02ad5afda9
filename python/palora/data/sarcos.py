"""SARCOS: the inverse dynamics of a robot arm, 21 inputs and seven torques.

Joint positions, velocities and accelerations (7 each) go in as they are; each torque is divided by its 0.9
quantile over the training rows (the protocol of the PHN paper, which PaLoRA's follows).

With both official files the first 4,448 rows of `sarcos_inv.mat` are for validation, the other 40,036 for
training, and the 4,449 of `sarcos_inv_test.mat` for testing. With the test file alone its rows are split
70/10/20 by a fixed permutation: a reduced set, whose note says so. (As often reported, many official test rows
are also among the official training rows; the reduced set, made of one file, keeps its splits apart.)

The test file is downloaded and known by its checksum. We know none for the training file, so it is not downloaded,
and checked by its form alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from palora.data.download import ContentError, Progress, check_content, fetch, sound
from palora.data.entry import Entry, Folder
from palora.data.folder import ensure_folder
from palora.data.mat5 import read_matrix
from palora.data.places import advised, missing, places
from palora.data.places import locate as find
from palora.data.types import Dataset, Split, TaskSpec
from palora.errors import PaloraError

TRAIN, TEST = "sarcos_inv.mat", "sarcos_inv_test.mat"
ROWS = {TRAIN: 44_484, TEST: 4_449}
INPUTS, TORQUES = 21, 7
VALIDATION = 4_448

URL = "http://gaussianprocess.org/gpml/data/"
_SHA256 = {TEST: "161a59b5c3b4f4b404584323f181607b2acbe620eb134dc720760dc3f38f5cec"}
_REMEDY = f"Get {TRAIN} and {TEST} from {URL} ({TEST} alone makes a reduced set)."

TASKS = tuple(TaskSpec(f"torque {joint + 1}", loss="mse", metric="mse", outputs=1) for joint in range(TORQUES))


def load(*, folder: Folder = None, seed: int = 0, reduced: bool | None = None) -> Dataset:
    """SARCOS as tensors: inputs (N, 21), seven targets (N, 1).

    Args:
        folder: data root, see `palora.data.folder.data_root`.
        seed: not used, the splits are fixed.
        reduced: True: only the test file, re-split, even where both are; False: both or an error; None: what
            is there.

    Raises:
        PaloraError: a file is missing, damaged, or another one under its name.
    """
    place = find(folder, "sarcos", [TEST] if reduced else [TRAIN, TEST])
    if place is None and reduced is None:
        place, reduced = find(folder, "sarcos", [TEST]), True
    if place is None:
        wanted = [TEST] if reduced else [TRAIN, TEST]
        absent = [name for name in wanted if find(folder, "sarcos", [name]) is None]
        raise missing(folder, "sarcos", "SARCOS", " and ".join(absent or wanted), _REMEDY)
    test = read(place / TEST)
    if reduced:
        order = np.random.default_rng(0).permutation(len(test))
        first, second = len(test) * 7 // 10, len(test) * 8 // 10
        parts = test[order[:first]], test[order[first:second]], test[order[second:]]
        note = (
            f"SARCOS, the {len(test):,}-row official test file, re-split into {len(parts[0]):,} / {len(parts[1]):,} "
            f"/ {len(parts[2]):,}: not comparable with published numbers."
        )
    else:
        train = read(place / TRAIN)
        parts = train[VALIDATION:], train[:VALIDATION], test
        note = f"SARCOS: {len(parts[0]):,} / {VALIDATION:,} / {len(test):,} rows of the official files."
    scale = np.quantile(parts[0][:, INPUTS:], 0.9, axis=0)
    train_, validation, tested = (_split(part, scale) for part in parts)
    return Dataset("sarcos", train_, validation, tested, TASKS, note)


def read(path: Path) -> NDArray[np.float64]:
    """The rows of one official file, (N, 28), checked.

    Raises:
        PaloraError: not that file, or values that are not numbers.
    """
    with advised(_REMEDY):
        rows = read_matrix(path, path.stem)
    expected = (ROWS[path.name], INPUTS + TORQUES)
    if rows.shape != expected:
        raise PaloraError(
            f"{path} should hold {expected[0]:,} × {expected[1]} numbers. Found {rows.shape[0]:,} × "
            f"{rows.shape[1]}: it is another file under this name. {_REMEDY}"
        )
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise PaloraError(f"{path} is damaged: row {row + 1:,} holds a value that is not a number. {_REMEDY}")
    if path.name in _SHA256:
        try:
            check_content(path, sha256=_SHA256[path.name])
        except ContentError as error:
            raise PaloraError(f"{path} is not the official file: {error}. {_REMEDY}") from error
    return rows


def _split(rows: NDArray[np.float64], scale: NDArray[np.float64]) -> Split:
    torques = torch.from_numpy((rows[:, INPUTS:] / scale).astype(np.float32))
    inputs = torch.from_numpy(rows[:, :INPUTS].astype(np.float32))
    return Split(inputs, tuple(torques[:, t : t + 1].contiguous() for t in range(TORQUES)))


def locate(folder: Folder = None) -> Path | None:
    """Where the files lie: both, or else the test file."""
    return find(folder, "sarcos", [TRAIN, TEST]) or find(folder, "sarcos", [TEST])


def prepare(folder: Folder = None, progress: Progress | None = None) -> Path:
    """Check what is there; download the test file if it is missing or damaged. Returns the folder."""
    place = locate(folder) or ensure_folder(places(folder, "sarcos")[0])
    if not sound(place / TEST, sha256=_SHA256[TEST]):
        fetch([URL + TEST], place / TEST, sha256=_SHA256[TEST], size=996_776, remedy=_REMEDY, progress=progress)
    load(folder=folder)
    return place


ENTRY = Entry(
    name="sarcos",
    needs=f"{TRAIN} and {TEST}, or the latter",
    licence="none stated (cite Vijayakumar & Schaal, 2000)",
    size="11 MB",
    locate=locate,
    prepare=prepare,
    load=load,
)
