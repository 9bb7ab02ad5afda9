"""MultiMNIST-3, Multi-Fashion and Fashion-and-MNIST, on generated images in place of the canonical files; where
PALORA_DATA names a folder with MNIST (and Fashion-MNIST), on the real ones too."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image

from palora import data
from palora.data import fashion_mnist, mnist
from palora.data.collage_set import PARTS, CollageSet
from palora.data.idx_source import File, IdxSource
from palora.data.multifashion import GARMENTS, MIXED
from palora.data.multimnist3 import SET
from palora.errors import PaloraError

SETS = {"multimnist3": SET, "multi-fashion": GARMENTS, "fashion-and-mnist": MIXED}
CORNERS = {"multimnist3": [(0, 0), (0, 14), (14, 7)]}
real = pytest.mark.skipif(
    not os.environ.get("PALORA_DATA") or mnist.locate() is None,
    reason="needs the complete MNIST set: name its folder in PALORA_DATA",
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A data root with two sources of 9 + 5 images, and sets of 6 / 3 / 5 collages."""
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PALORA_DATA", raising=False)
    rng = np.random.default_rng(0)
    made = {}
    for name in ("mnist", "fashion-mnist"):
        folder = tmp_path / name
        folder.mkdir()
        files = []
        for file, count in (("train", 9), ("t10k", 5)):
            for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
                values = rng.integers(10, size=shape, dtype=np.uint8)
                values = values * (25 if len(shape) == 3 else 1)
                content = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values.tobytes()
                title = f"{file}-{kind}-ubyte"
                (folder / f"{title}.gz").write_bytes(gzip.compress(content))
                files.append(File(title, hashlib.sha256(content).hexdigest(), len(content)))
        parts = {"train": (files[0], files[1]), "test": (files[2], files[3])}
        made[name] = IdxSource(name, name, name, parts, ())
    monkeypatch.setattr(mnist, "_PARTS", made["mnist"].parts)
    monkeypatch.setattr(fashion_mnist, "SOURCE", made["fashion-mnist"])
    small = {"train": ("train", 0, 6), "validation": ("train", 6, 9), "test": ("test", 0, 5)}
    monkeypatch.setattr("palora.data.collage_set.PARTS", small)
    return tmp_path


def sources(which: CollageSet, root: Path) -> list[IdxSource]:
    return [make() for make in which.sources]


def by_hand(images: list[np.ndarray], corners: list[tuple[int, int]], canvas: int) -> np.ndarray:
    picture = np.zeros((canvas, canvas), dtype=np.uint8)
    for image, (top, left) in zip(images, corners, strict=True):
        for y in range(28):
            for x in range(28):
                picture[top + y, left + x] = max(picture[top + y, left + x], image[y, x])
    return np.asarray(Image.fromarray(picture).resize((28, 28))) / np.float32(255)


@pytest.mark.parametrize("name", SETS)
def test_collages_are_laid_out_as_by_hand(name: str, tiny: Path) -> None:
    dataset, which = data.load(name, folder=tiny, seed=4), SETS[name]
    corners = CORNERS.get(name, [(0, 0), (6, 6)])
    index = which.indices(4)
    for part, (file, _, _) in {"train": ("train", 0, 0), "validation": ("train", 0, 0), "test": ("test", 0, 0)}.items():
        columns = [source.read(file, tiny / source.folder) for source in sources(which, tiny)]
        split = getattr(dataset, part)
        for row, meeting in enumerate(index[part]):
            images = [column.images[i] for column, i in zip(columns, meeting, strict=True)]
            expected = by_hand(images, corners, which.layout.canvas)
            np.testing.assert_array_equal(split.inputs[row, 0].numpy(), expected)
            labels = [column.labels[i] for column, i in zip(columns, meeting, strict=True)]
            assert [int(target[row]) for target in split.targets] == labels
    assert [task.name for task in dataset.tasks] == list(which.tasks)


