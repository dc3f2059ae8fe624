"""The replay on disk: each save adds a file with the rows written since the last one, so that saving is fast.

A file holds rows first to last - 1 of the ring: frames, actions, rewards and flags, as raw bytes in one Zstandard
frame. Each file repeats the last row of the one before it, because the newest row is only completed by the next step.
File names consist of row numbers and the content's digest; no name is ever read from a file.
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

FILE_BYTES = 64_000_000  # at most, before compression; also the memory that saving and loading need
LEVEL = 3  # Zstandard's; 2 to 5 GB/s and 75 to 230 times smaller on frames of Pong, Breakout and Seaquest
MAX_WINDOW = 1 << 27  # largest window that a file may request


NAME = re.compile(r"\d{10,}-\d{10,}-[0-9a-f]{16}\.zst")


class Segment(NamedTuple):
    """One file."""

    first: int  # row, counted since the run's start
    last: int  # exclusive
    size: int  # bytes on disk
    sha256: str

    @property
    def name(self) -> str:
        return f"{self.first:010d}-{self.last:010d}-{self.sha256[:16]}.zst"


class Damaged(Exception):
    """A segment differs from what was written."""


def segments(listing: Any) -> list[Segment]:
    """Parse and validate a checkpoint's list of segments. Raises ValueError."""
    found = [Segment(int(first), int(last), int(size), str(sha256)) for first, last, size, sha256 in listing]
    for segment, before in zip(found, [None, *found], strict=False):
        if not re.fullmatch("[0-9a-f]{64}", segment.sha256) or not 0 <= segment.first < segment.last < 1 << 48:
            raise ValueError("its list of replay files is invalid")
        if before and not before.last - 1 <= segment.first < segment.last > before.last:
            raise ValueError("its list of replay files is out of order")
    return found


class ReplayFiles:
    """The files of a replay in `folder`.

    Attributes:
        segments: the files, in order.
    """

    def __init__(self, folder: Path, known: Sequence[Segment] = ()) -> None:
        self._folder, self.segments = folder, list(known)

    def rows(self, replay: Replay) -> int:
        """Rows per file: at most half of the ring, which must still hold a file's rows while it fills the next."""
        return min(rows_in_a_file(replay), max(2, replay.rows // 2))

    def write(self, replay: Replay, upto: int) -> None:
        """Save the rows before `upto` that are not in any file yet. Raises OSError."""
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
        """The files with rows that the ring still holds after `written` rows."""
        self.segments = [segment for segment in self.segments if segment.last > written - replay.rows]
        return list(self.segments)

    def tidy(self, wanted: Iterable[Segment]) -> None:
        """Remove all segments except those in `wanted`."""
        names = {segment.name for segment in wanted}
        for path in self._folder.glob("*.zst"):
            if path.name not in names and NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def drop_damaged(self) -> list[Segment]:
        """Drop and return the segments that are missing or damaged."""
        damaged = [segment for segment in self.segments if not self._whole(segment)]
        self.segments = [segment for segment in self.segments if segment not in damaged]
        return damaged

    def lost_rows(self, replay: Replay, written: int) -> int:
        """How many of the rows that the ring held after `written` rows are not in any file."""
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
        """Restore an empty `replay` to its state after `written` rows. Rows that are not in any file are never sampled,
        and the last row before such a gap is marked as truncated.

        Raises UserError if a file's content does not match its checkpoint.
        """
        end = max(0, written - replay.rows)  # of the rows loaded so far
        for segment in self.segments:
            first = max(segment.first, written - replay.rows)
            if segment.last <= first:
                continue
            if end < first:
                replay.cut(end - 1)
            end = segment.last
            try:
                most = 2 * rows_in_a_file(replay) * _row_bytes(replay) + 1000  # compression never doubles the size
                rows = _unpack(self._packed(segment, most), segment.last - segment.first, replay)
                if rows.actions.max() >= num_actions or rows.flags.max() > CUT or not rows.rewards.isfinite().all():
                    raise ValueError("invalid actions, flags or rewards")
            except Damaged:
                raise UserError(f"{self._folder / segment.name} changed during loading; resume again") from None
            except (ValueError, zstandard.ZstdError) as error:
                raise UserError(f"{self._folder / segment.name} does not match its checkpoint: {error}") from None
            replay.put(first, Rows(*(part[first - segment.first :] for part in rows)))
        if end < written:
            replay.cut(end - 1)
        replay.go_on(written)


def rows_in_a_file(replay: Replay) -> int:
    """Rows that fit into FILE_BYTES, at least two: the last row of the previous file and a new one."""
    return max(2, FILE_BYTES // _row_bytes(replay))


def _row_bytes(replay: Replay) -> int:
    return sum(part[0].nbytes for part in replay.parts())


def _bytes(part: Tensor) -> Any:
    return part.contiguous().view(-1).view(torch.uint8).numpy()


def _unpack(packed: bytes, length: int, replay: Replay) -> Rows:
    shapes = [(length, *part.shape[1:]) for part in replay.parts()]
    sizes = [math.prod(shape) * part.element_size() for shape, part in zip(shapes, replay.parts(), strict=True)]
    # Checked before allocating: a small file can claim any number of rows.
    if length > rows_in_a_file(replay) or zstandard.frame_content_size(packed) != sum(sizes):
        raise ValueError("its size does not match its rows")
    rows = Rows(*(torch.empty(shape, dtype=part.dtype) for shape, part in zip(shapes, replay.parts(), strict=True)))
    reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(packed)
    for part, size in zip(rows, sizes, strict=True):
        view, done = memoryview(_bytes(part)), 0
        while done < size:
            count = reader.readinto(view[done:])
            if not count:
                raise ValueError("it is truncated")
            done += count
    if reader.read(1):
        raise ValueError("it has trailing data")
    return rows
