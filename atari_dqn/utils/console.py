"""All terminal output goes through this module, and an output error never stops a command.

A terminal may be closed, a pipe broken, a disk full, a character not encodable; the computation continues. Control
characters in text from files and names are escaped, so that they cannot control the terminal.
"""

import codecs
import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import rich.console
from rich.segment import Segment
from rich.text import Text

from atari_dqn.utils import files
from atari_dqn.utils.text import one_line

LEAST, MOST = 20, 500  # limits of the width in columns, whatever the window or $COLUMNS says
# Control characters except tab and newline, bidirectional marks, line separators, lone surrogates.
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
PLAIN = str.maketrans({"µ": "u", "×": "x", "–": "-", "—": "-", "…": "~"})  # same width, if the encoding lacks them


def visible(text: str) -> str:
    r"""`text` with characters that could control a terminal escaped: ESC as \x1b."""
    return HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _as_plain_text(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: replace characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end].translate(PLAIN)
    return missing.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error("as_plain_text", _as_plain_text)


class Stream(io.TextIOBase):
    """A text stream whose writes never fail. Unencodable characters are escaped as \\u...; failed writes are dropped.

    Args:
        find: returns the underlying stream, called at each write; None if that is closed.

    Attributes:
        lost: the last error; None if everything was written.
    """

    def __init__(self, find: Callable[[], TextIO | None]) -> None:
        self._find = find
        self.lost: OSError | None = None

    def _stream(self) -> Any:
        stream = self._find()
        return getattr(stream, "rich_proxied_file", stream)  # beneath a live display

    def write(self, text: str) -> int:
        stream = self._stream()
        if stream is None:
            return len(text)
        if encoding := getattr(stream, "encoding", None):
            text = text.encode(encoding, "as_plain_text").decode(encoding)
        try:
            stream.write(text)
        except (OSError, ValueError) as error:
            self._drop(stream, error)
        return len(text)

    def flush(self) -> None:
        stream = self._stream()
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            self._drop(stream, error)

    def _drop(self, stream: Any, error: Exception) -> None:
        """Discard `stream`'s buffer: Python would try to flush it at exit, and fail."""
        self.lost = error if isinstance(error, OSError) else OSError(str(error))
        with contextlib.suppress(OSError, ValueError):
            number = stream.fileno()
            kept, nowhere = os.dup(number), os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, number)
                stream.flush()
            finally:
                os.dup2(kept, number)
                os.close(kept)
                os.close(nowhere)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        stream = self._stream()
        try:
            return stream is not None and bool(stream.isatty())
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        stream = self._stream()
        if stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream(), "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:  # buffer, reconfigure and the like
        return getattr(self._stream(), name)


class Console(rich.console.Console):
    """A console that cannot fail, detects real terminals and prints text literally: no markup, no control characters.

    Args:
        file: None for standard output.
    """

    def __init__(self, file: TextIO | None = None, **how: Any) -> None:
        stream = Stream((lambda: sys.stdout) if file is None else (lambda: file))
        wanted = os.environ.get("FORCE_COLOR", "").lower() not in ("", "0", "false") and not _is_dumb(os.environ)
        colors = {"color_system": "standard"} if wanted else {}
        plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "force_jupyter": False}
        super().__init__(file=stream, _environ=_environment(), **(plain | colors | how))  # type: ignore[arg-type]
        self.is_interactive = self.is_terminal

    @property
    def is_terminal(self) -> bool:
        """Whether the cursor can be moved. FORCE_COLOR enables colors but does not turn a file into a terminal."""
        if self._force_terminal is not None:
            return self._force_terminal
        return self._environ.get("TTY_COMPATIBLE") != "0" and not _is_dumb(self._environ) and self.file.isatty()

    @property
    def size(self) -> rich.console.ConsoleDimensions:
        width, height = super().size
        return rich.console.ConsoleDimensions(min(max(width, LEAST), MOST), max(height, 1))

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        self._width, self._height = size

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(visible(text), **how)

    def render(self, *what: Any, **how: Any) -> Iterable[Segment]:
        for segment in super().render(*what, **how):
            if segment.control or not HIDDEN.search(segment.text):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)

    def say(self, text: str) -> None:
        """A line, which a terminal may break and a file does not."""
        self.print(text, soft_wrap=True)

    def status(self, *what: Any, **how: Any) -> Any:
        if not self.encoding.startswith("utf"):  # the default spinner is not ASCII
            how.setdefault("spinner", "line")
        return super().status(*what, **how)


def _is_dumb(environment: Mapping[str, str]) -> bool:
    return environment.get("TERM", "").lower() in ("dumb", "unknown")


def _environment() -> dict[str, str]:
    """The environment without invalid COLUMNS and LINES."""
    found = dict(os.environ)
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch(r"0*[1-9]\d{0,5}", found.get(name, ""), re.ASCII):
            found.pop(name, None)
    return found


def say(text: str) -> None:
    """Print a line on standard output."""
    _line(Stream(lambda: sys.stdout), visible(text))


def complain(text: str) -> None:
    """Print exactly one line on standard error."""
    _line(Stream(lambda: sys.stderr), visible(f"atari_dqn: {text}").replace("\n", r"\n"))


def show_traceback() -> None:
    """Print the traceback of the current exception on standard error."""
    import traceback

    _line(Stream(lambda: sys.stderr), visible(traceback.format_exc().rstrip()))


def _line(stream: Stream, text: str) -> None:
    stream.write(f"{text}\n")
    stream.flush()


@contextlib.contextmanager
def appended(path: Path) -> Iterator[TextIO]:
    """Open a text file for appending; lines that cannot be written are dropped."""
    with contextlib.ExitStack() as stack:
        file: Any = None
        with contextlib.suppress(OSError):
            file = stack.enter_context(files.appending(Path(path)))
        stream: Any = Stream(lambda: file)
        yield stream
        stream.flush()


@contextlib.contextmanager
def guarded() -> Iterator[Stream]:
    """Make standard output and error unable to fail, for other packages, too. Yields standard output.

    Closed file descriptors 0 to 2 are opened on /dev/null: else the next opened file would receive C code's output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    before, hook = (sys.stdout, sys.stderr), threading.excepthook
    out, error = Stream(lambda: before[0]), Stream(lambda: before[1])
    sys.stdout, sys.stderr, threading.excepthook = out, error, _thread_failed
    try:
        yield out
    finally:
        out.flush()
        error.flush()
        (sys.stdout, sys.stderr), threading.excepthook = before, hook


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Print one line instead of a traceback for another package's thread, such as TensorBoard's on a full disk."""
    text = one_line(str(failure.exc_value))
    complain(f"in a background thread: {failure.exc_type.__name__}: {text}; the run continues")