@pytest.mark.parametrize("name", SETS)
def test_no_image_is_in_two_splits_and_the_seed_decides_the_rest(name: str) -> None:
    first, again, other = (SETS[name].indices(seed) for seed in (0, 0, 1))
    assert [len(first[part]) for part in PARTS] == [50_000, 10_000, 10_000]
    assert set(first["train"].ravel()) == set(range(50_000))
    assert set(first["validation"].ravel()) == set(range(50_000, 60_000))
    for part, rows in first.items():
        assert (rows == again[part]).all()
        assert (rows[:, 0] == other[part][:, 0]).all()
        assert (rows[:, 1:] != other[part][:, 1:]).mean() > 0.99
        if name != "fashion-and-mnist":
            assert (np.diff(np.sort(rows, axis=1)) > 0).all(), "one source: no image twice on a canvas"
        # Columns are independent: their correlation is that of chance.
        assert abs(np.corrcoef(rows.T)[0, 1]) < 4 / len(rows) ** 0.5


def test_the_cache_and_the_fresh_set_are_the_same(tiny: Path) -> None:
    made: list[str] = []

    def note(what: str, done: int, total: int | None) -> None:
        made.append(what)

    fresh = data.load("fashion-and-mnist", folder=tiny, progress=note)
    assert set(made) == {"train collages", "validation collages", "test collages"}
    made.clear()
    again = data.load("fashion-and-mnist", folder=tiny, progress=note)
    assert made == []
    assert torch.equal(fresh.train.inputs, again.train.inputs)
    assert len(data.load("fashion-and-mnist", folder=tiny, limit=2).train) == 2


def test_garments_in_place_of_digits_are_noticed(tiny: Path) -> None:
    """The files of the two sets have the same names."""
    for path in (tiny / "mnist").iterdir():
        path.write_bytes((tiny / "fashion-mnist" / path.name).read_bytes())
    with pytest.raises(PaloraError, match=r"not the canonical MNIST file.*palora data prepare mnist"):
        data.load("multimnist3", folder=tiny)


def test_a_truncated_file_is_named(tiny: Path) -> None:
    path = tiny / "fashion-mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(PaloraError, match=r"train-images-idx3-ubyte\.gz is cut short"):
        data.load("multi-fashion", folder=tiny)


def test_what_is_missing_and_how_to_get_it(tiny: Path) -> None:
    (tiny / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    rows = {row.name: row for row in data.describe(tiny)}
    assert rows["multimnist3"].present
    assert not rows["multi-fashion"].present
    assert not rows["fashion-and-mnist"].present
    with pytest.raises(PaloraError, match=r"t10k-labels.*palora data prepare fashion-mnist.*PALORA_DATA"):
        data.load("fashion-and-mnist", folder=tiny)


def test_bad_arguments_are_named(tiny: Path) -> None:
    for option in ({"seed": -1}, {"limit": 0}, {"limit": 50_001}):
        with pytest.raises(ValueError, match=f"`{next(iter(option))}`"):
            data.load("multimnist3", folder=tiny, **option)


@real
def test_three_digits_on_the_real_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path))
    dataset = data.load("multimnist3", limit=300)
    assert [len(dataset.train), len(dataset.validation), len(dataset.test)] == [300, 10_000, 10_000]
    place = mnist.locate()
    assert place is not None
    digits, index = mnist.read("train", place), SET.indices(0)["train"]
    for row in (0, 299):
        expected = by_hand([digits.images[i] for i in index[row]], CORNERS["multimnist3"], 42)
        np.testing.assert_array_equal(dataset.train.inputs[row, 0].numpy(), expected)


@pytest.mark.skipif(fashion_mnist.SOURCE.locate() is None, reason="needs Fashion-MNIST")
def test_the_real_garments_are_the_canonical_ones() -> None:
    place = fashion_mnist.SOURCE.locate()
    assert place is not None
    test = fashion_mnist.SOURCE.read("test", place)
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert test.labels[:5].tolist() == [9, 2, 1, 1, 6]
