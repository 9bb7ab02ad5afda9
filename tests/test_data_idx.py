from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from palora.data.idx import read_idx
from palora.errors import PaloraError

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "raw"])
def test_reads_gzipped_and_raw_files(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "digits"
    path.write_bytes(pack(idx(ARRAY)))
    np.testing.assert_array_equal(read_idx(path), ARRAY)


ZIPPED = gzip.compress(idx(ARRAY))
DAMAGED = {
    "cut in the gzip stream": (ZIPPED[:-9], "cut short"),
    "cut in the gzip trailer": (ZIPPED[:-3], "cut short"),
    "cut in the gzip header": (ZIPPED[:5], "cut short"),
    "wrong gzip checksum": (ZIPPED[:-8] + bytes(8), "damaged"),
    "damaged gzip stream": (ZIPPED[:12] + b"\xff\xff\xff" + ZIPPED[15:], "damaged"),
    "cut in the values": (idx(ARRAY)[:-1], "2 × 3 × 4 = 24 bytes of values, 23 are here"),
    "too many values": (idx(ARRAY) + b"\0", "24 bytes of values, 25 are here"),
    "cut in the header": (idx(ARRAY)[:10], "needs 16 bytes, 10 are here"),
    "another type": (idx(ARRAY, kind=0x0D), "type 0x0d"),
    "no dimensions": (bytes([0, 0, 8, 0]), "0 dimensions"),
    "a web page": (b"<html>", "<html>"),
    "empty": (b"", "not an IDX file"),
}


@pytest.mark.parametrize("content, message", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_named_with_the_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "digits.gz"
    path.write_bytes(content)
    with pytest.raises(PaloraError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PaloraError, match=r"nothing-here.*No such file"):
        read_idx(tmp_path / "nothing-here")
