"""Fetch one file from several mirrors: resumed, retried, checked, and only then given its name.

Standard library only. The transfer goes to `<target>.part`, which survives an interruption and is continued
by an HTTP Range request; the checksum is what decides whether the pieces make the file.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from palora.data.folder import ensure_folder
from palora.data.idx import GZIP_MAGIC
from palora.errors import PaloraError
from palora_kernels.files import put
from palora_kernels.reading import NotAFileError, open_file

Progress = Callable[[str, int, int | None], None]
"""Called with (what, done, total or None): bytes of a download, pairs of a set being built."""

_CHUNK = 1 << 18
_BEYOND = 1 << 26  # what is longer than it should be by more than this is not read to its end
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}


class ContentError(Exception):
    """A file does not hold what its checksum says; the message says what is wrong."""


class TruncatedError(ContentError):
    """The beginning of a file is here, not all of it."""


class _Transient(Exception):
    """Another try at the same mirror may help."""


class _Refused(Exception):
    """This mirror will not do."""


class _Unreachable(_Refused):
    """This mirror cannot even be reached."""


@dataclass(frozen=True)
class _Job:
    target: Path
    sha256: str
    size: int | None
    gzipped: bool
    backoff: tuple[float, ...]
    timeout: float
    progress: Progress | None
    sleep: Callable[[float], None]

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")


def fetch(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str,
    size: int | None = None,
    gzipped: bool = False,
    remedy: str = "",
    backoff: Sequence[float] = (0.5, 1.0, 2.0),
    timeout: float = 30.0,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Download `target` from the first of `urls` that delivers the right content.

    Args:
        sha256, size: of the content; with `gzipped`, of the *unzipped* content, because mirrors may have
            compressed the same bytes differently.
        remedy: sentence that ends the error message: how to do without this download.
        backoff: seconds to wait before each further try at the same mirror; as many tries as it has entries.
        progress: called with (file name, bytes so far, bytes in all or None).

    Returns:
        `target`, which is complete and verified whenever it exists: it appears by an atomic rename.

    Raises:
        PaloraError: no mirror delivered (with the reason of each), or the file cannot be written. Wrong
            content is removed; a transfer that merely broke off stays as `.part` and is continued next time.
    """
    if not urls:
        raise ValueError("`urls` should name at least one mirror. Found none.")
    ensure_folder(target.parent)
    job = _Job(target, sha256.lower(), size, gzipped, tuple(backoff), timeout, progress, sleep)
    failures: list[str] = []
    reached = False
    for url in urls:
        try:
            _from_mirror(job, url)
            put(job.part, target)
            return target
        except (_Transient, _Refused, ContentError) as error:
            reached = reached or not isinstance(error, _Unreachable)
            failures.append(f"{url}: {error}")
    why = "no mirror delivered it" if reached else "no mirror could be reached (is there a network?)"
    raise PaloraError(f"Cannot download {target.name}: {why}. {'; '.join(failures)}. {remedy}".rstrip())


def check_content(path: Path, *, sha256: str, size: int | None = None, gzipped: bool = False) -> None:
    """Raise `ContentError` unless the file's content is what `sha256` and `size` say (see `fetch`)."""
    digest, length = hashlib.sha256(), 0
    try:
        with open_file(path) as raw, gzip.GzipFile(fileobj=raw) if gzipped else raw as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                length += len(chunk)
                if size is not None and length > size + _BEYOND:
                    raise ContentError(f"more than {size:,} bytes")
    except EOFError as error:
        here = path.stat().st_size
        raise TruncatedError(f"truncated ({here:,} bytes are here and the gzip stream has not ended)") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ContentError(f"not a sound gzip file ({error})") from error
    except (OSError, NotAFileError) as error:
        raise ContentError(f"unreadable ({getattr(error, 'strerror', None) or error})") from error
    if size is not None and length < size:
        raise TruncatedError(f"truncated ({length:,} of {size:,} bytes)")
    if digest.hexdigest() != sha256:
        raise ContentError(f"wrong checksum (expected sha256 {sha256}, found {digest.hexdigest()})")


