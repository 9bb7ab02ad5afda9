"""SARCOS: on generated files in MATLAB's format; on the official test file where PALORA_DATA holds it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

import scipy.io
import torch

from palora import data
from palora.data import sarcos
from palora.data.mat5 import read_matrix
from palora.errors import PaloraError

real = pytest.mark.skipif(
    not os.environ.get("PALORA_DATA") or sarcos.locate() is None,
    reason="needs SARCOS: name its folder in PALORA_DATA",
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both files with 60 and 20 rows; the first 10 training rows are for validation."""
    monkeypatch.setattr(sarcos, "ROWS", {sarcos.TRAIN: 60, sarcos.TEST: 20})
    monkeypatch.setattr(sarcos, "VALIDATION", 10)
    monkeypatch.setattr(sarcos, "_SHA256", {})
    (tmp_path / "sarcos").mkdir()
    for name, rows in sarcos.ROWS.items():
        write(tmp_path / "sarcos" / name, table(rows))
    return tmp_path


def table(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, 28)) + np.arange(28)


def write(path: Path, values: np.ndarray, name: str | None = None, zipped: bool = False) -> None:
    scipy.io.savemat(path, {name or path.stem: values}, do_compression=zipped)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "u1"])
def test_matrices_are_read_as_scipy_writes_them(tmp_path: Path, dtype: str, zipped: bool) -> None:
    values = (np.random.default_rng(0).random((7, 3)) * 100).astype(dtype)
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"b": np.array(["text"]), "z": 1j * np.ones((2, 2)), "a": values}, do_compression=zipped)
    np.testing.assert_array_equal(read_matrix(path, "a"), values.astype(np.float64))
    with pytest.raises(PaloraError, match=r"a\.mat has no matrix of numbers called 'c'. It holds: b, z, a"):
        read_matrix(path, "c")
    content = path.read_bytes()
    for end in (0, 100, 140, len(content) - 20):
        path.write_bytes(content[:end])
        with pytest.raises(PaloraError, match=r"a\.mat (is cut short|is not a MATLAB|has no matrix)"):
            read_matrix(path, "a")


def test_official_files_by_hand(root: Path) -> None:
    dataset = data.load("sarcos", folder=root)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (50, 10, 20)
    train, test = table(60), table(20)
    quantile = np.quantile(train[10:, 21:], 0.9, axis=0)
    for split, rows in ((dataset.train, train[10:]), (dataset.validation, train[:10]), (dataset.test, test)):
        np.testing.assert_allclose(split.inputs, rows[:, :21], rtol=1e-6)
        for t in range(7):
            assert split.targets[t].shape == (len(rows), 1)
            np.testing.assert_allclose(split.targets[t][:, 0], rows[:, 21 + t] / quantile[t], rtol=1e-6)
    assert len(dataset.tasks) == 7
    assert "reduced" not in dataset.note


def test_the_test_file_alone_is_split_again_and_says_so(root: Path) -> None:
    chosen = data.load("sarcos", folder=root, reduced=True)
    (root / "sarcos" / sarcos.TRAIN).unlink()
    dataset = data.load("sarcos", folder=root)
    assert torch.equal(chosen.train.inputs, dataset.train.inputs)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (14, 2, 4)
    assert "re-split" in dataset.note
    assert "not comparable" in dataset.note
    rows = torch.cat([split.inputs for split in (dataset.train, dataset.validation, dataset.test)])
    expected = torch.from_numpy(table(20)[:, :21].astype(np.float32))
    assert {tuple(row) for row in rows.tolist()} == {tuple(row) for row in expected.tolist()}
    for t, target in enumerate(dataset.train.targets):
        assert np.quantile(target.double(), 0.9) == pytest.approx(1, abs=1e-6), t
    with pytest.raises(PaloraError, match=r"missing sarcos_inv\.mat\. .*gaussianprocess.*PALORA_DATA"):
        data.load("sarcos", folder=root, reduced=False)


def test_spoilt_files_are_one_error(root: Path) -> None:
    path = root / "sarcos" / sarcos.TRAIN
    write(path, table(20))
    with pytest.raises(PaloraError, match=r"sarcos_inv\.mat should hold 60 × 28 numbers. Found 20 × 28"):
        data.load("sarcos", folder=root)
    write(path, table(60), name="sarcos_inv_test")
    with pytest.raises(PaloraError, match=r"no matrix of numbers called 'sarcos_inv'. It holds: sarcos_inv_test"):
        data.load("sarcos", folder=root)
    spoilt = table(60)
    spoilt[41, 3] = np.nan
    write(path, spoilt)
    with pytest.raises(PaloraError, match=r"row 42 holds a value that is not a number"):
        data.load("sarcos", folder=root)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(PaloraError, match=r"sarcos_inv\.mat is cut short.*gaussianprocess"):
        data.load("sarcos", folder=root)


def test_the_test_file_is_known_by_its_checksum(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "sarcos" / sarcos.TEST
    content = path.read_bytes()
    monkeypatch.setattr(sarcos, "_SHA256", {sarcos.TEST: hashlib.sha256(content).hexdigest()})
    data.load("sarcos", folder=root)
    changed = bytearray(content)
    changed[-100] ^= 1
    path.write_bytes(changed)
    with pytest.raises(PaloraError, match=r"sarcos_inv_test\.mat is not the official file: wrong checksum.*gaussianp"):
        data.load("sarcos", folder=root)
    fetched = []

    def fetch(urls: list[str], target: Path, **_: object) -> Path:
        fetched.append(urls)
        target.write_bytes(content)
        return target

    monkeypatch.setattr(sarcos, "fetch", fetch)
    assert sarcos.prepare(root) == sarcos.prepare(root) == root / "sarcos"
    assert fetched == [[sarcos.URL + sarcos.TEST]], "once: a sound file is kept"


@real
def test_the_official_test_file() -> None:
    place = sarcos.locate()
    assert place is not None
    path = place / sarcos.TEST
    expected = scipy.io.loadmat(path)["sarcos_inv_test"]
    np.testing.assert_array_equal(sarcos.read(path), expected)
    dataset = data.load("sarcos", reduced=True)
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (3114, 445, 890)
    assert "4,449-row official test file" in dataset.note
