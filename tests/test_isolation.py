"""What the tests leave behind is noticed (isolation.py): runs of pytest over planted tests, in a user's home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import isolation
import pytest

TESTS = Path(__file__).parent


def run(user: Path, body: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """pytest, started in the user's checkout as nobody's child: one test with this body, among others."""
    checkout = user / "checkout"
    checkout.mkdir(parents=True, exist_ok=True)
    (checkout / "pytest.ini").touch()
    (checkout / "test_planted.py").write_text(
        "import os, time\nfrom pathlib import Path\nimport pytest\n"
        "@pytest.mark.parametrize('i', range(3))\ndef test_others(i):\n    time.sleep(i / 10)\n"
        f"def test_planted(monkeypatch, tmp_path):\n    {body}\n"
    )
    given = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")}
    given |= {"HOME": str(user), "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]), **environment}
    command = [sys.executable, "-m", "pytest", "-p", "isolation", *arguments]
    return subprocess.run(command, cwd=checkout, env=given, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_files_in_places_of_the_user_fail_the_run(workers: tuple[str, ...], tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("checkout/tests", "checkout/runs", "", ".cache/palora/prepared")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    done = run(tmp_path, f"[Path(place, 'planted').touch() for place in {[str(place) for place in places]}]", *workers)
    assert done.returncode == 1, done.stdout
    for place in places:
        assert f"    {place / 'planted'}\n" in done.stdout
    assert "4 passed, 1 error" in done.stdout


def test_a_cache_that_appears_fails_the_run(tmp_path: Path) -> None:
    """A process without the variables finds HOME in the list of users; here the planted test says where that is."""
    done = run(tmp_path, f"Path({str(tmp_path)!r}, '.triton/cache/kernel').mkdir(parents=True)")
    assert done.returncode == 1, done.stdout
    assert f"    {tmp_path / '.triton'}\n" in done.stdout


def test_a_changed_file_of_a_run_fails_the_run(tmp_path: Path) -> None:
    front = tmp_path / "checkout" / "runs" / "demo" / "front.json"
    front.parent.mkdir(parents=True)
    front.write_text("{}")
    done = run(tmp_path, f"Path({str(front)!r}).write_text('[]')")
    assert done.returncode == 1, done.stdout
    assert f"    {front}\n" in done.stdout


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_the_working_folder_home_and_caches_of_a_test_are_its_own(workers: tuple[str, ...], tmp_path: Path) -> None:
    body = (
        "monkeypatch.chdir(tmp_path); monkeypatch.undo(); assert os.listdir() == []; Path('runs').mkdir();"
        "Path('~/.cache/palora').expanduser().mkdir(parents=True, exist_ok=True);"
        "(Path.home() / 'file').touch(); Path(os.environ['TRITON_CACHE_DIR'], 'x').mkdir(parents=True);"
        "assert not os.environ.keys() & {'PALORA_CACHE', 'XDG_CACHE_HOME'}"
    )
    environment = {"PALORA_CACHE": str(tmp_path / "cache"), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    done = run(tmp_path, body, *workers, "--junitxml=reports/junit.xml", **environment)
    assert done.returncode == 0, done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"checkout"}
    made = {path.name for path in (tmp_path / "checkout").iterdir()}
    assert made - {"__pycache__", ".benchmarks"} == {"pytest.ini", "test_planted.py", ".pytest_cache", "reports"}


def test_relative_names_in_the_environment_still_mean_the_same(tmp_path: Path) -> None:
    body = f"assert os.environ['PALORA_DATA'] == {str(tmp_path / 'checkout' / 'data')!r}"
    done = run(tmp_path, body, PALORA_DATA="data")
    assert done.returncode == 0, done.stdout


def test_this_run_is_isolated_too(pytestconfig: pytest.Config) -> None:
    folder = Path(os.environ[isolation.FOLDER])
    assert Path.cwd().parent == folder.resolve()
    assert Path.home() == folder / "home"
    assert not list(Path.cwd().iterdir())
