"""Read back what the W&B client wrote offline: a LevelDB log of protobuf records."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2  # not on each machine with a GPU, whose tests use some of test_saving.py

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # a block's tail too short for a record
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        parts += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def history(path: Path) -> list[dict[str, Any]]:
    """The rows of one .wandb file."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.HasField("history")
    ]


def summary(run_dir: Path) -> dict[str, Any]:
    """The last values of a run's summary."""
    (path,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for record in records(path)
        if record.HasField("summary")
        for item in record.summary.update
    }


def read(run_dir: Path) -> tuple[list[dict[str, Any]], dict[str, Any], list[Path]]:
    """(history rows, config, uploaded files) of the only offline run in a run's folder."""
    (path,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    config: dict[str, Any] = {}
    for record in records(path):
        for update in record.run.config.update if record.HasField("run") else []:
            config[update.key] = json.loads(update.value_json)
    return history(path), config, sorted((path.parent / "files").rglob("*.mp4"))
