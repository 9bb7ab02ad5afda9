from __future__ import annotations

import gzip
import hashlib
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback import Server, serve

from palora.data.download import fetch
from palora.errors import PaloraError

CONTENT = np.random.default_rng(0).integers(256, size=700_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as running:
        running.files["/a"] = running.files["/b"] = CONTENT
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "digits"


def get(server: Server, target: Path, *paths: str, **options: object) -> tuple[Path, list[float]]:
    """Fetch without waiting; also returns the waits there would have been."""
    waits: list[float] = []
    settings = {"sha256": SHA256, "backoff": (1.0, 2.0), "sleep": waits.append, **options}
    return fetch([server.url(path) for path in paths], target, **settings), waits  # type: ignore[arg-type]


def assert_delivered(target: Path) -> None:
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name], "no partial file is left"


def test_delivers_and_reports_progress(server: Server, target: Path) -> None:
    steps: list[tuple[str, int, int | None]] = []
    path, waits = get(server, target, "/a", size=len(CONTENT), progress=lambda *step: steps.append(step))
    assert path == target
    assert_delivered(target)
    assert waits == []
    assert steps[0] == ("digits", 0, len(CONTENT))
    assert steps[-1] == ("digits", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)


@pytest.mark.parametrize("fault", ["500", "503", "429"])
def test_tries_again_after_a_server_error(server: Server, target: Path, fault: str) -> None:
    server.faults["/a"] = [fault, fault]
    _, waits = get(server, target, "/a")
    assert_delivered(target)
    assert waits == [1.0, 2.0]


def test_gives_up_after_the_last_wait_and_says_why(server: Server, target: Path) -> None:
    server.faults["/a"] = ["500"] * 3
    with pytest.raises(PaloraError, match=r"Cannot download digits.*HTTP 500.*Do this instead\.$"):
        get(server, target, "/a", remedy="Do this instead.")
    assert len(server.seen) == 3
    assert not target.exists()


def test_a_dropped_connection_is_continued(server: Server, target: Path) -> None:
    server.faults["/a"] = ["drop"]
    get(server, target, "/a")
    assert_delivered(target)
    assert server.seen == [("/a", None), ("/a", f"bytes={len(CONTENT) // 2}-")]


def test_a_later_call_continues_where_an_earlier_one_gave_up(server: Server, target: Path) -> None:
    server.faults["/a"] = ["drop"]
    with pytest.raises(PaloraError, match=r"broke off after 350,000 of 700,000 bytes"):
        get(server, target, "/a", backoff=())
    assert not target.exists()
    get(server, target, "/a")
    assert_delivered(target)
    assert server.seen[-1] == ("/a", "bytes=350000-")


def test_a_finished_partial_file_is_only_verified(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("digits.part").write_bytes(CONTENT)
    get(server, target, "/a")
    assert_delivered(target)
    assert server.seen == [("/a", "bytes=700000-")]


def test_a_partial_file_longer_than_the_servers_is_dropped(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("digits.part").write_bytes(CONTENT + b"more")
    get(server, target, "/a")
    assert_delivered(target)
    assert server.seen[-1] == ("/a", None)


@pytest.mark.parametrize("fault", ["no-range", "wrong-range"])
def test_a_server_that_does_not_continue_is_asked_for_everything(server: Server, target: Path, fault: str) -> None:
    server.faults["/a"] = ["drop", fault]
    get(server, target, "/a")
    assert_delivered(target)


def test_a_partial_file_of_something_else_is_started_over(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("digits.part").write_bytes(b"x" * 1000)
    get(server, target, "/a")
    assert_delivered(target)
    assert [asked for _, asked in server.seen] == ["bytes=1000-", None]


def test_wrong_checksum_is_named_and_the_file_removed(server: Server, target: Path) -> None:
    wrong = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    server.files["/a"] = wrong
    with pytest.raises(PaloraError) as caught:
        get(server, target, "/a", remedy="Name a folder with --data DIR.")
    message = str(caught.value)
    for part in ("digits", SHA256, hashlib.sha256(wrong).hexdigest(), "removed", "--data DIR"):
        assert part in message
    assert len(server.seen) == 1, "the same wrong file is not fetched twice"
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("trouble", ["404", "wrong", "500", "drop"])
def test_the_next_mirror_steps_in(server: Server, target: Path, trouble: str) -> None:
    if trouble == "wrong":
        server.files["/a"] = CONTENT[::-1]
    else:
        server.faults["/a"] = [trouble] * 3
    get(server, target, "/a", "/b")
    assert_delivered(target)
    asked = [path for path, _ in server.seen]
    assert asked == ["/a"] * (1 if trouble in ("404", "wrong") else 3) + ["/b"]


def test_a_truncated_file_without_announced_length_is_noticed(server: Server, target: Path) -> None:
    server.faults["/a"] = ["short"]
    with pytest.raises(PaloraError, match=r"truncated \(350,000 of 700,000 bytes\)"):
        get(server, target, "/a", size=len(CONTENT), backoff=())
    assert list(target.parent.iterdir()) == []
    server.faults["/a"] = ["short"]
    get(server, target, "/a", size=len(CONTENT))
    assert_delivered(target)


def test_gzipped_files_are_checked_by_what_is_inside(server: Server, target: Path) -> None:
    for level in (1, 9):
        server.files["/a"] = gzip.compress(CONTENT, level)
        get(server, target, "/a", gzipped=True, size=len(CONTENT))
        assert gzip.decompress(target.read_bytes()) == CONTENT
    server.files["/a"] = gzip.compress(CONTENT)[:-100]
    with pytest.raises(PaloraError, match=r"truncated .*gzip stream has not ended"):
        get(server, target, "/a", gzipped=True)
    server.files["/a"] = b"<html>please log in</html>"
    with pytest.raises(PaloraError, match="not a sound gzip file"):
        get(server, target, "/a", gzipped=True)


def test_an_earlier_file_survives_a_failed_download(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"old")
    server.files["/a"] = b"wrong"
    with pytest.raises(PaloraError, match="wrong checksum"):
        get(server, target, "/a")
    assert target.read_bytes() == b"old"


def test_without_a_network_one_sentence_says_so(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", no_name)
    with pytest.raises(PaloraError, match=r"no mirror could be reached.*Name or service.*--data DIR") as caught:
        get(server, target, "/a", "/b", remedy="Name a folder with --data DIR.")
    assert "\n" not in str(caught.value)


def test_a_closed_port_counts_as_unreachable(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a"
        with pytest.raises(PaloraError, match="no mirror could be reached"):
            fetch([url], target, sha256=SHA256)


def test_no_mirror_and_no_folder_are_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`urls`"):
        fetch([], tmp_path / "x", sha256=SHA256)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PaloraError, match=r"Cannot make the folder .*file"):
        get(server, tmp_path / "file" / "x", "/a")
