"""A library in the cache is loaded only if it is this user's alone and the one that was built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from palora_kernels.native import build, loading


@pytest.fixture
def extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[loading.Extension, list[bytes]]:
    """An extension whose build writes a few bytes; what is loaded is noted."""
    loaded: list[bytes] = []

    def build_into(folder: Path) -> Path:
        (folder / "lib.so").write_bytes(b"good")
        return folder / "lib.so"

    monkeypatch.setenv("PALORA_CACHE", str(tmp_path))
    monkeypatch.delenv(build.FORCE, raising=False)
    monkeypatch.setattr(torch.ops, "load_library", lambda path: loaded.append(Path(path).read_bytes()))
    return loading.Extension("cpu", "the extension", frozenset(), lambda: "lib", lambda: None, build_into), loaded


def test_what_was_built_is_loaded_again(extension: tuple[loading.Extension, list[bytes]]) -> None:
    one, loaded = extension
    loading._load(one)
    assert one.remark() is None
    one.build_into = lambda _: pytest.fail("built twice")
    loading._load(one)
    assert loaded == [b"good", b"good"]
    assert one.failure is None


@pytest.mark.parametrize("damage", ["truncated", "foreign", "writable", "folder", "no hash", "link"])
def test_anything_else_is_built_anew(
    damage: str, extension: tuple[loading.Extension, list[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, loaded = extension
    loading._load(one)
    library = one.cached()
    if damage == "truncated":
        library.write_bytes(b"go")
    elif damage == "foreign":
        library.write_bytes(b"evil")
    elif damage == "writable":
        library.chmod(0o777)
    elif damage == "folder":
        library.write_bytes(b"evil")
        library.parent.chmod(0o777)
    elif damage == "no hash":
        library.with_suffix(".sha256").unlink()
    else:
        library.rename(tmp_path / "other.so")
        library.symlink_to(tmp_path / "other.so")
    assert one.remark() is not None
    capsys.readouterr()
    loading._load(one)
    assert loaded == [b"good", b"good"]
    assert "the cached library is not used" in capsys.readouterr().err
    if damage == "folder":
        assert library.read_bytes() == b"evil"
    else:
        assert one.remark() is None
