"""A library in the cache is loaded only if it is this user's alone and the one that was built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import palora_kernels
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


def test_it_is_on_the_disk_before_it_takes_its_name(
    extension: tuple[loading.Extension, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = extension
    synced: list[tuple[int, int]] = []
    fsync, replace = os.fsync, os.replace

    def noting(handle: int) -> None:
        fsync(handle)
        synced.append((os.fstat(handle).st_ino, os.fstat(handle).st_size))

    def checking(old: Path, new: Path) -> None:
        assert (old.stat().st_ino, old.stat().st_size) in synced
        replace(old, new)
        names.append(new.suffix)

    names: list[str] = []
    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "replace", checking)
    loading._load(one)
    assert names == [".sha256", ".so"]  # between the two an old library has another hash, and is not loaded
    assert one.cached().parent.stat().st_ino in [inode for inode, _ in synced]


def test_doctor_says_why_the_cache_is_not_used(
    extension: tuple[loading.Extension, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("typer")
    from palora.cli import doctor

    one, _ = extension
    monkeypatch.setitem(loading._EXTENSIONS, "cpu", one)
    loading._load(one)
    assert "native cache" not in dict(doctor.kernels())
    one.cached().write_bytes(b"evil")
    assert dict(doctor.kernels())["native cache"] == (
        f"not used, built anew: {one.cached()} is not the file that was built: its hash is another than the one "
        "written beside it"
    )
    one.cached().parent.chmod(0o777)
    assert f"others can write in {one.cached().parent}" in dict(doctor.kernels())["native cache"]


TRUNCATED = """
import os, subprocess, sys
from pathlib import Path
from palora_kernels.native import loading

def build_into(folder):
    source = folder / "lib.cpp"
    source.write_text("char big[1 << 20] = {1}; int answer(void) { return 42; }")
    command = [os.environ.get("CXX", "c++"), "-shared", "-fPIC", "-o", folder / "lib.so", source]
    subprocess.run(command, check=True)
    return folder / "lib.so"

one = loading.Extension("cpu", "the extension", frozenset(), lambda: "lib", lambda: None, build_into)
loading._load(one)
whole = one.cached().read_bytes()
for size in (0, 1, 64, 4096, len(whole) // 2, len(whole) - 1):
    one.cached().unlink()  # a new file: the old one is mapped by this process
    one.cached().write_bytes(whole[:size])
    loading._load(one)
    assert one.loaded and one.failure is None, one.failure
    assert len(one.cached().read_bytes()) == len(whole)
print("whole")
"""


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(Path(palora_kernels.__file__).parents[1]), **environment}
    env.pop(build.FORCE, None)
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)


@pytest.mark.skipif(build.obstacle() is not None, reason="nothing can be built here")
def test_a_shared_library_that_was_cut_is_built_anew_and_ends_no_process(tmp_path: Path) -> None:
    found = run(TRUNCATED, PALORA_CACHE=str(tmp_path))
    assert found.returncode == 0, found.stderr  # SIGBUS would be -7
    assert found.stdout == "whole\n"
    assert found.stderr.count("the cached library is not used") == 6


CALL = """
import torch, palora_kernels as pk
ones = torch.ones
y = pk.linear(ones(4, 3), ones(2, 3), None, ones(2, 2, 1), ones(2, 1, 3), ones(2, 2), backend="native")
print(y.sum().item(), pk.backends()["native"])
"""


@pytest.mark.slow
@pytest.mark.skipif(build.obstacle() is not None, reason="nothing can be built here")
def test_the_extension_itself_cut_in_half_is_built_anew(tmp_path: Path) -> None:
    real = loading._EXTENSIONS["cpu"]
    if real.installed() is not None:
        pytest.skip("the extension is installed")
    assert loading.ready()
    folder = tmp_path / "native" / real.cached().parent.name
    folder.mkdir(parents=True, mode=0o700)
    for path in (real.cached(), real.cached().with_suffix(".sha256")):
        shutil.copy2(path, folder)
    library = folder / real.cached().name
    whole = library.read_bytes()
    assert run(CALL, PALORA_CACHE=str(tmp_path)).stdout == "72.0 available\n"
    library.write_bytes(whole[: len(whole) // 2])
    found = run(CALL, PALORA_CACHE=str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert found.stdout == "72.0 available\n"
    assert "the cached library is not used" in found.stderr
    assert library.stat().st_size > len(whole) // 2
