"""The IDX format of MNIST.

A big-endian header (two zero bytes, the type, the number of dimensions, their sizes), then the values.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palora.errors import PaloraError
from palora_kernels.reading import NotAFileError, read_bytes

GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08


def unpacked(path: Path, most: int = 2**28) -> bytes:
    """The bytes of a file, unzipped if it is a gzip file (told by its first bytes, whatever its name).

    Raises:
        PaloraError: the file cannot be read, is cut short, is damaged, or has more than `most` bytes, unzipped.
    """
    try:
        data = read_bytes(path, most)
        if not data.startswith(GZIP_MAGIC):
            return data
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            content = file.read(most + 1)
    except NotAFileError as error:
        raise PaloraError(f"{path} cannot be read: {error}.") from error
    except ValueError as error:
        raise PaloraError(f"{path} is another file under this name: {error}.") from error
    except EOFError as error:
        raise PaloraError(
            f"{path} is cut short: the gzip stream ends before its end mark ({path.stat().st_size:,} bytes are here)."
        ) from error
    except (gzip.BadGzipFile, zlib.error, struct.error) as error:
        raise PaloraError(f"{path} is damaged: it does not unzip ({error}).") from error
    except OSError as error:
        raise PaloraError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(content) > most:
        raise PaloraError(f"{path} is another file under this name: unzipped it has more than {most:,} bytes.")
    return content


def parse_idx(data: bytes, name: str | Path) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file's bytes; `name` is for messages.

    Raises:
        PaloraError: wrong magic number, another value type, or more or fewer bytes than the header announces.
    """
    if len(data) < 4 or data[:2] != b"\0\0":
        raise PaloraError(f"{name} is not an IDX file: it starts with {data[:8]!r} in place of two zero bytes.")
    kind, dimensions = data[2], data[3]
    if kind != _UNSIGNED_BYTE or dimensions < 1:
        raise PaloraError(
            f"{name}: an IDX file of unsigned bytes (type 0x08, at least one dimension) was expected. "
            f"Found type {kind:#04x} with {dimensions} dimensions."
        )
    header = 4 + 4 * dimensions
    if len(data) < header:
        raise PaloraError(f"{name} is cut short: its IDX header needs {header} bytes, {len(data)} are here.")
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    expected = int(np.prod(shape, dtype=object))
    if len(data) - header != expected:
        raise PaloraError(
            f"{name} is damaged: its header announces {' × '.join(map(str, shape))} = {expected:,} bytes "
            f"of values, {len(data) - header:,} are here."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not. Errors as `unpacked` and `parse_idx`."""
    return parse_idx(unpacked(path), path)
