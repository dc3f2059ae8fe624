"""The report's page, live: a read-only server for a directory of runs, reachable from this machine only."""

import contextlib
import functools
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, quote, urlsplit

from atari_dqn.analysis import report, run_folders
from atari_dqn.analysis.run_data import Data
from atari_dqn.config.commands import DashboardConfig
from atari_dqn.utils import extras, files
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.hints import hint
from atari_dqn.utils.signals import stop_signals

HOST = "127.0.0.1"
MOST_CONNECTIONS = 64
ASK_SECONDS, SEND_SECONDS = 10.0, 30.0  # timeouts: to receive a request; while a browser accepts no data
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data: blob:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Runs:
    """The runs in a directory, by name. A page can only request names that were found there."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def data(self, shown: list[str]) -> Data:
        folders = run_folders.named(self.root)
        shown = [name for name in dict.fromkeys(shown) if name in folders]
        data = report.gather(folders, shown)
        for name in shown:
            films = run_folders.videos(folders[name])
            data["videos"][name] = [
                {"label": report.film_label(film), "url": f"video?run={_quoted(name)}&name={_quoted(film.name)}"}
                for film in report.spread(films, 3)
            ]
        return data

    def video(self, run: str, name: str) -> Path | None:
        folder = run_folders.named(self.root).get(run)
        return next((film for film in run_folders.videos(folder) if film.name == name), None) if folder else None


def _quoted(name: str) -> str:
    return quote(name, safe="", errors="surrogateescape")


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for the page, its assets, data and videos; rejects everything else."""

    protocol_version = "HTTP/1.1"
    timeout = SEND_SECONDS
    server: "Server"
    server_version, sys_version = "atari_dqn", ""
    runs: Runs

    def do_GET(self) -> None:
        self.server.heard(self.connection, is_busy=True)
        try:
            self._answer()
        except OSError:  # the browser disconnected
            raise
        except Exception as error:  # one failing request must not affect others
            self.close_connection = True
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}\n".encode(), "text/plain")
        self.server.heard(self.connection)

    do_HEAD = do_GET

    def _answer(self) -> None:
        if not self._is_from_here():
            self._send(HTTPStatus.FORBIDDEN, b"this dashboard is only available on localhost\n", "text/plain")
            return
        try:
            address = urlsplit(self.path)
            asked = parse_qs(address.query, max_num_fields=1000, errors="surrogateescape")
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, b"malformed request\n", "text/plain")
            return
        if address.path == "/video":
            self._film(self.runs.video(asked.get("run", [""])[0], asked.get("name", [""])[0]))
        elif address.path == "/data.json":
            self._data(asked.get("run", []))
        elif address.path in PARTS:
            kind, make = PARTS[address.path]
            self._send(HTTPStatus.OK, make(), kind)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"no such page\n", "text/plain")

    def _is_from_here(self) -> bool:
        """Whether the Host header is this machine's own; another name that resolves to it is a DNS rebinding attack."""
        host = re.sub(r":\d+$", "", self.headers.get("Host", ""))
        return host in ("localhost", HOST)

    def _send(self, status: HTTPStatus, body: bytes, kind: str, length: int | None = None, **headers: str) -> None:
        """Send headers and `body`. `length` is the content length if the body is sent separately."""
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body) if length is None else length),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command == "GET" and status != HTTPStatus.NOT_MODIFIED:
            self.wfile.write(body)

    def _data(self, shown: list[str]) -> None:
        data = self.runs.data(shown)
        timeless: Data = {"seconds_since": 0}  # it grows while nothing happens
        entries = {name: entry | timeless for name, entry in data["entries"].items()}
        same = data | {"made": "", "runs": [run | timeless for run in data["runs"]], "entries": entries}
        tag = f'"{hashlib.sha256(json.dumps(same).encode()).hexdigest()[:32]}"'
        if self.headers.get("If-None-Match") == tag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", "application/json", ETag=tag)
        else:
            self._send(HTTPStatus.OK, json.dumps(data, allow_nan=False).encode(), "application/json", ETag=tag)

    def _film(self, film: Path | None) -> None:
        """Send a video, or the requested range of it."""
        try:
            with files.opened(film) if film else contextlib.nullcontext() as file:
                if file:
                    self._stream(file, os.fstat(file.fileno()).st_size)
                    return
        except FileNotFoundError:  # removed in the meantime
            pass
        self._send(HTTPStatus.NOT_FOUND, b"no such video\n", "text/plain")

    def _stream(self, film: BinaryIO, size: int) -> None:
        match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", self.headers.get("Range", ""))
        if not match or match.groups() == ("", ""):
            self._send(HTTPStatus.OK, b"", "video/mp4", size, Accept_Ranges="bytes")
            self._copy(film, size)
            return
        # A number of more than 18 digits is beyond the end of any file; Python rejects one of 5,000 digits.
        first, last = (None if not digits else size if len(digits) > 18 else int(digits) for digits in match.groups())
        start = first if first is not None else max(0, size - (last or 0))
        end = min(last, size - 1) if first is not None and last is not None else size - 1
        if start > end:
            unmet = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            self._send(unmet, b"", "video/mp4", Content_Range=f"bytes */{size}")
            return
        self._send(
            HTTPStatus.PARTIAL_CONTENT, b"", "video/mp4", end + 1 - start, Accept_Ranges="bytes",
            Content_Range=f"bytes {start}-{end}/{size}",
        )  # fmt: skip
        film.seek(start)
        self._copy(film, end + 1 - start)

    def _copy(self, film: BinaryIO, count: int) -> None:
        """Send `count` bytes; if the file was truncated in the meantime, close the connection."""
        while count and self.command == "GET":
            block = film.read(min(count, 1 << 18))
            if not block:
                self.close_connection = True
                return
            self.wfile.write(block)
            count -= len(block)

    def log_message(self, *what: Any) -> None: ...


