"""UTKFace: on generated pictures; on the real faces where PALORA_DATA names a folder that holds them."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

from PIL import Image

from palora import data
from palora.data import utkface
from palora.data.pictures import Pictures
from palora.errors import PaloraError

real = pytest.mark.skipif(
    not os.environ.get("PALORA_DATA") or utkface.locate() is None,
    reason="needs UTKFace: name its folder in PALORA_DATA",
)
ODD = {  # the malformed names of the official set, as they would look here
    "24_0_1_20170116220224657 .jpg.chip.jpg": (24, 0, 1),
    "55_0_0_20170116232725357jpg.chip.jpg": (55, 0, 0),
    "39_1_20170116174525125.jpg.chip.jpg": None,
}


def picture(shade: int, side: int = 64) -> bytes:
    pixels = np.full((side, side, 3), shade, dtype=np.uint8)
    pixels[: side // 2, :, 0] = 255 - shade
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100, subsampling=0)
    return buffer.getvalue()


def names() -> dict[str, tuple[int, int, int] | None]:
    regular = {
        f"{age}_{age % 2}_{age % 5}_2017011017183672{age % 10}.jpg.chip.jpg": (age, age % 2, age % 5)
        for age in range(1, 101, 4)
    }
    return {**regular, **ODD}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "utkface"
    folder.mkdir()
    with zipfile.ZipFile(folder / "utkface.zip", "w") as archive:
        for name in names():
            archive.writestr(f"UTKFace/{name}", picture(int(name.split("_")[0]) * 2))
    return tmp_path


def everything(dataset: data.Dataset) -> tuple[torch.Tensor, list[torch.Tensor]]:
    parts = [part.in_memory() for part in (dataset.train, dataset.validation, dataset.test)]
    return torch.cat([p[0] for p in parts]), [torch.cat([p[1][t] for p in parts]) for t in range(3)]


def test_faces_and_labels(root: Path) -> None:
    dataset = data.load("utkface", folder=root)
    usable = {name: label for name, label in names().items() if label}
    assert len(usable) == 27
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 3, 6)
    inputs, (age, gender, race) = everything(dataset)
    assert inputs.shape == (27, 3, 64, 64)
    assert age.shape == (27, 1)
    train_age = dataset.train.in_memory()[1][0]
    assert train_age.mean().item() == pytest.approx(0, abs=1e-6)
    assert train_age.std().item() == pytest.approx(1, abs=1e-6)
    order = np.random.default_rng(42).permutation(27)
    labels = [usable[name] for name in sorted(usable)]
    ages = np.array([label[0] for label in labels])[order]
    np.testing.assert_allclose(inputs[:, 1, 40, 40] * 255, 2 * ages, atol=2)  # what the pictures are painted with
    mean, deviation = ages[:18].mean(), ages[:18].std(ddof=1)
    np.testing.assert_allclose(age[:, 0], (ages - mean) / deviation, rtol=1e-5)
    assert gender.tolist() == [labels[i][1] for i in order]
    assert race.tolist() == [labels[i][2] for i in order]


def test_a_folder_of_larger_pictures_is_the_same_set(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other" / "utkface" / "UTKFace"
    folder.mkdir(parents=True)
    for name in names():
        (folder / name).write_bytes(picture(int(name.split("_")[0]) * 2, side=200))
    zipped, unpacked = data.load("utkface", folder=root), data.load("utkface", folder=tmp_path / "other")
    a, b = everything(zipped), everything(unpacked)
    assert (a[0] - b[0])[:, :, 5:25].abs().max() < 0.02
    assert all(map(torch.equal, a[1], b[1]))
    assert everything(data.load("utkface", folder=root))[0].equal(a[0]), "from the cache"
    first = sorted(folder.iterdir())[0]
    first.write_bytes(first.read_bytes()[:200] + bytes(first.stat().st_size - 200))
    with pytest.raises(PaloraError, match="is not a sound picture"):  # of the same size: the cache is not asked
        data.load("utkface", folder=tmp_path / "other")


def test_spoilt_sets_are_one_error(root: Path) -> None:
    path = root / "utkface" / "utkface.zip"
    sound = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("UTKFace/30_1_2_20170116220224657.jpg.chip.jpg", picture(3)[:300])
    with pytest.raises(PaloraError, match=r"30_1_2_.*is not a sound picture.*susanqq"):
        data.load("utkface", folder=root)
    path.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(PaloraError, match=r"utkface\.zip is damaged or cut short"):
        data.load("utkface", folder=root)
    path.write_bytes(sound[:3000] + bytes([sound[3000] ^ 255]) + sound[3001:])
    with pytest.raises(PaloraError, match=r"UTKFace/\S+ in .*utkface\.zip is (damaged|not)"):
        data.load("utkface", folder=root)
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(20):
            archive.writestr(f"face{i}.jpg", picture(i))
    with pytest.raises(PaloraError, match=r"is not UTKFace: of 20 .*AGE_GENDER_RACE_DATE.*for example face0"):
        data.load("utkface", folder=root)
    for name in ("30_7_1_20170116220224657", "130_1_1_20170116220224657", "30_1_5_20170116220224657", "39_1_20170116"):
        path.write_bytes(sound)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"UTKFace/{name}.jpg.chip.jpg", picture(3))
        with pytest.raises(PaloraError, match=rf"is not UTKFace: of 29 \.jpg files 1 have no.*{name}"):
            data.load("utkface", folder=root)
    path.unlink()
    with pytest.raises(PaloraError, match=r"UTKFace is not in .*non-commercial.*PALORA_DATA"):
        data.load("utkface", folder=root)


@real
def test_the_real_set_has_23705_usable_names() -> None:
    place = utkface.locate()
    assert place is not None
    named = utkface.labelled(Pictures(place, ""))
    assert len(named) == 23_705
    assert np.bincount([label[1] for label in named.values()]).tolist() == [12_391, 11_314]
    assert max(label[0] for label in named.values()) == 116
    assert {label[2] for label in named.values()} == set(range(5))
