"""HTTP for one page and one person: on the loopback interface, behind a random token, for requests of that page alone.

Whatever else runs in the browser cannot ask: names that lead here (DNS rebinding) fail at the Host, other pages at the
Origin, other users of the machine at the token. Bodies are bounded before they are read.
"""

from __future__ import annotations

import hmac
import json
import secrets
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from palora.errors import PaloraError
from palora.explore.live import Live
from palora.explore.uploads import MOST_BYTES, WrongKindError, kinds

LOOPBACK = "127.0.0.1"
MOST_JSON = 20_000
SECONDS = 15
"""How long a request may take to arrive."""
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Explorer(ThreadingHTTPServer):
    """Serves `page`, HTML, and what :class:`Live` answers. `port` 0: any free one. ``address`` is where to look."""

    daemon_threads = True

    def __init__(self, live: Live, page: str, port: int = 0) -> None:
        self.live, self.page, self.token = live, page.encode(), secrets.token_urlsafe(24)
        try:
            super().__init__((LOOPBACK, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise PaloraError(f"The port {port} cannot be used ({reason}): choose another with --port.") from error
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    @property
    def address(self) -> str:
        """The page, with the token that opens it."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that breaks is nobody's business."""


class Refused(Exception):
    """A request that is not answered: the status, and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """One request: checked as a whole before anything is read or done."""

    server: Explorer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "palora", ""
    timeout = SECONDS
    disable_nagle_algorithm = True  # head and body are small, and nobody should wait for the second

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def _answer(self, method: str) -> None:
        try:
            what = self._admitted(method)
            if method == "GET":
                self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)
                return
            content = {"answer": self._answers, "samples": self._samples, "upload": self._upload}[what]()
            self._json(HTTPStatus.OK, content)
        except Refused as refused:
            self.close_connection = True  # a body may be left unread
            self._json(refused.status, {"error": str(refused)})
        except WrongKindError as error:
            self._json(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": str(error)})
        except PaloraError as error:
            self._json(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)})

    def _admitted(self, method: str) -> str:
        """What is asked for, once Host, Origin and token are right."""
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "This server answers under its own address alone.")
        origins = self.headers.get_all("Origin", [])
        own = origins == [f"http://{self.headers['Host']}"]
        if not own and (origins or method == "POST"):
            raise Refused(HTTPStatus.FORBIDDEN, "This server answers its own page alone.")
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and method == "POST":
            raise Refused(HTTPStatus.FORBIDDEN, "This server answers its own page alone.")
        token, _, what = self.path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "The address lacks its token: open the one that was printed.")
        if what not in ({""} if method == "GET" else {"answer", "samples", "upload"}):
            raise Refused(HTTPStatus.NOT_FOUND, "There is nothing here.")
        return what

    def _answers(self) -> dict[str, Any]:
        asked = self._question()
        begun = time.perf_counter()
        found = self.server.live.answers(asked.get("preference"), asked.get("samples"))
        return {"answers": found, "milliseconds": round(1000 * (time.perf_counter() - begun), 1)}

    def _samples(self) -> dict[str, Any]:
        asked = self._question()
        return {"samples": self.server.live.samples(asked.get("preference"), asked.get("start"))}

    def _upload(self) -> dict[str, Any]:
        kind = self._kind()
        if kind not in kinds(self.server.live.like):
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"This model takes no uploads of the type {kind!r}.")
        try:
            preference = json.loads(self.headers.get("X-Preference", ""))
        except ValueError:
            preference = None
        return {"sample": self.server.live.upload(preference, kind, self._body(MOST_BYTES))}

    def _question(self) -> dict[str, Any]:
        if self._kind() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A question should be application/json.")
        body = self._body(MOST_JSON)
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            raise PaloraError("A question should be a JSON object.")
        return asked

    def _kind(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def _body(self, most: int) -> bytes:
        """The body, whose length is known and allowed before any of it is read."""
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdecimal() and len(length) < 12):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "A request should say its length.")
        if int(length) > most:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A request should have at most {most:,} bytes.")
        return self.rfile.read(int(length))

    def _json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        self._send(status, "application/json", body)

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The address holds the token, and nobody reads a log here."""
