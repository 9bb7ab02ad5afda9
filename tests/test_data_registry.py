from __future__ import annotations

from pathlib import Path

import pytest

from palora import data
from palora.data import mnist
from palora.data.folder import cache_root, data_root
from palora.errors import PaloraError


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PALORA_DATA", "PALORA_CACHE", "PALORA_MIRROR"):
        monkeypatch.delenv(name, raising=False)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    assert data.names()[:2] == ["multimnist-small", "multimnist"]
    assert len(data.names()) == len(set(data.names()))
    for name in ("multi-mnist", "mnist"):
        with pytest.raises(PaloraError) as caught:
            data.load(name)
        assert all(known in str(caught.value) for known in (name, "multimnist", "multimnist-small"))
    with pytest.raises(PaloraError, match=r"cifar.*multimnist-small.*mnist"):
        data.prepare("cifar")


def test_unknown_options_are_answered_with_the_known_ones() -> None:
    with pytest.raises(PaloraError, match=r"ofset.*offset.*limit"):
        data.load("multimnist-small", ofset=8)


def test_the_data_root_is_argument_then_environment_then_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "palora"
    assert data_root() == tmp_path / ".cache" / "palora" / "data"
    monkeypatch.setenv("PALORA_CACHE", "/c")
    assert data_root() == Path("/c/data")
    monkeypatch.setenv("PALORA_DATA", "~/d")
    assert data_root() == tmp_path / "d"
    assert data_root("e") == Path("e")
    monkeypatch.setenv("PALORA_DATA", "")
    assert data_root() == Path("/c/data")


def test_the_list_says_what_is_present_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {row.name: row for row in data.describe(tmp_path)}
    assert set(rows) == {*data.names(), "mnist", "fashion-mnist"}
    assert rows["multimnist-small"].present
    assert rows["multimnist-small"].where == str(mnist.BUNDLED)
    assert not rows["mnist"].present
    assert str(tmp_path) in rows["mnist"].where
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte").touch()
    monkeypatch.setenv("PALORA_DATA", str(tmp_path))
    rows = {row.name: row for row in data.describe()}
    assert rows["mnist"].present
    assert rows["multimnist"].where == str(tmp_path)
    assert all(row.licence and row.size and row.needs for row in rows.values())


def test_what_is_bundled_needs_no_preparation() -> None:
    assert data.prepare("multimnist-small") == mnist.BUNDLED
