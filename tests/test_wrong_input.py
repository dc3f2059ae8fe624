"""Every wrong command in wrong_input.txt gets its line and its exit code, no traceback, and leaves nothing behind."""

import pickle
import re
import shlex
import shutil
import zipfile
from pathlib import Path

import filelock
import pytest
import torch
from conftest import sealed, small_run
from hydra._internal.hydra import Hydra

from atari_dqn import __main__
from atari_dqn.checkpoint import checkpoints
from atari_dqn.training.run import Run

TABLE = [
    re.fullmatch(r"(.*?) => (\d): (.*)", line)
    for line in (Path(__file__).parent / "wrong_input.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the names in braces stand for."""
    folder = tmp_path_factory.mktemp("inputs")
    run = folder / "run"
    small_run(
        run, "env.game=Breakout", "num_envs=2", "total_steps=80", "replay.warmup_steps=40", "evaluation.episodes=1",
        "protocol.max_frames=40",
    ).go()  # fmt: skip
    pole = small_run(folder / "pole", "env=cartpole", "num_envs=2", "total_steps=40", "evaluation.episodes=1")
    pole.go()
    good = run / "checkpoints" / "best.pt"
    whole, content = good.read_bytes(), dict(checkpoints.Checkpoint(good).content)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for name, data in {"cut": whole[: len(whole) // 2], "flipped": bytes(flipped), "text": b"hello\n"}.items():
        (folder / f"{name}.pt").write_bytes(data)
    torch.save({"model": torch.zeros(3)}, folder / "foreign.pt")
    with zipfile.ZipFile(folder / "zip.pt", "w") as archive:
        archive.writestr("letter.txt", "hello")
    (folder / "pickle.pt").write_bytes(pickle.dumps({"model": [1, 2]}))
    sealed(content | {"version": 2}, folder / "older.pt")
    sealed(content | {"actions": ["JUMP", "DUCK", "SING", "RUN"]}, folder / "strangers.pt")
    sealed(content | {"actions": ["NOOP"]}, folder / "fewer.pt")
    larger = content["config"] | {"env": content["config"]["env"] | {"screen_size": 100}}
    sealed(content | {"config": larger}, folder / "resized.pt")
    for name in ("damaged", "noconfig", "secret", "busy"):
        shutil.copytree(run, folder / name)
    for path in (folder / "damaged" / "checkpoints").glob("*.pt"):
        path.write_bytes(bytes(flipped))
    (folder / "noconfig" / "config.yaml").write_text("env: [oh\n")
    text = (run / "config.yaml").read_text()
    (folder / "secret" / "config.yaml").write_text(text.replace("project: null", "project: ${oc.env:HOME}"))
    (folder / "empty").mkdir()
    (folder / "busy" / "process.json").write_text('{"pid": 1, "host": "here", "since": "today"}')
    cartpole = folder / "pole" / "checkpoints" / "latest.pt"
    files = {path.stem: path for path in folder.iterdir()} | {"good": good, "cartpole": cartpole}
    return {name: str(path) for name, path in files.items()}


@pytest.mark.parametrize("row", TABLE, ids=[row[1] if row else "unreadable" for row in TABLE])
def test_wrong_input_gets_its_line_and_code_and_leaves_nothing(row, names, capsys, monkeypatch, tmp_path):
    typed, code, line = row.groups()
    for name, path in names.items():
        typed, line = typed.replace(f"{{{name}}}", path), line.replace(f"{{{name}}}", path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Hydra, "get_mode", lambda *words, **more: None)  # it composes all, only to read hydra.mode
    monkeypatch.setattr(Run, "go", lambda run: pytest.fail("this was not refused"))
    before = {path: path.stat().st_mtime_ns for path in Path(names["empty"]).parent.rglob("*")}
    with filelock.FileLock(Path(names["busy"]) / ".lock"):
        found = __main__.main(shlex.split(typed))
    said = capsys.readouterr().err
    assert found == int(code) and line in said, said
    assert said.count("\n") == 1 and said.startswith("atari_dqn: ") and "Traceback" not in said and len(said) < 700
    assert not list(tmp_path.iterdir())  # nothing half-made
    after = {path: path.stat().st_mtime_ns for path in Path(names["empty"]).parent.rglob("*")}
    changed = {path.name for path in after if after[path] != before.get(path)} | {p.name for p in before.keys() - after}
    assert changed <= {".lock", "process.json", "run", "damaged", "noconfig", "secret", "busy"}  # a folder's lock


def test_there_are_enough_of_them():
    assert len(TABLE) >= 60 and len({row[1] for row in TABLE}) == len(TABLE)
