"""The report's page, live: a server on this machine alone that shows a folder of runs and changes nothing in it."""

import functools
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from atari_dqn import logbook, report
from atari_dqn.config import DashboardConfig
from atari_dqn.console import Console
from atari_dqn.errors import UserError
from atari_dqn.logbook import Data
from atari_dqn.signals import stop_signals

HOST = "127.0.0.1"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data: blob:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Runs:
    """The runs in a folder, by the names that a page may ask for. Only what was found there has a name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def data(self, shown: list[str]) -> Data:
        folders = logbook.named(self.root)
        shown = [name for name in dict.fromkeys(shown) if name in folders]
        data = report.gather(folders, shown)
        for name in shown:
            films = logbook.videos(folders[name])
            data["videos"][name] = [
                {"label": report.film_label(film), "url": f"video?run={quote(name, safe='')}&name={quote(film.name)}"}
                for film in report.spread(films, 3)
            ]
        return data

    def video(self, run: str, name: str) -> Path | None:
        folder = logbook.named(self.root).get(run)
        return next((film for film in logbook.videos(folder) if film.name == name), None) if folder else None


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for a page, its parts, its data and films; everything else is refused."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "atari_dqn", ""
    runs: Runs

    def do_GET(self) -> None:
        if not self._is_from_here():
            self._send(HTTPStatus.FORBIDDEN, b"this dashboard answers to localhost only\n", "text/plain")
            return
        try:
            address = urlsplit(self.path)
            asked = parse_qs(address.query, max_num_fields=1000)
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

    do_HEAD = do_GET

    def _is_from_here(self) -> bool:
        """Whether this machine's own name was asked for; another's that leads here is a trick to get at it."""
        host = re.sub(r":\d+$", "", self.headers.get("Host", ""))
        return host in ("localhost", HOST)

    def _send(self, status: HTTPStatus, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET" and status != HTTPStatus.NOT_MODIFIED:
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
            whole = film.read_bytes() if film else None
        except OSError:  # it went meanwhile
            whole = None
        if whole is None:
            self._send(HTTPStatus.NOT_FOUND, b"there is no such film\n", "text/plain")
            return
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not match or match.groups() == ("", ""):
            self._send(HTTPStatus.OK, whole, "video/mp4", Accept_Ranges="bytes")
            return
        first, last = match.groups()
        start = int(first) if first else max(0, len(whole) - int(last))
        end = min(int(last), len(whole) - 1) if first and last else len(whole) - 1
        if start > end:
            size = f"bytes */{len(whole)}"
            self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", "video/mp4", Content_Range=size)
            return
        self._send(
            HTTPStatus.PARTIAL_CONTENT, whole[start : end + 1], "video/mp4", Accept_Ranges="bytes",
            Content_Range=f"bytes {start}-{end}/{len(whole)}",
        )  # fmt: skip

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
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


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
        raise UserError(f"runs={root}: there is no such folder; `make train GAME=CartPole` makes runs/ in a minute")
    with make(root, asked.port) as server:
        address = f"http://localhost:{server.server_address[1]}/"
        console.print(f"dashboard of {root}: {address} (Ctrl-C ends it)", soft_wrap=True, highlight=False, markup=False)
        # Not by KeyboardInterrupt, which is lost where it is raised in a callback that Python guards.
        stopped = threading.Event()

        def end() -> None:
            stopped.wait()
            server.shutdown()

        threading.Thread(target=end, daemon=True).start()
        with stop_signals(stopped):
            server.serve_forever()
        console.print("dashboard ended")
