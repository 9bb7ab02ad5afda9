"""A pytest plugin: no test reads or writes the folder pytest was started in, HOME, or the user's caches.

Every test runs in an empty folder of its own, and HOME is an empty folder that the processes of a run share, so that
what one of them prepared need not be made again. What is kept from run to run lies in pytest's own cache,
`.pytest_cache`: the C++ extension, what Triton compiled, and the examples that hypothesis found; the first two are
stored under a hash of all they depend on. PALORA_DATA stays: it names data sets that are only read.

The run fails if something appeared in the user's places all the same: by an absolute path, or from a process that was
started without the variables. Under xdist the process that starts the workers makes the folders, and looks when the
last worker has ended.
"""

from __future__ import annotations

import getpass
import os
import shutil
import site
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

FOLDER = "PALORA_TEST_FOLDER"  # the folder of the run; set for its workers, and for runs of pytest inside a test
LEAD_ELSEWHERE = (  # without them everything is below HOME
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "PALORA_CACHE", "PALORA_TUNING"),
    *("MPLCONFIGDIR", "TORCH_HOME", "TRITON_HOME", "CUDA_CACHE_PATH"),
)
NOT_WATCHED = {  # of Python, pytest and other tools
    *(".venv", ".venv-2.11", ".venv-oldest"),
    *(".git", "build", "palora.egg-info", "__pycache__", ".pytest_cache", ".benchmarks", ".mypy_cache"),
    ".ruff_cache",
}
WATCHED = pytest.StashKey["Watched"]()


def pytest_configure(config: pytest.Config) -> None:
    if FOLDER in os.environ:  # a worker, or a run inside a test: whoever set it looks
        return
    config.stash[WATCHED] = Watched(config)
    folder = Path(tempfile.mkdtemp(prefix="palora-tests-"))
    patch = pytest.MonkeyPatch()
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(patch.undo)
    for name in LEAD_ELSEWHERE:
        patch.delenv(name, raising=False)
    for name, value in _environment(config, folder).items():
        patch.setenv(name, value)


def _environment(config: pytest.Config, folder: Path) -> dict[str, str]:
    (folder / "home").mkdir()
    cache = getattr(config, "cache", None)  # none under -p no:cacheprovider
    kept = folder if cache is None else Path(cache.mkdir("palora"))
    found = {
        FOLDER: str(folder),
        "HOME": str(folder / "home"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(kept / "triton"),
        "TORCH_EXTENSIONS_DIR": str(kept / "torch_extensions"),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(kept / "hypothesis"),
        "PYTHONUSERBASE": site.getuserbase(),  # packages installed there are still found
    }
    started = config.invocation_params.dir
    if os.environ.get("PALORA_DATA"):
        found["PALORA_DATA"] = str(started / Path(os.environ["PALORA_DATA"]).expanduser())
    if os.environ.get("PYTHONPATH"):
        found["PYTHONPATH"] = os.pathsep.join(str(started / p) for p in os.environ["PYTHONPATH"].split(os.pathsep))
    return found


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Around the fixtures too, whatever their scope; and no `monkeypatch.undo` of a test leads back."""
    before, folder = os.getcwd(), tempfile.mkdtemp(prefix="cwd-", dir=os.environ[FOLDER])
    os.chdir(folder)
    try:
        return (yield)
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(trylast=True)  # after xdist, which waits for its workers there
def pytest_sessionfinish(session: pytest.Session) -> None:
    if WATCHED not in session.config.stash:
        return
    watched = session.config.stash[WATCHED]
    appeared = _appeared(session.config, watched.before, watched.listing())
    if not appeared:
        return
    text = (
        "No test should write the folder pytest was started in, HOME, or the user's caches. Since the start there "
        "appeared or changed, by a test or by another program:\n" + "\n".join(f"    {path}" for path in appeared)
    )
    name = "the whole run"
    report = pytest.TestReport(name, (name, None, name), {}, "failed", text, "teardown")
    session.config.hook.pytest_runtest_logreport(report=report)
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _appeared(config: pytest.Config, before: Mapping[Path, int], after: Mapping[Path, int]) -> list[Path]:
    """The topmost new paths and the changed files, but for what the command line named, such as --junitxml=FILE."""
    named = [config.invocation_params.dir / str(word).rpartition("=")[2] for word in config.invocation_params.args]
    asked = {path for file in named for path in (file, *file.parents)}
    new = after.keys() - before.keys()
    changed = {path for path in after.keys() & before.keys() if after[path] != before[path]}
    return sorted(changed | {path for path in new if path.parent not in new and path not in asked})


class Watched:
    """The user's places, found before the environment is changed."""

    def __init__(self, config: pytest.Config) -> None:
        environ, started, home = os.environ, config.invocation_params.dir, Path.home()
        caches = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
        settings = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        inductor = Path(tempfile.gettempdir()) / f"torchinductor_{_user()}"
        self.checkout = config.rootpath
        self.names = {started, home, caches, settings}
        self.contents = {
            *(started / "runs", home / ".cache" / "palora", caches / "palora"),
            Path(environ.get("PALORA_CACHE") or caches / "palora").expanduser(),
        }
        self.shared = {
            Path(environ.get("TORCH_EXTENSIONS_DIR") or caches / "torch_extensions") / "palora",
            Path(environ.get("TORCH_HOME") or caches / "torch"),
            Path(environ.get("TORCHINDUCTOR_CACHE_DIR") or inductor),
            Path(environ.get("TRITON_CACHE_DIR") or Path(environ.get("TRITON_HOME") or home) / ".triton"),
            Path(environ.get("MPLCONFIGDIR") or settings / "matplotlib"),
        }
        self.before = self.listing()

    def listing(self) -> dict[Path, int]:
        """Every path, with its time of change in `contents`; elsewhere 0, for there a person edits files.

        Caches that many programs fill, of Triton for one, are watched for their own appearance: any training beside
        the tests, or another checkout that builds its extension, puts something there.
        """
        found = {path: 0 for place in self.names if place.is_dir() for path in place.iterdir()}
        found.update((path, 0) for path in self.shared if path.exists())
        found.update((path, 0) for path in _below(self.checkout))
        found.update((path, _time(path)) for place in self.contents for path in _below(place))
        return {path: time for path, time in found.items() if path.name not in NOT_WATCHED}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "nobody"


def _below(place: Path) -> list[Path]:
    skipped = {Path(sys.prefix)}
    found = []
    for folder, folders, files in os.walk(place):
        folders[:] = [name for name in folders if name not in NOT_WATCHED and Path(folder, name) not in skipped]
        found += [Path(folder, name) for name in (*folders, *files)]
    return found


def _time(path: Path) -> int:
    try:
        return 0 if path.is_dir() else path.lstat().st_mtime_ns
    except FileNotFoundError:  # gone since its folder was read
        return 0
