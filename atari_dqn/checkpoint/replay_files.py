"""The replay on the disk: a file more for what was written since the last one, so that saving is quick.

A file holds rows first to last - 1 of the ring: their frames, actions, rewards and flags, as plain bytes in one
Zstandard frame. Each begins with the row that the one before it ends with, for the newest state is completed when the
next one comes. Names are made of numbers and the content's digest; none is ever read from a file.
"""

import hashlib
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import zstandard
from torch import Tensor

from atari_dqn.dqn.replay import Replay, Rows
from atari_dqn.envs.base import CUT
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.files import opened, read, replacing, sync_folder

FILE_BYTES = 64_000_000  # at most, before compression; what saving and loading take in memory
LEVEL = 3  # Zstandard's; 2 to 5 GB/s and 75 to 230 times smaller on frames of Pong, Breakout and Seaquest
MAX_WINDOW = 1 << 27  # what an archive may ask the reader to keep


NAME = re.compile(r"\d{10,}-\d{10,}-[0-9a-f]{16}\.zst")


class Segment(NamedTuple):
    """One file."""

    first: int  # row, counted since the run's start
    last: int  # exclusive
    size: int  # bytes on the disk
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.first:010d}-{self.last:010d}-{self.sha256[:16]}.zst"


class Damaged(Exception):
    """A segment is not what was written."""


def segments(listing: Any) -> list[Segment]:
    """A checkpoint's list of segments, checked. Raises ValueError."""
    found = [Segment(int(first), int(last), int(size), str(sha256)) for first, last, size, sha256 in listing]
    for segment, before in zip(found, [None, *found], strict=False):
        if not re.fullmatch("[0-9a-f]{64}", segment.sha256) or not 0 <= segment.first < segment.last < 1 << 48:
            raise ValueError("its list of replay files makes no sense")
        if before and not before.last - 1 <= segment.first < segment.last > before.last:
            raise ValueError("its list of replay files has no order")
    return found


