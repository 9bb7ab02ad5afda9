"""MNIST: the four canonical files, found or downloaded, and verified by their unzipped content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from palora.data.download import Progress
from palora.data.entry import Entry, Folder
from palora.data.idx_source import Digits, IdxSource
from palora.data.idx_source import File as _File
from palora.data.idx_source import present as _present  # noqa: F401  (for tests)

BUNDLED = Path(__file__).parent / "bundled"
"""Folder of the package with the 10,000 test digits."""

LICENCE = "CC BY-SA 3.0 (as usually cited)"

MIRRORS: tuple[str, ...] = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

_PARTS = {
    "train": (
        _File(
            "train-images-idx3-ubyte",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            47_040_016,
        ),
        _File(
            "train-labels-idx1-ubyte",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            60_008,
        ),
    ),
    "test": (
        _File(
            "t10k-images-idx3-ubyte",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            7_840_016,
        ),
        _File(
            "t10k-labels-idx1-ubyte",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            10_008,
        ),
    ),
}
_FILES = tuple(file for pair in _PARTS.values() for file in pair)


def source() -> IdxSource:
    """The four files as an :class:`IdxSource`."""
    # MNIST/raw is where torchvision puts the files.
    return IdxSource("mnist", "MNIST", "mnist", _PARTS, MIRRORS, also=("MNIST/raw",))


def locate(folder: Folder = None) -> Path | None:
    """The folder in or below the data root in which all four files lie, gzipped or not; else None."""
    return source().locate(folder)


def require(folder: Folder = None) -> Path:
    """As `locate`, but raises a `PaloraError` that says what is missing, where, and how to get it."""
    return source().require(folder)


def read(part: str, place: Path) -> Digits:
    """Read and verify the "train" (60,000) or "test" (10,000) digits in the folder `place`.

    Raises:
        PaloraError: a file is missing, damaged, or well-formed but not the canonical one.
    """
    return source().read(part, place)


def prepare(
    folder: Folder = None, progress: Progress | None = None, *, backoff: Sequence[float] = (0.5, 1.0, 2.0)
) -> Path:
    """Make the four files present and verified; returns the folder they lie in (`IdxSource.prepare`)."""
    return source().prepare(folder, progress, backoff=backoff)


ENTRY = Entry(
    name="mnist",
    needs="four files (download)",
    licence=LICENCE,
    size="11 MB",
    locate=locate,
    prepare=prepare,
)
