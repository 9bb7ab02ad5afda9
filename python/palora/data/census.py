"""Census-Income (KDD): two questions about a person, at least 40 years old, and been to college?

The 42 columns of the UCI files become 468 features, the number of the PaMaL paper's network:

* 6 numbers, standardised by the training rows: wage per hour, capital gains, capital losses, dividends, the
  instance weight, weeks worked;
* 461 indicators, one per value of 29 columns (the income class among them), in the order of the columns and,
  within one, of the alphabet;
* 1 for the sex.

Left out are the two columns that the tasks are made of (age and education), the year and three columns on
migration, and the two rows whose household status ("Grandchild <18 ever marr not in subfamily") occurs in
the training file alone. One fifth of the training file is for validation, by a fixed permutation.

College: some college, an associate, bachelor's, professional or doctorate degree, and a master's. The
authors' code misspells "Masters" and so counts those people (3 %) as not having been to college: their
numbers go with ``masters=False``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from palora.data.cache import cached
from palora.data.download import Progress, fetch, sound
from palora.data.entry import Entry, Folder
from palora.data.folder import ensure_folder
from palora.data.idx import unpacked
from palora.data.places import advised, missing, places, present
from palora.data.places import locate as find
from palora.data.types import Dataset, Split, TaskSpec
from palora.errors import PaloraError

TRAIN, TEST = "census-income.data", "census-income.test"
ROWS = {TRAIN: 199_523, TEST: 99_762}
COLUMNS, FEATURES = 42, 468
_SHA256 = {
    TRAIN: ("3676a81db7d3528f3f8b9f3c699d0f0aa28db45e6e994fa0b8ed38327539ee86", 103_874_469),
    TEST: ("98402b1ab879573d0a7f38a699a40258080e25e33d3401e7bf9c96d3fa0fab8c", 51_918_813),
}
MIRRORS = ("https://archive.ics.uci.edu/ml/machine-learning-databases/census-income-mld/",)
_REMEDY = f"Get it with `palora data prepare census`, or both files (gzipped or not) from {MIRRORS[0]}."

AGE, EDUCATION, SEX, HOUSEHOLD = 0, 4, 12, 22
NUMBERS = (5, 16, 17, 18, 24, 39)
LEFT_OUT = (25, 26, 27, 40)  # three migration codes, the year
INDICATORS = tuple(c for c in range(COLUMNS) if c not in (AGE, EDUCATION, SEX, *NUMBERS, *LEFT_OUT))
RARE = "Grandchild <18 ever marr not in subfamily"
COLLEGE = ("Some", "Asso", "Bachelors", "Prof", "Doctorate")

TASKS = (
    TaskSpec("age", loss="cross_entropy", metric="accuracy", outputs=2),
    TaskSpec("education", loss="cross_entropy", metric="accuracy", outputs=2),
)
_VERSION = 1


def load(*, folder: Folder = None, seed: int = 0, masters: bool = True, progress: Progress | None = None) -> Dataset:
    """Census as tensors: inputs (N, 468), two targets (N,) of class 0 or 1. What was parsed is kept in the cache.

    Args:
        folder: data root, see `palora.data.folder.data_root`.
        seed: not used, the splits are fixed.
        masters: whether a master's degree counts as college; False is what the authors' code does.

    Raises:
        PaloraError: a file is missing, damaged, or another one under its name.
    """
    place = find(folder, "census", [TRAIN, TEST])
    if place is None:
        raise missing(folder, "census", "Census-Income (KDD)", f"{TRAIN}[.gz] or {TEST}[.gz]", _REMEDY)
    with advised(_REMEDY):
        contents = {name: unpacked(_path(place, name), 2 * _SHA256[name][1]) for name in (TRAIN, TEST)}
    key = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    changed = [name for name in key if key[name] != _SHA256[name][0]]
    if changed:
        _parse(place, contents, progress)  # says what is wrong where that can be seen
        raise PaloraError(
            f"{_path(place, changed[0])} is not the file of the UCI repository: expected sha256 "
            f"{_SHA256[changed[0]][0]} of the unzipped content, found {key[changed[0]]}. {_REMEDY}"
        )
    tensors = cached("census", {"version": _VERSION, **key}, lambda: _parse(place, contents, progress))

    order = torch.from_numpy(np.random.default_rng(0).permutation(len(tensors["train.codes"])))
    count = len(order) // 5
    train = order[count:].sort().values
    scale = tensors["train.numbers"][train].double()
    mean, deviation = scale.mean(0), scale.std(0, correction=0).clamp(min=1e-12)

    def split(part: str, rows: Tensor | None = None) -> Split:
        codes, numbers, labels = (
            tensors[f"{part}.{kind}"] if rows is None else tensors[f"{part}.{kind}"][rows]
            for kind in ("codes", "numbers", "labels")
        )
        features = torch.zeros(len(codes), len(NUMBERS) + int(tensors["features"]) + 1)
        features[:, : len(NUMBERS)] = ((numbers.double() - mean) / deviation).float()
        features.scatter_(1, codes[:, :-1].long() + len(NUMBERS), 1.0)
        features[:, -1] = codes[:, -1].float()
        college = (labels[:, 1] > 0) if masters else (labels[:, 1] == 1)
        return Split(features, (labels[:, 0].long(), college.long()))

    note = (
        f"Census-Income (KDD): {len(train):,} / {count:,} / {len(tensors['test.codes']):,} people, 468 features; "
        f"a master's degree counts as {'college' if masters else 'no college, as in the code of the papers'}."
    )
    return Dataset("census", split("train", train), split("train", order[:count]), split("test"), TASKS, note)


def _path(place: Path, name: str) -> Path:
    path = present(place, name)
    assert path is not None
    return path


def _parse(place: Path, contents: dict[str, bytes], progress: Progress | None) -> dict[str, Tensor]:
    """Per file: codes (N, 30) int16 (a position among all indicators for each of 29 columns; the sex), numbers
    (N, 6) float32, labels (N, 2) uint8 (age; education: 0 none, 1 college, 2 master's)."""
    tables = {}
    for name, content in contents.items():
        if progress:
            progress(name, 0, None)
        tables[name] = _table(_path(place, name), content, ROWS[name])
    train = tables[TRAIN]
    vocabulary = [sorted(set(train[column])) for column in INDICATORS]
    features = len(NUMBERS) + sum(map(len, vocabulary)) + 1
    if features != FEATURES:
        raise PaloraError(
            f"{_path(place, TRAIN)} should have {FEATURES} features, counting the values of its columns. Found "
            f"{features}: it is not the Census-Income (KDD) training file. {_REMEDY}"
        )
    tensors = {"features": torch.tensor(sum(map(len, vocabulary)))}
    for name, part in ((TRAIN, "train"), (TEST, "test")):
        path, columns = _path(place, name), tables[name]
        tensors[f"{part}.codes"] = torch.from_numpy(_codes(path, columns, vocabulary))
        tensors[f"{part}.numbers"] = torch.from_numpy(_numbers(path, columns, NUMBERS).astype(np.float32))
        age = _numbers(path, columns, (AGE,))[:, 0] >= 40
        degree = {text: _degree(text) for text in set(columns[EDUCATION])}
        college = [degree[text] for text in columns[EDUCATION]]
        tensors[f"{part}.labels"] = torch.from_numpy(np.stack([age, college], 1).astype(np.uint8))
    return tensors


def _degree(text: str) -> int:
    return 2 if text.startswith("Masters") else int(text.startswith(COLLEGE))


def _table(path: Path, content: bytes, expected: int) -> list[tuple[str, ...]]:
    """The 42 columns of a file, each a text for every row, without the rare household status."""
    rows = []
    for number, line in enumerate(content.decode("latin-1").splitlines(), start=1):
        if not line.strip():
            continue
        row = line.rstrip(" .").split(", ")
        if len(row) != COLUMNS:
            raise PaloraError(
                f"{path} is damaged: line {number:,} has {len(row)} columns in place of {COLUMNS}. {_REMEDY}"
            )
        rows.append(row)
    if len(rows) != expected:
        wrong = "it is cut short" if len(rows) < expected else "it is another file under this name"
        raise PaloraError(f"{path} has {len(rows):,} rows in place of {expected:,}: {wrong}. {_REMEDY}")
    return list(zip(*(row for row in rows if row[HOUSEHOLD] != RARE), strict=True))


def _codes(path: Path, columns: list[tuple[str, ...]], vocabulary: list[list[str]]) -> NDArray[np.int16]:
    codes, start = [], 0
    for column, words in zip((*INDICATORS, SEX), (*vocabulary, ["Female", "Male"]), strict=True):
        first = 0 if column == SEX else start
        place = {word: first + i for i, word in enumerate(words)}
        start += len(words)
        strange = set(columns[column]) - set(words)
        if strange:
            raise PaloraError(
                f"{path} is damaged: column {column + 1} has the value {min(strange)!r}, which is not one of "
                f"{len(words)} known ones. {_REMEDY}"
            )
        codes.append(np.array([place[word] for word in columns[column]], dtype=np.int16))
    return np.stack(codes, 1)


def _numbers(path: Path, columns: list[tuple[str, ...]], which: tuple[int, ...]) -> NDArray[np.float64]:
    try:
        return np.stack([np.array(list(map(float, columns[column]))) for column in which], 1)
    except ValueError as error:
        raise PaloraError(f"{path} is damaged: {error} in a column of numbers. {_REMEDY}") from error


def locate(folder: Folder = None) -> Path | None:
    """The folder with both files, gzipped or not."""
    return find(folder, "census", [TRAIN, TEST])


def prepare(folder: Folder = None, progress: Progress | None = None) -> Path:
    """Download what is missing or damaged, parse it into the cache; returns the folder."""
    place = locate(folder) or ensure_folder(places(folder, "census")[0])
    for name, (sha256, size) in _SHA256.items():
        path = present(place, name)
        if path is None or not sound(path, sha256=sha256, size=size):
            fetch(
                [f"{mirror}{name}.gz" for mirror in MIRRORS],
                place / f"{name}.gz",
                sha256=sha256,
                size=size,
                gzipped=True,
                remedy=_REMEDY,
                progress=progress,
            )
            if path is not None and path.suffix != ".gz":
                path.unlink()  # the damaged unzipped file: the .gz beside it has taken its place
    load(folder=folder, progress=progress)
    return place


ENTRY = Entry(
    name="census",
    needs="two files (download)",
    licence="CC BY 4.0 (UCI, doi 10.24432/C5N30T)",
    size="9 MB, and 20 MB of cache",
    locate=locate,
    prepare=prepare,
    load=load,
)