class ReplayFiles:
    """What of a replay is in `folder`.

    Attributes:
        segments: the files, in order.
    """

    def __init__(self, folder: Path, known: Sequence[Segment] = ()) -> None:
        self._folder, self.segments = folder, list(known)

    def rows(self, replay: Replay) -> int:
        """How many rows a file holds: never more than half of the ring, which has a file's rows while it fills the
        next one."""
        return min(rows_in_a_file(replay), max(2, replay.rows // 2))

    def write(self, replay: Replay, upto: int) -> None:
        """Save the rows before `upto` that are in no file yet. Raises OSError."""
        before, rows = self.segments[-1].last if self.segments else 0, self.rows(replay)
        while before < upto:
            first = max(before - 1, replay.written - replay.rows, 0)
            before = min(upto, first + rows)
            if not self._folder.exists():
                self._folder.mkdir()
                sync_folder(self._folder.parent)
            self.segments.append(self._write(first, replay.read(first, before)))

    def _write(self, first: int, rows: Rows) -> Segment:
        parts = [memoryview(_bytes(part)) for part in rows]
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)
        chunks = compressor.compressobj(size=sum(map(len, parts)))
        packed = b"".join([*(chunks.compress(part) for part in parts), chunks.flush()])
        segment = Segment(first, first + len(rows.flags), len(packed), hashlib.sha256(packed).hexdigest())
        with replacing(self._folder / segment.name) as file:
            file.write(packed)
        return segment

    def held(self, replay: Replay, written: int) -> list[Segment]:
        """The files of which the ring still holds a row after `written` rows."""
        self.segments = [segment for segment in self.segments if segment.last > written - replay.rows]
        return list(self.segments)

    def tidy(self, wanted: Iterable[Segment]) -> None:
        """Remove all segments but those `wanted`."""
        names = {segment.name for segment in wanted}
        for path in self._folder.glob("*.zst"):
            if path.name not in names and NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def drop_damaged(self) -> list[Segment]:
        """Leave out, and return, those that are not there as they were written."""
        damaged = [segment for segment in self.segments if not self._whole(segment)]
        self.segments = [segment for segment in self.segments if segment not in damaged]
        return damaged

    def lost_rows(self, replay: Replay, written: int) -> int:
        """How many of the rows that the ring held after `written` are in no file."""
        oldest = max(0, written - replay.rows)
        there: set[int] = set()
        for segment in self.segments:
            there.update(range(max(oldest, segment.first), min(segment.last, written)))
        return written - oldest - len(there)

    def _whole(self, segment: Segment) -> bool:
        digest = hashlib.sha256()
        try:
            with opened(self._folder / segment.name) as file:
                if os.fstat(file.fileno()).st_size != segment.size:
                    return False
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError:
            return False
        return digest.hexdigest() == segment.sha256

    def _packed(self, segment: Segment, most: int) -> bytes:
        try:
            packed = read(self._folder / segment.name, most)
        except OSError:
            raise Damaged from None
        if hashlib.sha256(packed).hexdigest() != segment.sha256:
            raise Damaged
        return packed

    def load(self, replay: Replay, written: int, num_actions: int) -> None:
        """Fill an empty `replay` as it was after `written` rows; those that are in no file are never sampled, and the
        last one before them counts as cut off.

        Raises UserError where a file holds what its name and its checkpoint do not promise.
        """
        end = max(0, written - replay.rows)  # of what has been loaded
        for segment in self.segments:
            first = max(segment.first, written - replay.rows)
            if segment.last <= first:
                continue
            if end < first:
                replay.cut(end - 1)
            end = segment.last
            try:
                most = 2 * rows_in_a_file(replay) * _row_bytes(replay) + 1000  # packing never makes it twice as large
                rows = _unpack(self._packed(segment, most), segment.last - segment.first, replay)
                if rows.actions.max() >= num_actions or rows.flags.max() > CUT or not rows.rewards.isfinite().all():
                    raise ValueError("actions, flags or rewards that cannot be")
            except Damaged:
                raise UserError(f"{self._folder / segment.name} has changed since it was looked at") from None
            except (ValueError, zstandard.ZstdError) as error:
                raise UserError(f"{self._folder / segment.name} does not fit its checkpoint: {error}") from None
            replay.put(first, Rows(*(part[first - segment.first :] for part in rows)))
        if end < written:
            replay.cut(end - 1)
        replay.go_on(written)


def rows_in_a_file(replay: Replay) -> int:
    """As many as FILE_BYTES hold, and at least two: the one that was there before, and a new one."""
    return max(2, FILE_BYTES // _row_bytes(replay))


def _row_bytes(replay: Replay) -> int:
    return sum(part[0].nbytes for part in replay.parts())


def _bytes(part: Tensor) -> Any:
    return part.contiguous().view(-1).view(torch.uint8).numpy()


def _unpack(packed: bytes, length: int, replay: Replay) -> Rows:
    shapes = [(length, *part.shape[1:]) for part in replay.parts()]
    sizes = [math.prod(shape) * part.element_size() for shape, part in zip(shapes, replay.parts(), strict=True)]
    # Checked before memory is taken: a few bytes can promise any number of rows.
    if length > rows_in_a_file(replay) or zstandard.frame_content_size(packed) != sum(sizes):
        raise ValueError("another number of bytes than its rows take")
    rows = Rows(*(torch.empty(shape, dtype=part.dtype) for shape, part in zip(shapes, replay.parts(), strict=True)))
    reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(packed)
    for part, size in zip(rows, sizes, strict=True):
        view, done = memoryview(_bytes(part)), 0
        while done < size:
            count = reader.readinto(view[done:])
            if not count:
                raise ValueError("it ends too soon")
            done += count
    if reader.read(1):
        raise ValueError("it does not end where it should")
    return rows
