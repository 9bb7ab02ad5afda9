from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Server, serve

from palora.data import mnist
from palora.errors import PaloraError

NAMES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]
TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]

needs_mnist = pytest.mark.skipif(
    not os.environ.get("PALORA_DATA") or mnist.locate() is None,
    reason="needs the complete MNIST set: name its folder in PALORA_DATA",
)


@pytest.fixture(autouse=True)
def _nothing_of_the_users(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PALORA_MIRROR", raising=False)
    if "complete" not in request.fixturenames:
        monkeypatch.delenv("PALORA_DATA", raising=False)


@pytest.fixture
def complete() -> Path:
    place = mnist.locate()
    assert place is not None
    return place


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small files {name: unzipped bytes} that take the place of the canonical ones."""
    rng = np.random.default_rng(0)
    contents = {}
    for name, shape in zip(NAMES, [(9, 28, 28), (9,), (5, 28, 28), (5,)], strict=True):
        values = rng.integers(10, size=shape, dtype=np.uint8).tobytes()
        contents[name] = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values
    files = [mnist._File(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in contents.items()]
    monkeypatch.setattr(mnist, "_FILES", tuple(files))
    monkeypatch.setattr(mnist, "_PARTS", {"train": tuple(files[:2]), "test": tuple(files[2:])})
    return contents


@pytest.fixture
def server(tiny: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as running:
        for name, data in tiny.items():
            running.files[f"/pub/mnist/{name}.gz"] = gzip.compress(data)
        monkeypatch.setattr(mnist, "MIRRORS", (running.url("/pub/mnist/"),))
        yield running


def write(folder: Path, contents: dict[str, bytes], zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(data) if zipped else data)
    return folder


def test_bundled_digits_are_the_canonical_test_set() -> None:
    digits = mnist.read("test", mnist.BUNDLED)
    assert digits.images.shape == (10_000, 28, 28)
    assert np.bincount(digits.labels).tolist() == TEST_COUNTS
    # The first test digits are known to everyone who has opened the set.
    assert digits.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert abs(digits.images.mean() / 255 - 0.1325) < 1e-3
    assert (mnist.BUNDLED / "README.md").is_file()


@needs_mnist
def test_complete_set_has_the_published_counts(complete: Path) -> None:
    train, test = mnist.read("train", complete), mnist.read("test", complete)
    assert train.images.shape == (60_000, 28, 28)
    assert np.bincount(train.labels).tolist() == TRAIN_COUNTS
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert abs(train.images.mean() / 255 - 0.1307) < 1e-4
    assert abs(train.images.std() / 255 - 0.3081) < 1e-4
    np.testing.assert_array_equal(test.images, mnist.read("test", mnist.BUNDLED).images)


@needs_mnist
def test_prepare_takes_a_complete_folder_as_it_is(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "MIRRORS", ("http://not-to-be-asked.invalid/",))
    assert mnist.prepare() == complete


@pytest.mark.parametrize("below", ["mnist", "", "MNIST/raw"])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_are_found_in_the_root_or_below(
    tiny: dict[str, bytes], tmp_path: Path, below: str, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write(tmp_path / "root" / below, tiny, zipped)
    assert mnist.locate(tmp_path / "root") == place
    assert mnist.locate() is None
    monkeypatch.setenv("PALORA_DATA", str(tmp_path / "root"))
    assert mnist.locate() == place
    assert mnist.prepare() == place
    digits = mnist.read("train", place)
    assert digits.images.tobytes() == tiny[NAMES[0]][16:]
    assert digits.labels.tobytes() == tiny[NAMES[1]][8:]


def test_the_argument_wins_over_the_environment(
    tiny: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "environment", tiny)
    write(tmp_path / "argument", tiny)
    monkeypatch.setenv("PALORA_DATA", str(tmp_path / "environment"))
    assert mnist.locate(tmp_path / "argument") == tmp_path / "argument"
    assert mnist.locate(tmp_path / "mistyped") is None


def test_missing_files_are_named_with_where_and_how(
    tiny: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mnist", {name: tiny[name] for name in NAMES[:3]})
    with pytest.raises(PaloraError) as caught:
        mnist.require(tmp_path)
    message = str(caught.value)
    hints = (NAMES[3], str(tmp_path / "mnist"), "palora data prepare mnist", "--data DIR", "PALORA_DATA")
    assert all(hint in message for hint in hints)
    assert not any(name in message for name in NAMES[:3])
    assert "\n" not in message
    monkeypatch.setenv("PALORA_DATA", str(tmp_path / "away"))
    with pytest.raises(PaloraError, match="from PALORA_DATA; that folder does not exist"):
        mnist.require()


def test_a_damaged_or_different_file_is_refused_by_name(tiny: dict[str, bytes], tmp_path: Path) -> None:
    place = write(tmp_path, tiny)
    images = place / f"{NAMES[0]}.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PaloraError, match=r"train-images-idx3-ubyte\.gz is cut short"):
        mnist.read("train", place)
    other = tiny[NAMES[0]][:-1] + b"\xff"
    images.write_bytes(gzip.compress(other))
    with pytest.raises(PaloraError, match="not the canonical MNIST file") as caught:
        mnist.read("train", place)
    assert hashlib.sha256(other).hexdigest() in str(caught.value)
    assert hashlib.sha256(tiny[NAMES[0]]).hexdigest() in str(caught.value)


def test_prepare_downloads_to_the_cache_by_default(server: Server, tmp_path: Path) -> None:
    names: list[str] = []
    place = mnist.prepare(progress=lambda name, done, total: names.append(name), backoff=())
    assert place == tmp_path / "cache" / "data" / "mnist"
    assert mnist.locate() == place
    assert set(names) == {f"{name}.gz" for name in NAMES}
    assert len(mnist.read("test", place).images) == 5
    asked = len(server.seen)
    assert mnist.prepare() == place
    assert len(server.seen) == asked, "what is there is not fetched again"


@pytest.mark.parametrize("zipped", [True, False])
def test_prepare_replaces_a_damaged_file_and_fetches_a_missing_one(
    server: Server, tiny: dict[str, bytes], tmp_path: Path, zipped: bool
) -> None:
    place = write(tmp_path / "mnist", tiny, zipped)
    end = ".gz" if zipped else ""
    damaged = place / (NAMES[0] + end)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    (place / (NAMES[3] + end)).unlink()
    assert mnist.prepare(tmp_path, backoff=()) == place
    assert [path for path, _ in server.seen] == [f"/pub/mnist/{NAMES[0]}.gz", f"/pub/mnist/{NAMES[3]}.gz"]
    assert len(mnist.read("train", place).images) == 9
    assert len(list(place.iterdir())) == 4


def test_an_own_mirror_is_asked_first(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALORA_MIRROR", server.url("/own"))
    mnist.prepare(tmp_path, backoff=())
    asked = [path for path, _ in server.seen]
    assert asked[:2] == [f"/own/mnist/{NAMES[0]}.gz", f"/pub/mnist/{NAMES[0]}.gz"]


def test_a_failed_download_tells_how_to_do_without(server: Server, tmp_path: Path) -> None:
    server.files.clear()
    with pytest.raises(PaloraError, match=r"train-images-idx3-ubyte\.gz.*HTTP 404.*--data DIR or PALORA_DATA"):
        mnist.prepare(tmp_path, backoff=())


def test_a_wrong_file_on_every_mirror_is_removed(server: Server, tmp_path: Path) -> None:
    server.files[f"/pub/mnist/{NAMES[0]}.gz"] = gzip.compress(b"something else" * 1000)
    with pytest.raises(PaloraError, match=r"wrong checksum \(expected sha256 .*found .*removed"):
        mnist.prepare(tmp_path, backoff=())
    assert list((tmp_path / "mnist").iterdir()) == []


@needs_mnist
def test_download_of_the_real_files(complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canonical checksums hold for a transfer that starts with an error and a dropped connection."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as running:
        for name in NAMES:
            path = mnist._present(complete, next(file for file in mnist._FILES if file.name == name))
            assert path is not None
            data = path.read_bytes()
            running.files[f"/mnist/{name}.gz"] = data if path.suffix == ".gz" else gzip.compress(data, 1)
        running.faults[f"/mnist/{NAMES[0]}.gz"] = ["500", "drop"]
        monkeypatch.setattr(mnist, "MIRRORS", (running.url("/mnist/"),))
        place = mnist.prepare(tmp_path / "new", backoff=(0.0, 0.0))
    assert np.bincount(mnist.read("train", place).labels).tolist() == TRAIN_COUNTS
    shutil.rmtree(place)
