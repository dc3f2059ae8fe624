"""The report's page, live: a server on this machine alone that shows a folder of runs and changes nothing in it."""

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
from atari_dqn.utils import files
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.hints import hint
from atari_dqn.utils.signals import stop_signals

HOST = "127.0.0.1"
MOST_CONNECTIONS = 64
ASK_SECONDS, SEND_SECONDS = 10.0, 30.0  # that a whole request may take; that a browser may take nothing of an answer
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data: blob:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Runs:
    """The runs in a folder, by the names that a page may ask for. Only what was found there has a name."""

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
    """Answers GET and HEAD for a page, its parts, its data and films; everything else is refused."""

    protocol_version = "HTTP/1.1"
    timeout = SEND_SECONDS
    server: "Server"
    server_version, sys_version = "atari_dqn", ""
    runs: Runs

    def do_GET(self) -> None:
        self.server.heard(self.connection, is_busy=True)
        try:
            self._answer()
        except OSError:  # the browser has gone
            raise
        except Exception as error:  # whatever was asked, the others are answered
            self.close_connection = True
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}\n".encode(), "text/plain")
        self.server.heard(self.connection)

    do_HEAD = do_GET

    def _answer(self) -> None:
        if not self._is_from_here():
            self._send(HTTPStatus.FORBIDDEN, b"this dashboard answers to localhost only\n", "text/plain")
            return
        try:
            address = urlsplit(self.path)
            asked = parse_qs(address.query, max_num_fields=1000, errors="surrogateescape")
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, b"this cannot be understood\n", "text/plain")
            return
        if address.path == "/video":
            self._film(self.runs.video(asked.get("run", [""])[0], asked.get("name", [""])[0]))
        elif address.path == "/data.json":
            self._data(asked.get("run", []))
        elif address.path in PARTS:
            kind, make = PARTS[address.path]
            self._send(HTTPStatus.OK, make(), kind)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"there is no such page\n", "text/plain")

    def _is_from_here(self) -> bool:
        """Whether this machine's own name was asked for; another's that leads here is a trick to get at it."""
        host = re.sub(r":\d+$", "", self.headers.get("Host", ""))
        return host in ("localhost", HOST)

    def _send(self, status: HTTPStatus, body: bytes, kind: str, length: int | None = None, **headers: str) -> None:
        """Send a head, and `body`; `length` is of what will be sent in place of an empty one."""
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
        same = data | {"made": "", "runs": [run | {"seconds_since": 0} for run in data["runs"]]}
        tag = f'"{hashlib.sha256(json.dumps(same).encode()).hexdigest()[:32]}"'
        if self.headers.get("If-None-Match") == tag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", "application/json", ETag=tag)
        else:
            self._send(HTTPStatus.OK, json.dumps(data, allow_nan=False).encode(), "application/json", ETag=tag)

    def _film(self, film: Path | None) -> None:
        """A film, or the part of it that a browser asks for."""
        try:
            with files.opened(film) if film else contextlib.nullcontext() as file:
                if file:
                    self._stream(file, os.fstat(file.fileno()).st_size)
                    return
        except FileNotFoundError:  # it went meanwhile
            pass
        self._send(HTTPStatus.NOT_FOUND, b"there is no such film\n", "text/plain")

    def _stream(self, film: BinaryIO, size: int) -> None:
        match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", self.headers.get("Range", ""))
        if not match or match.groups() == ("", ""):
            self._send(HTTPStatus.OK, b"", "video/mp4", size, Accept_Ranges="bytes")
            self._copy(film, size)
            return
        # What has more digits than a file can be long is beyond its end, and Python reads no number of 5,000 digits.
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
        """Send so many bytes; a film that became shorter meanwhile ends the connection."""
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
    """A thread for each connection, of which there are so many; one that asks for nothing is soon closed."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._heard: dict[socket.socket, tuple[float, bool]] = {}  # when each was heard of, and whether it is answered
        self._guard = threading.Lock()
        super().__init__(*args)

    def heard(self, connection: socket.socket, is_busy: bool = False) -> None:
        """Hear that a connection has asked for something, or has been answered."""
        with self._guard:
            if connection in self._heard:
                self._heard[connection] = time.monotonic(), is_busy

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            if len(self._heard) >= MOST_CONNECTIONS:  # the one that waits for longest makes room
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
        """A browser that went away is no news."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _hang_up(connection: socket.socket) -> None:
    """Its thread hears of it, and closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def make(root: Path, port: int) -> Server:
    """The server, bound to this machine's own address. Raises UserError where the port is taken."""

    class Bound(Handler):
        runs = Runs(root)

    try:
        return Server((HOST, port), Bound)
    except (OSError, OverflowError) as error:
        raise UserError(f"port={port}: {error}; choose another, or port=0 for any that is free") from None


def serve(asked: DashboardConfig, console: Console) -> None:
    """Serve a folder of runs until Ctrl-C."""
    root = Path(asked.runs)
    if not root.is_dir():
        raise UserError(f"runs={root}: there is no such folder; {hint('train', GAME='CartPole')} makes one in a minute")
    with make(root, asked.port) as server:
        address = f"http://localhost:{server.server_address[1]}/"
        console.say(f"dashboard of {root}: {address} (Ctrl-C ends it)")
        # Not by KeyboardInterrupt, which is lost where it is raised in a callback that Python guards.
        stopped = threading.Event()

        def end() -> None:
            stopped.wait()
            server.shutdown()

        threading.Thread(target=end, daemon=True).start()
        with stop_signals(stopped):
            server.serve_forever()
        console.say("dashboard ended")
