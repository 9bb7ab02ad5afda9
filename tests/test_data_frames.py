"""CityScapes and NYUv2: on generated frames; NYUv2 on real ones where PALORA_DATA names a folder that holds them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("PIL")

import frame_fixtures as made
import numpy as np
import torch
from PIL import Image

from palora import data
from palora.data import Batches, Lazy, Split, nyuv2
from palora.data.normals import derived_normals
from palora.errors import PaloraError

real = pytest.mark.skipif(
    not os.environ.get("PALORA_DATA") or nyuv2.locate() is None,
    reason="needs NYUv2: name its folder in PALORA_DATA",
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def city(tmp_path: Path) -> Path:
    return made.cityscapes(tmp_path / "data")


def npy(root: Path, name: str) -> np.ndarray:
    return np.load(root / name)


def whole(part: Split | Lazy) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    return part.rows(slice(None))


@pytest.mark.parametrize("memory", [True, False])
def test_cityscapes_by_hand(city: Path, memory: bool) -> None:
    dataset = data.load("cityscapes", folder=city, memory=memory)
    assert isinstance(dataset.train, Split if memory else Lazy)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (11, 2, 4)
    assert "Not the official frames" in dataset.note
    inputs, (label, depth) = whole(dataset.test)
    for i in range(4):
        folder = city / "cityscapes" / "val"
        assert torch.equal(inputs[i], torch.from_numpy(npy(folder, f"image/{i}.npy")).permute(2, 0, 1))
        assert torch.equal(label[i].double(), torch.from_numpy(npy(folder, f"label_7/{i}.npy")).double())
        assert torch.equal(depth[i, 0], torch.from_numpy(npy(folder, f"depth/{i}.npy"))[:, :, 0])
    assert label.dtype == torch.int64
    images = torch.cat([whole(dataset.train)[0], whole(dataset.validation)[0]])
    sums = [float(npy(city, f"cityscapes/train/image/{i}.npy").astype(np.float64).sum()) for i in range(13)]
    assert sorted(images.double().sum((1, 2, 3)).tolist()) == pytest.approx(sorted(sums), rel=1e-6)


@pytest.mark.parametrize("memory", [True, False])
def test_nyuv2_by_hand(tmp_path: Path, memory: bool) -> None:
    root = made.nyuv2(tmp_path / "data")
    dataset = data.load("nyuv2", folder=root, memory=memory, scale=2, normal_loss="l1")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (8, 1, 4)
    assert dataset.tasks[2].loss == "l1_normals"
    inputs, (label, depth, normal) = whole(dataset.test)
    assert inputs.shape == (4, 3, 16, 24)
    folder = root / "nyuv2" / "val"
    for i in range(4):
        image = npy(folder, f"image/{i}.npy")
        mean = (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4
        np.testing.assert_allclose(inputs[i].permute(1, 2, 0), mean, atol=1e-6)
        np.testing.assert_array_equal(label[i], npy(folder, f"label/{i}.npy")[::2, ::2])
        np.testing.assert_array_equal(depth[i, 0], npy(folder, f"depth/{i}.npy")[::2, ::2, 0])
        np.testing.assert_array_equal(normal[i].permute(1, 2, 0), npy(folder, f"normal/{i}.npy")[::2, ::2])


def test_workers_give_the_batches_of_memory(city: Path) -> None:
    held, lazy = (data.load("cityscapes", folder=city, memory=memory) for memory in (True, False))
    reading = Lazy(lazy.train.read, lazy.train.index, workers=2)  # type: ignore[union-attr]
    for a, b in zip(
        Batches(held.train, 4, seed=1, augment=held.augment).epoch(3),
        Batches(reading, 4, seed=1, augment=lazy.augment).epoch(3),
        strict=True,
    ):
        assert torch.equal(a[0], b[0])
        assert all(map(torch.equal, a[1], b[1]))


def spoil(folder: Path, what: str) -> None:
    path = folder / "image" / "3.npy"
    label = next(folder.glob("label*")) / "3.npy"
    if what == "cut short":
        path.write_bytes(path.read_bytes()[:-500])
    elif what == "not npy":
        path.write_bytes(b"no array at all")
    elif what == "missing":
        path.unlink()
    elif what == "too many":
        np.save(folder / "image" / "99.npy", np.zeros((32, 64, 3), np.float32))
    elif what == "0 … 255":
        np.save(path, np.load(path) * 255)
    elif what == "nan":
        np.save(path, np.load(path) * np.nan)
    elif what == "class 13":
        np.save(label, np.full_like(np.load(label), 13))
    elif what == "class 1.5":
        np.save(label, np.full_like(np.load(label), 1.5))
    elif what == "size":
        np.save(path, np.load(path)[:-1])
    elif what == "channels":
        np.save(path, np.load(path)[:, :, 0])
    elif what == "objects":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif what == "archive":
        np.savez(folder / "image" / "3.npz", image=np.load(path))
        (folder / "image" / "3.npz").replace(path)
    elif what == "no pixels":
        np.save(path, np.load(path)[:0])
    elif what == "no folder":
        (folder / "image").rename(folder / "images")


SPOILT = {
    "cut short": r"image/3\.npy is damaged or cut short",
    "not npy": r"image/3\.npy is damaged or cut short",
    "missing": r"image is incomplete: it has 12 of 13 frames, missing 3\.npy",
    "too many": r"is incomplete: .*missing",
    "0 … 255": r"image/3\.npy: values should lie in 0 … 1. Found",
    "nan": r"image/3\.npy: values should lie in 0 … 1. Found nan",
    "class 13": r"label_7/3\.npy: values should lie in -1 … 6. Found 13",
    "class 1.5": r"label_7/3\.npy: classes should be whole numbers",
    "size": r"image/3\.npy should be 32 × 64 as the others",
    "channels": r"image/3\.npy should hold numbers of shape \(H, W, 3\)",
    "objects": r"image/3\.npy is damaged",
    "archive": r"image/3\.npy is damaged",
    "no pixels": r"image/3\.npy should hold numbers of shape \(H, W, 3\)",
    "no folder": r"has no folder image",
}


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_frames_are_one_error_before_training(city: Path, what: str) -> None:
    data.load("cityscapes", folder=city, memory=False)  # what was found sound is not believed for ever
    spoil(city / "cityscapes" / "train", what)
    with pytest.raises(PaloraError, match=SPOILT[what] + r".*mtan"):
        data.load("cityscapes", folder=city, memory=False)


def test_spoilt_normals_and_missing_frames(tmp_path: Path) -> None:
    root = made.nyuv2(tmp_path / "data")
    path = root / "nyuv2" / "val" / "normal" / "1.npy"
    np.save(path, np.load(path) * 2)
    with pytest.raises(PaloraError, match=r"val/normal/1\.npy: normals should have length 1.*Found up to 2"):
        data.load("nyuv2", folder=root)
    for name in ("cityscapes", "nyuv2"):
        with pytest.raises(PaloraError, match=r"is not in .*mtan.*PALORA_DATA"):
            data.load(name, folder=tmp_path / "nowhere")
    for option in ({"normal_loss": "l3"}, {"scale": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(option))}`"):
            data.load("nyuv2", folder=root, **option)


def test_a_second_load_reads_no_file_to_check_it(city: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.load("cityscapes", folder=city, memory=False)
    monkeypatch.setattr("palora.data.npy_frames.NpyFrames._check", None)
    data.load("cityscapes", folder=city, memory=False)


def test_nyuv2_from_a_zip_file_by_hand(tmp_path: Path) -> None:
    path = made.nyuv2_zip(tmp_path / "data" / "nyuv2" / "nyuv2_small.zip")
    dataset = data.load("nyuv2", folder=tmp_path / "data")
    again = data.load("nyuv2", folder=tmp_path / "data")
    assert "derived normals" in dataset.note
    assert "not comparable" in dataset.note
    inputs, (label, depth, normal) = whole(dataset.test)
    assert torch.equal(inputs, whole(again.test)[0])
    with zipfile.ZipFile(path) as archive:
        for i in range(4):
            with archive.open(f"test/image/{i:04d}.jpg") as file:
                expected = np.asarray(Image.open(file)) / np.float32(255)
            np.testing.assert_allclose(inputs[i].permute(1, 2, 0), expected, atol=1e-6)
            with archive.open(f"test/depth/{i:04d}.png") as file:
                metres = (np.asarray(Image.open(file)) + 0.5) / 25.5
            np.testing.assert_allclose(depth[i, 0], metres, rtol=1e-6)
            with archive.open(f"test/label13/{i:04d}.png") as file:
                classes = np.asarray(Image.open(file)).astype(int)
            np.testing.assert_array_equal(label[i], np.where(classes == 255, -1, classes))
            derived = derived_normals(torch.from_numpy(metres), camera_scale=48 / 640)
            assert (normal[i] - derived).abs().max() < 2e-3
    small = data.load("nyuv2", folder=tmp_path / "data", scale=4)
    assert torch.equal(whole(small.test)[1][1], depth[:, :, ::4, ::4])
    assert (whole(small.test)[1][2] - normal[:, :, ::4, ::4]).abs().max() < 2e-3


def test_spoilt_zip_files_are_one_error(tmp_path: Path) -> None:
    path = made.nyuv2_zip(tmp_path / "data" / "nyuv2" / "nyuv2.zip")
    sound = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train/image/0100.jpg", b"")
    with pytest.raises(PaloraError, match=r"the same frames as image, depth and label13 of train. Found 10 image, 9"):
        data.load("nyuv2", folder=tmp_path / "data")
    for name, pixels, message in (
        ("label13", np.full((36, 48), 77, np.uint8), r"0100\.png .*classes 0 … 12, or 255 for none. Found 77"),
        ("label13", np.zeros((30, 48), np.uint8), r"should match. Found 36 × 48, 30 × 48, 36 × 48"),
    ):
        path.write_bytes(sound)
        with zipfile.ZipFile(path, "a") as archive:
            for kind, ending in (("image", "jpg"), ("depth", "png"), ("label13", "png")):
                values = np.ones((36, 48, 3) if kind == "image" else (36, 48), np.uint8)
                content = made.encoded(pixels if kind == name else values, ending)
                archive.writestr(f"train/{kind}/0100.{ending}", content)
        with pytest.raises(PaloraError, match=message):
            data.load("nyuv2", folder=tmp_path / "data")
    path.write_bytes(sound[:-1000])
    with pytest.raises(PaloraError, match=r"nyuv2\.zip is damaged or cut short.*mtan"):
        data.load("nyuv2", folder=tmp_path / "data")


@pytest.mark.parametrize("tilt", [(0.0, 0.0, -1.0), (0.4, 0.0, -0.9), (0.2, -0.7, -0.6)])
def test_normals_of_a_plane(tilt: tuple[float, float, float]) -> None:
    """Depth of the plane n·p = −2 seen by the camera; inverse depth is linear in the pixel, so smoothing is exact."""
    n = torch.tensor(tilt, dtype=torch.float64)
    n = n / n.norm()
    height, width, scale = 72, 96, 0.15
    x = (torch.arange(width).double() - scale * 325.58) / (scale * 518.86)
    y = (torch.arange(height).double()[:, None] - scale * 253.74) / (scale * 519.47)
    depth = -2 / (n[0] * x + n[1] * y + n[2])
    assert (depth > 0).all()
    found = derived_normals(depth, camera_scale=scale)
    inside = found[:, 20:-20, 20:-20].double()
    assert (inside - n.view(3, 1, 1)).abs().max() < 1e-4
    assert torch.equal(derived_normals(depth, camera_scale=scale, every=3), found[:, ::3, ::3])
    assert (found.norm(dim=0) - 1).abs().max() < 1e-5


@real
@pytest.mark.slow
def test_the_real_frames() -> None:
    dataset = data.load("nyuv2", scale=4)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (176, 24, 80)
    _, (label, depth, normal) = whole(dataset.test)
    assert (label == -1).float().mean().item() == pytest.approx(0.22, abs=0.05)
    assert depth.min() > 0.7
    assert depth.max() < 10
    assert (normal.norm(dim=1) - 1).abs().max() < 1e-3
    facing = (-normal[:, 2]).mean()
    assert facing > 0.4, "most surfaces are seen from the front"
    floor = normal.movedim(1, -1)[label == 4]
    assert floor[:, 1].median() < -0.7, "the floor looks up (y runs down)"
