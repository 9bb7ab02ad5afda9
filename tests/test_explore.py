"""`palora explore`: it answers as the model does, and nobody but its own page."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the package matplotlib is not installed")
pytest.importorskip("moocore", reason="the package moocore is not installed")

import torch
from browser import absent, browser, errors
from engine_runs import small_set, tiny
from PIL import Image
from torch import Tensor

import palora
import palora.data
from palora.engine import RunFolder, Trained, evaluate, train
from palora.errors import PaloraError
from palora.explore import Explorer, Live
from palora.explore.page import live_page
from palora.explore.uploads import MOST_BYTES, kinds, read

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """A finished and evaluated run; the small set stands in for the data while this module's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(palora.data, "load", lambda *args, **options: small_set())
        options = {"schedule": "dirichlet", "rays": 3, "rank": 4, "alpha": 16.0}
        found = train(tiny(lr=0.01, divisions=4, method_options=options), tmp_path_factory.mktemp("run") / "run")
        evaluate(found.path)
        yield found


@pytest.fixture(scope="module")
def server(run: RunFolder) -> Iterator[Explorer]:
    live = Live(Trained(run.path))
    with Explorer(live, live_page(live)) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            found.shutdown()
            thread.join()


def ask(server: Explorer, what: str, content: Any = None, **headers: str | None) -> tuple[int, Any]:
    """The status and the JSON of an answer to a question as the page asks it, with `headers` over its own."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    own = {"Origin": f"http://127.0.0.1:{server.server_port}", "Content-Type": "application/json"}
    sent = {**own, **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        path = what if what.startswith("/") else f"/{server.token}/{what}"
        connection.putrequest("POST", path, skip_host="Host" in sent)
        for name, value in {"Content-Length": str(len(body)), **sent}.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def get(server: Explorer, path: str, **headers: str) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(), dict(reply.headers)
    finally:
        connection.close()


def probabilities(run: RunFolder, ray: list[float], x: Tensor) -> list[Tensor]:
    """Of the merged model: another way to the answers."""
    trained = Trained(run.path)
    with torch.no_grad():
        return [y.softmax(1) for y in palora.merge(trained.parts.model, torch.tensor(ray))(x)]


def png(size: tuple[int, int] = (28, 28), kind: str = "PNG", mode: str = "L") -> bytes:
    file = io.BytesIO()
    pixels = bytes(i * 7 % 256 for i in range(size[0] * size[1] * len(mode)))
    Image.frombytes(mode, size, pixels).save(file, kind)
    return file.getvalue()


QUESTION = {"preference": [0.37, 0.63], "samples": [5, 0]}


def test_any_preference_is_answered_by_the_model(server: Explorer, run: RunFolder) -> None:
    status, found = ask(server, "answer", QUESTION)
    assert status == 200
    assert found["milliseconds"] > 0
    expected = probabilities(run, [0.37, 0.63], small_set().test.inputs[[5, 0]])
    for i, answers in enumerate(found["answers"]):
        for t, answer in enumerate(answers):
            assert answer["class"] == int(expected[t][i].argmax())
            assert answer["probabilities"] == pytest.approx(expected[t][i].tolist(), abs=2e-4)
    other = ask(server, "answer", {**QUESTION, "preference": [1, 0]})[1]
    assert other["answers"] != found["answers"]


def test_other_samples_of_the_test_set(server: Explorer) -> None:
    last = len(Trained(server.live.trained.run.path).parts.dataset.test) - 1
    status, found = ask(server, "samples", {"preference": [0.5, 0.5], "start": last})
    assert status == 200
    assert [sample["index"] for sample in found["samples"]] == [last]
    targets = small_set().test.targets
    assert [truth["class"] for truth in found["samples"][0]["truth"]] == [int(target[last]) for target in targets]
    for start in (-1, last + 1, 1.5, True, None, "0"):
        status, found = ask(server, "samples", {"preference": [0.5, 0.5], "start": start})
        assert status == 422
        assert "place in the test set" in found["error"]


def test_an_upload_is_answered_and_forgotten_in_time(server: Explorer, run: RunFolder) -> None:
    body = png()
    sent = {"Content_Type": "image/png", "X_Preference": "[0.2, 0.8]"}
    status, found = ask(server, "upload", body, **sent)
    assert status == 200, found
    sample = found["sample"]
    assert [truth["class"] for truth in sample["truth"]] == [None, None]
    x = torch.tensor([i * 7 % 256 for i in range(784)]).view(1, 1, 28, 28) / 255
    for t, expected in enumerate(probabilities(run, [0.2, 0.8], x)):
        assert sample["answers"][0][t]["probabilities"] == pytest.approx(expected[0].tolist(), abs=2e-4)
    status, again = ask(server, "answer", {"preference": [0.2, 0.8], "samples": [sample["index"]]})
    assert again["answers"] == sample["answers"]
    for _ in range(16):
        ask(server, "upload", png((9, 30), "JPEG", "RGB"), Content_Type="image/jpeg", X_Preference="[0.2, 0.8]")
    status, found = ask(server, "answer", {"preference": [0.2, 0.8], "samples": [sample["index"]]})
    assert (status, "upload again" in found["error"]) == (422, True)


def test_the_page_needs_host_and_token(server: Explorer) -> None:
    own = f"/{server.token}/"
    assert server.address == f"http://127.0.0.1:{server.server_port}{own}"
    status, text, headers = get(server, own)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "connect-src &#x27;self&#x27;" in text
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in headers
    assert get(server, own, Host=f"localhost:{server.server_port}")[0] == 200
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1", "127.0.0.1:1", ""):
        assert get(server, own, Host=host)[0] == 421, host
    assert get(server, own, Origin="https://evil.example")[0] == 403
    for path in ("/", "/answer", f"/{server.token[:-1]}/", f"/x{server.token}/", "/%C3%A9/"):
        assert get(server, path)[0] == 403, path
    for path in (f"{own}x", f"{own}../{server.token}", f"{own}answer"):
        assert get(server, path)[0] == 404, path


def test_questions_of_others_are_refused(server: Explorer) -> None:
    port = server.server_port
    assert ask(server, "answer", QUESTION)[0] == 200
    for origin in (None, "null", "https://evil.example", f"http://localhost:{port}", f"https://127.0.0.1:{port}"):
        assert ask(server, "answer", QUESTION, Origin=origin)[0] == 403, origin
    assert ask(server, "answer", QUESTION, Host=f"evil.example:{port}", Origin=f"http://evil.example:{port}")[0] == 421
    here = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    assert ask(server, "answer", QUESTION, **here)[0] == 200
    assert ask(server, "answer", QUESTION, Sec_Fetch_Site="cross-site")[0] == 403
    for path in ("/answer", "/wrong/answer", f"/{server.token}answer"):
        assert ask(server, path, QUESTION)[0] == 403, path
    assert ask(server, "delete", QUESTION)[0] == 404


def test_sizes_and_kinds_are_bounded(server: Explorer) -> None:
    sent = {"Content_Type": "image/png", "X_Preference": "[0.5, 0.5]"}
    # Said before any of it is sent:
    assert ask(server, "upload", b"", **sent, Content_Length=str(MOST_BYTES + 1))[0] == 413
    assert ask(server, "answer", b"", Content_Length="20001")[0] == 413
    for length in (None, "-1", "many", "9" * 30, "1_0"):
        assert ask(server, "answer", b"", Content_Length=length)[0] == 411, length
    assert ask(server, "answer", b"", Transfer_Encoding="chunked")[0] == 411
    for kind in ("text/html", "image/svg+xml", "text/csv", "application/json", ""):
        assert ask(server, "upload", png(), Content_Type=kind, X_Preference="[0.5, 0.5]")[0] == 415, kind
    assert ask(server, "answer", QUESTION, Content_Type="text/plain")[0] == 415
    for body, expected in (
        (b"<svg/>", "is not a PNG that can be read"),
        (png(kind="JPEG"), "is not a PNG that can be read"),
        (png()[:60], "is not a PNG that can be read"),
        (png((2001, 2000)), "at most 4,000,000 pixels. Found 4,002,000"),
    ):
        status, found = ask(server, "upload", body, **sent)
        assert status == 422
        assert expected in found["error"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"{", "should be a JSON object"),
        (b"[" * 10_000, "should be a JSON object"),
        ([1], "should be a JSON object"),
        ({}, "`preference` should be 2 weights"),
        ({"preference": [0.5, 0.6], "samples": [0]}, "2 weights >= 0 that sum to 1"),
        ({"preference": [2, -1], "samples": [0]}, "2 weights"),
        ({"preference": [0.5, 0.5, 0], "samples": [0]}, "2 weights"),
        ({"preference": ["a", "b"], "samples": [0]}, "2 weights"),
        (b'{"preference": [NaN, 1], "samples": [0]}', "2 weights"),
        ({"preference": [0.5, 0.5], "samples": []}, "a list of 1"),
        ({"preference": [0.5, 0.5], "samples": [0] * 25}, "a list of 1"),
        ({"preference": [0.5, 0.5], "samples": [10**9]}, "no sample '1000000000'"),
        ({"preference": [0.5, 0.5], "samples": [[0]]}, "no sample"),
        ({"preference": [0.5, 0.5], "samples": ["../x"]}, "no sample '../x'"),
    ],
)
def test_wrong_questions_are_answered_in_a_sentence(server: Explorer, content: Any, expected: str) -> None:
    status, found = ask(server, "answer", content)
    assert status == 422
    assert expected in found["error"]


def test_what_may_be_uploaded_follows_from_the_inputs() -> None:
    assert kinds(torch.zeros(5)) == ("text/csv",)
    assert kinds(torch.rand(3, 8, 8)) == ("image/png", "image/jpeg")
    assert kinds(torch.randn(3, 8, 8) - 5) == kinds(torch.zeros(2, 3, 4, 4)) == ()
    assert read("text/csv", b"1, 2.5\n-3e-1", torch.zeros(3)).tolist() == pytest.approx([1, 2.5, -0.3])
    for body in (b"1,2", b"1,2,x", b"1,2,inf", b"\xff"):
        with pytest.raises(PaloraError, match="uploaded row should be"):
            read("text/csv", body, torch.zeros(3))
    colours = read("image/png", png((4, 2), mode="RGB"), torch.zeros(3, 2, 4))
    assert colours[:, 0, 0].tolist() == pytest.approx([0, 7 / 255, 14 / 255])


def test_numbers_and_answers_are_of_one_checkpoint(run: RunFolder) -> None:
    with pytest.raises(PaloraError, match=r"evaluated at its last checkpoint: run .* --checkpoint best"):
        live_page(Live(Trained(run.path, checkpoint="best")))


def test_a_port_that_is_taken(server: Explorer) -> None:
    with pytest.raises(PaloraError, match=r"The port \d+ cannot be used .* choose another with --port"):
        Explorer(server.live, "", server.server_port)
    assert server.socket.getsockname()[0] == "127.0.0.1"


def test_it_is_not_reached_from_elsewhere(server: Explorer) -> None:
    """Other addresses of this very machine are not listened on."""
    with socket.socket() as other:
        other.settimeout(2)
        with pytest.raises(OSError, match=r"refused|timed out"):
            other.connect(("127.0.0.2", server.server_port))


@pytest.mark.needs("typer")
def test_ctrl_c_ends_it_quietly(run: RunFolder) -> None:
    program = (
        "import sys, palora.data\nfrom engine_runs import small_set\n"
        "palora.data.load = lambda *args, **options: small_set()\n"
        "from palora.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "python"), str(ROOT / "tests"), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, "-c", program, "explore", str(run.path), "--no-browser"],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.split()[0] == "page"
        address = line.split()[1]
        assert process.stdout.readline().endswith("Ctrl-C ends it\n")
        connection = http.client.HTTPConnection(address.split("/")[2], timeout=20)  # kept open meanwhile
        connection.request("GET", "/" + address.split("/", 3)[3])
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, error) == (0, "ended\n", "")


@pytest.mark.needs("selenium")
@pytest.mark.skipif(bool(absent()), reason=absent())
def test_the_live_dial_in_a_browser(server: Explorer, run: RunFolder, tmp_path: Path) -> None:
    """Between the rays of the grid the answers are the model's; samples and uploads come onto the page; no errors."""
    from selenium.webdriver.support.ui import WebDriverWait

    with browser(tmp_path) as driver:
        driver.get(server.address)
        wait = WebDriverWait(driver, 20)

        def texts(css: str) -> list[str]:
            """Read at one moment: the page may replace elements at any."""
            script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
            return list(driver.execute_script(script, css))

        def note() -> str:
            return texts("#live-note")[0]

        wait.until(lambda _: note().startswith("Live: answered in"))
        dial = driver.find_element("id", "preference")
        driver.execute_script("arguments[0].value = 63; arguments[0].dispatchEvent(new Event('input'))", dial)
        wait.until(lambda _: "left 0.37 · right 0.63" in texts("#ray")[0])
        assert "nearest that was evaluated" in texts("#ray")[0]
        assert "--preference 0.37,0.63 " in texts("#command")[0]
        driver.find_element("id", "start").clear()
        driver.find_element("id", "start").send_keys("7")
        driver.find_element("id", "show-from").click()
        wait.until(lambda _: texts(".which")[0] == "sample 7")
        expected = probabilities(run, [0.37, 0.63], small_set().test.inputs[7:8])

        def shown() -> list[str]:
            return [guess[:1] for guess in texts(".sample:first-child .guess")]

        wait.until(lambda _: shown() == [str(int(p.argmax())) for p in expected])
        (tmp_path / "mine.png").write_bytes(png())
        driver.find_element("id", "upload").send_keys(str(tmp_path / "mine.png"))
        wait.until(lambda _: texts(".which")[0].startswith("sample upload"))
        (tmp_path / "mine.txt").write_text("x")
        driver.find_element("id", "upload").send_keys(str(tmp_path / "mine.txt"))
        wait.until(lambda _: "This model takes image/png or image/jpeg" in note())
        assert errors(driver) == []