@functools.cache
def _page() -> bytes:
    scripts = '<script src="plotly.js"></script>\n<script src="page.js"></script>'
    style = '<link rel="stylesheet" href="page.css">'
    return report.page("atari_dqn: dashboard", {"live": True, "runs": []}, style, scripts).encode()


@functools.cache
def _plotly() -> bytes:
    return report.plotly().encode()


PARTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "/": ("text/html; charset=utf-8", _page),
    "/plotly.js": ("text/javascript; charset=utf-8", _plotly),
    "/page.js": ("text/javascript; charset=utf-8", lambda: report.part("page.js").encode()),
    "/page.css": ("text/css; charset=utf-8", lambda: report.part("page.css").encode()),
}


class Server(ThreadingHTTPServer):
    """A thread per connection, up to MOST_CONNECTIONS; idle connections are closed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._heard: dict[socket.socket, tuple[float, bool]] = {}  # last activity, is busy
        self._guard = threading.Lock()
        super().__init__(*args)

    def heard(self, connection: socket.socket, is_busy: bool = False) -> None:
        """Record that a connection sent a request or was answered."""
        with self._guard:
            if connection in self._heard:
                self._heard[connection] = time.monotonic(), is_busy

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            if len(self._heard) >= MOST_CONNECTIONS:  # close the one that has been idle longest
                oldest = min(self._heard, key=lambda one: (self._heard[one][1], self._heard[one][0]))
                del self._heard[oldest]
                _hang_up(oldest)
            self._heard[request] = time.monotonic(), False
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        now = time.monotonic()
        with self._guard:
            for connection, (since, is_busy) in self._heard.items():
                if not is_busy and now - since > ASK_SECONDS:
                    _hang_up(connection)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._heard.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do not log browsers that disconnect."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _hang_up(connection: socket.socket) -> None:
    """Shut a connection down; its thread notices and closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def make(root: Path, port: int) -> Server:
    """Create the server, bound to localhost. Raises UserError if the port is in use."""

    class Bound(Handler):
        runs = Runs(root)

    try:
        return Server((HOST, port), Bound)
    except (OSError, OverflowError) as error:
        raise UserError(f"port={port}: {error}; choose another, or port=0 for any free port") from None


def serve(asked: DashboardConfig, console: Console) -> None:
    """Serve a directory of runs until Ctrl-C."""
    extras.need("the dashboard", "plotly")
    root = Path(asked.runs)
    if not root.is_dir():
        raise UserError(f"runs={root}: no such directory; {hint('train', GAME='CartPole')} creates one within a minute")
    with make(root, asked.port) as server:
        address = f"http://localhost:{server.server_address[1]}/"
        console.say(f"dashboard of {root}: {address} (stop: Ctrl-C)")
        # Not by KeyboardInterrupt, which is lost if raised in a callback whose exceptions Python ignores.
        stopped = threading.Event()

        def end() -> None:
            stopped.wait()
            server.shutdown()

        threading.Thread(target=end, daemon=True).start()
        with stop_signals(stopped):
            server.serve_forever()
        console.say("dashboard stopped")
