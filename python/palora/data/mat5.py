"""Read a matrix of numbers from a MATLAB 5.0 file: as much of the format as published data sets need.

A header of 128 bytes, then elements: a tag (type, length) and data padded to eight bytes. A matrix is an
element that holds four others: flags, dimensions, name, values (column by column). Elements may be zipped.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palora.errors import PaloraError
from palora_kernels.reading import read_bytes

_HEADER = 128
_MOST = 2**28  # bytes of a file, and of an element, unzipped
_MATRIX, _ZIPPED = 14, 15
_VALUES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


def read_matrix(path: Path, name: str) -> NDArray[np.float64]:
    """The two-dimensional real matrix called `name` in the file, as float64.

    Raises:
        PaloraError: the file cannot be read, is cut short or of another format, or has no such matrix.
    """
    try:
        data = read_bytes(path, _MOST)
    except (OSError, ValueError) as error:
        raise PaloraError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(data) < _HEADER or data[126:128] not in (b"IM", b"MI"):
        raise PaloraError(f"{path} is not a MATLAB 5.0 file: it has no such header ({len(data):,} bytes are here).")
    order = "<" if data[126:128] == b"IM" else ">"
    found = []
    try:
        for kind, content in _elements(data[_HEADER:], order):
            if kind == _ZIPPED:
                kind, content = next(_elements(_unzipped(content), order))
            if kind != _MATRIX:
                continue
            title, matrix = _matrix(content, order)
            if title == name and matrix is not None:
                return matrix
            found.append(title)
    except (_CutShortError, zlib.error, struct.error, ValueError, TypeError, OverflowError, StopIteration) as error:
        raise PaloraError(f"{path} is cut short or damaged ({str(error) or 'an element is missing'}).") from error
    raise PaloraError(f"{path} has no matrix of numbers called '{name}'. It holds: {', '.join(found) or 'nothing'}.")


def _unzipped(content: bytes) -> bytes:
    unzip = zlib.decompressobj()
    data = unzip.decompress(content, _MOST)
    if unzip.unconsumed_tail:
        raise ValueError(f"an element of more than {_MOST:,} bytes")
    if not unzip.eof:
        raise _CutShortError("a zipped element ends before its end mark")
    return data


class _CutShortError(Exception):
    pass


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """(type, data) of each element, one after the other."""
    place = 0
    while place < len(data):
        first, length = struct.unpack_from(order + "II", data, place)
        if first >> 16:  # the short form: length and type in one word, up to four bytes of data beside it
            yield first & 0xFFFF, data[place + 4 : place + 4 + (first >> 16)]
            place += 8
            continue
        place += 8
        if place + length > len(data):
            raise _CutShortError(f"an element of {length:,} bytes, {len(data) - place:,} of them here")
        yield first, data[place : place + length]
        # A zipped element is not padded, all others are.
        place += length if first == _ZIPPED else -(-length // 8) * 8


def _matrix(content: bytes, order: str) -> tuple[str, NDArray[np.float64] | None]:
    """Name and values; None for what is not a two-dimensional real matrix of numbers."""
    parts = list(_elements(content, order))
    flags, dimensions, title = (part[1] for part in parts[:3])
    shape = np.frombuffer(dimensions, dtype=order + "i4")
    name = title.decode("ascii", "replace")
    real = not struct.unpack(order + "I", flags[:4])[0] & 0x0800
    if len(shape) != 2 or not real or len(parts) < 4 or parts[3][0] not in _VALUES:
        return name, None
    if shape.min() < 0:
        raise ValueError(f"a matrix of {shape[0]} × {shape[1]}")
    values = np.frombuffer(parts[3][1], dtype=order + _VALUES[parts[3][0]])
    return name, values.astype(np.float64).reshape(tuple(shape), order="F")