def sound(path: Path, *, sha256: str, size: int | None = None) -> bool:
    """Whether the content of `path`, unzipped if it is a gzip file, is what `sha256` and `size` say."""
    try:
        with open_file(path) as opened:
            gzipped = opened.read(2) == GZIP_MAGIC
        check_content(path, sha256=sha256, size=size, gzipped=gzipped)
    except (ContentError, OSError, NotAFileError):
        return False
    return True


def _from_mirror(job: _Job, url: str) -> None:
    """Leave the whole, verified file in `job.part`, or raise."""
    for wait in (*job.backoff, None):
        resumed = job.part.exists() and job.part.stat().st_size > 0
        try:
            _transfer(job, url)
            _verify(job)
            return
        except _Transient:
            if wait is None:
                raise
        except ContentError:
            # A fresh wrong copy will be wrong again; one pieced together may mix two files: start over.
            if not resumed or wait is None:
                raise
        job.sleep(wait)


def _verify(job: _Job) -> None:
    try:
        check_content(job.part, sha256=job.sha256, size=job.size, gzipped=job.gzipped)
    except ContentError as error:
        job.part.unlink(missing_ok=True)
        kind = _Transient if isinstance(error, TruncatedError) else ContentError
        raise kind(f"{error}; the file was removed") from error


def _transfer(job: _Job, url: str) -> None:
    """One request: append what is missing to `job.part`, or write it anew if the server will not continue."""
    start = job.part.stat().st_size if job.part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "palora", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=job.timeout)
    except urllib.error.HTTPError as error:
        _on_status(job, error, start)
        return
    except (OSError, http.client.HTTPException) as error:
        raise _network_error(error) from error
    with response:
        continues = response.status == 206 and _range_start(response.headers.get("Content-Range")) == start
        if start and not continues:
            start = 0
        if response.status == 206 and not continues:
            # A range that was not asked for: drop what is here, so that the next try asks for everything.
            job.part.unlink(missing_ok=True)
            raise _Transient("the server sent another range than the one asked for")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        try:
            with open(job.part, "ab" if start else "wb") as file:
                _copy(job, response, file, start, total)
        except OSError as error:
            # What the network raised has become a _Transient or _Refused by now: this is the disk.
            raise PaloraError(f"Cannot write {job.part}: {error.strerror or error}.") from error


def _copy(job: _Job, response: IO[bytes], file: IO[bytes], done: int, total: int | None) -> None:
    if job.progress:
        job.progress(job.target.name, done, total)
    while True:
        try:
            chunk = response.read(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _network_error(error) from error
        if not chunk:
            break
        file.write(chunk)
        done += len(chunk)
        if job.progress:
            job.progress(job.target.name, done, total)
    if total is not None and done < total:
        raise _Transient(f"the connection broke off after {done:,} of {total:,} bytes")


def _on_status(job: _Job, error: urllib.error.HTTPError, start: int) -> None:
    """Sort an HTTP error; returns only if the partial file is already as long as the server's."""
    error.close()
    if error.code == 416 and start:
        announced = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        if announced == str(start):
            return
        job.part.unlink()
        raise _Transient("the partial file was not a beginning of the server's; it was removed")
    message = f"HTTP {error.code} {error.reason}"
    raise _Transient(message) if error.code in _WORTH_ANOTHER_TRY else _Refused(message)


def _range_start(header: str | None) -> int | None:
    """`bytes 100-199/200` → 100."""
    first = (header or "").removeprefix("bytes").strip().partition("-")[0]
    return int(first) if first.isdigit() else None


def _network_error(error: Exception) -> Exception:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    cause = reason if isinstance(reason, Exception) else Exception(reason)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _Refused(f"its certificate was not accepted ({cause.verify_message})")
    unreachable = isinstance(cause, OSError) and cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    if unreachable or isinstance(cause, (socket.gaierror, ConnectionRefusedError)):
        return _Unreachable(str(getattr(cause, "strerror", None) or cause))
    if isinstance(cause, TimeoutError):
        return _Transient("no answer in time")
    return _Transient(str(cause) or type(cause).__name__)
