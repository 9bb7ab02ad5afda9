from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from palora.data.cache import cache_path, cached


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "cache"))


class Builder:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"x": torch.arange(1000, dtype=torch.uint8).reshape(10, 100), "y": torch.zeros(0, 2)}


@pytest.mark.needs("safetensors")
def test_the_second_time_nothing_is_built() -> None:
    build = Builder()
    first = cached("set", {"seed": 1}, build)
    again = cached("set", {"seed": 1}, build)
    assert build.calls == 1
    assert list(again) == list(first)
    for name in first:
        torch.testing.assert_close(again[name], first[name], rtol=0, atol=0)


def test_another_key_or_name_is_another_file() -> None:
    paths = {
        cache_path(name, key)
        for name in ("a", "b")
        for key in ({"seed": 1}, {"seed": 2}, {"seed": 1, "limit": None}, {"seed": 1, "limit": 1})
    }
    assert len(paths) == 8


@pytest.mark.parametrize("damage", ["flipped bit", "cut", "empty", "garbage"])
@pytest.mark.needs("safetensors")
def test_a_damaged_file_is_built_anew_with_one_line(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    build = Builder()
    first = cached("set", {"seed": 1}, build)
    path = cache_path("set", {"seed": 1})
    good = path.read_bytes()
    bad = {
        "flipped bit": good[:-1] + bytes([good[-1] ^ 1]),
        "cut": good[:-10],
        "empty": b"",
        "garbage": b"\xff" * 100,
    }[damage]
    path.write_bytes(bad)
    with caplog.at_level(logging.WARNING, logger="palora.data"):
        again = cached("set", {"seed": 1}, build)
    assert build.calls == 2
    torch.testing.assert_close(again["x"], first["x"], rtol=0, atol=0)
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    assert path.read_bytes() == good, "the sound file took the place of the damaged one"


@pytest.mark.needs("safetensors")
def test_no_temporary_file_stays_behind() -> None:
    cached("set", {"seed": 1}, Builder())
    folder = cache_path("set", {"seed": 1}).parent
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]


@pytest.mark.needs("safetensors")
def test_without_a_writable_folder_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "file"))
    assert cached("set", {"seed": 1}, Builder())["x"].shape == (10, 100)
    assert "cannot be written" in caplog.text
