"""Standard output and error whose reader may leave, as in `palora recipes | head -1`, or that are closed."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

READER_LEFT = 141
"""The exit status: what a shell shows of a program that SIGPIPE ended."""


class ReaderLeft(BaseException):
    """Nobody reads what is printed: the command ends. No OSError, which the libraries of the command line would
    answer themselves."""


class Output:
    """A text stream that ends the command when its reader has left, or drops what is printed from then on."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.outlives = False
        """Whether the command goes on without a reader."""

    def write(self, text: str) -> int:
        with self._reader():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._reader():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextmanager
    def _reader(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: the terminal is gone
                raise
            self._drop()
            if not self.outlives:
                raise ReaderLeft from None

    def _drop(self) -> None:
        """Lead the stream nowhere, so that nothing that is still to come fails."""
        with suppress(OSError, ValueError):  # ValueError: a stream without a file, as of a test
            number = self.stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, sys.stdout and sys.stderr are an `Output`; raises ReaderLeft, also for what was only buffered."""
    before = sys.stdout, sys.stderr
    streams = [None if stream is None else Output(stream) for stream in before]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    try:
        yield
        for stream in filter(None, streams):
            stream.flush()
    finally:
        sys.stdout, sys.stderr = before


def outlive_reader() -> None:
    """From now on a reader that leaves does not end the command: it has files to write."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Output):
            stream.outlives = True
