"""Feed the readers of checkpoints and replay files with broken and cheating ones, and see that they only refuse.

Bytes are flipped, cut, doubled, and replaced by what such files are made of; half of the files get a right digest
afterwards, as a cheat's would have, and some right checksums inside, too, so that all that lies behind is reached.
Each batch is read in a process of its own, with little memory and time: a crash, a hang or too much memory ends it,
and the fuzzing, with the file that did it.

    python tests/fuzz.py --minutes 5
"""

import argparse
import hashlib
import multiprocessing
import random
import resource
import shutil
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import torch
from conftest import sealed, small_run

from atari_dqn.checkpoint import checkpoints, replay_files
from atari_dqn.checkpoint.replay_files import ReplayFiles, Segment
from atari_dqn.dqn.replay import Replay
from atari_dqn.utils.errors import UserError

BATCH, SECONDS, MEMORY = 200, 120, 300_000_000  # files; for each batch; bytes above what an idle reader takes
PIECES = [
    b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06", b"\x28\xb5\x2f\xfd", b"cos\nsystem\n",
    b"ctorch\nTensor\n",
    b"cbuiltins\nbytearray\n", b"R.", b"\x80\x02", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xff" * 8, bytes(64),
    b"torch\nFloatStorage\n", b"X\xff\xff\xff\x7f", b"K\xff", b"}", b"(", b"l", b"Q", b"archive/data.pkl",
]  # fmt: skip


def broken(whole: bytes, chance: random.Random) -> bytes:
    """`whole` after one to six accidents."""
    data = bytearray(whole)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        here, length = chance.randrange(len(data) or 1), chance.choice([1, 1, 2, 4, 8, 100, 5000])
        # Most of a file is numbers; its structure is at both ends.
        if chance.random() < 0.5:
            here = chance.choice([chance.randrange(min(4000, len(data) or 1)), max(0, len(data) - here % 4000 - 1)])
        kind = chance.randrange(7)
        if kind == 0 and data:
            data[here] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del data[here : here + length]
        elif kind == 2:
            data[here:here] = data[here : here + length]
        elif kind == 3:
            data[here : here + length] = chance.randbytes(length)
        elif kind == 4:
            piece = chance.choice(PIECES)
            data[here : here + len(piece)] = piece
        elif kind == 5:
            del data[here:]
        elif data:
            data[here] = chance.choice([0, 1, 127, 128, 255])
    return bytes(data)


def resealed(data: bytes) -> bytes:
    """With the digest that a checkpoint of these bytes would have."""
    body = data[:-64]
    return body + hashlib.sha256(body).hexdigest().encode()


def read_batch(seed: int, folder: Path, report: "multiprocessing.SimpleQueue[Counter[str]]") -> None:
    """Break and read BATCH files; the process ends at once where memory is asked for beyond MEMORY."""
    torch.set_num_threads(1)
    chance, counts = random.Random(seed), Counter[str]()
    good, packed = (folder / "latest.pt").read_bytes(), (folder / "segment.zst").read_bytes()
    here = folder / f"batch{seed}"
    here.mkdir()
    content = dict(checkpoints.Checkpoint(folder / "latest.pt").content)
    with zipfile.ZipFile(folder / "latest.pt") as archive:
        pickled = archive.read("archive/data.pkl")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    for _ in range(BATCH):
        case = here / "case"
        kind = chance.choice(["checkpoint", "sealed", "pickle", "replay", "cheating replay"])
        try:
            if kind == "pickle":
                sealed(content, case, pickled=broken(pickled, chance))
            else:
                data = broken(packed if "replay" in kind else good, chance)
                case.write_bytes(resealed(data) if kind == "sealed" else data)
            if "replay" not in kind:
                checkpoints.Checkpoint(case)
            else:
                digest = hashlib.sha256(case.read_bytes() if "cheating" in kind else packed).hexdigest()
                segment = Segment(0, 60, case.stat().st_size, digest)
                shutil.copy(case, here / segment.name)
                files = ReplayFiles(here, replay_files.segments([list(segment)]))
                if files.drop_damaged():
                    raise UserError("damaged")
                files.load(Replay(200, 3, (5, 4), stack=2), 60, 4)
            counts["read"] += 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 500, error
            counts["refused"] += 1
    report.put(counts)


def fuzz(seconds: float, seed: int = 0) -> Counter[str]:
    """Fuzz for some time; what became of the files. Raises SystemExit where a reader did not stand it."""
    counts, end = Counter[str](), time.time() + seconds
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = small_run(
            folder / "run", "env=cartpole", "total_steps=1_000", "replay.capacity=1_000", "replay.warmup_steps=500",
            "evaluation.episodes=1", "protocol.max_frames=50",
        )  # fmt: skip
        run.go()
        (folder / "latest.pt").write_bytes((folder / "run" / "checkpoints" / "latest.pt").read_bytes())
        replay = Replay(200, 3, (5, 4), stack=2)
        replay.begin(torch.ones(3, 5, 4, dtype=torch.uint8))
        for i in range(59):
            frames = torch.full((3, 5, 4), i, dtype=torch.uint8)
            replay.write(torch.ones(3), torch.ones(3), frames, torch.zeros(3, dtype=torch.uint8))
        files = ReplayFiles(folder / "replay")
        files.write(replay, replay.written)
        (folder / "segment.zst").write_bytes((folder / "replay" / files.segments[0].name).read_bytes())
        while time.time() < end:
            report: multiprocessing.SimpleQueue[Counter[str]] = spawn.SimpleQueue()
            reader = spawn.Process(target=read_batch, args=(seed, folder, report))
            reader.start()
            reader.join(SECONDS)
            if reader.exitcode != 0:
                reader.kill()
                kept = Path(f"fuzz-{seed}.bin").absolute()
                kept.write_bytes((folder / f"batch{seed}" / "case").read_bytes())
                raise SystemExit(f"a reader ended with {reader.exitcode} (None: it hung) on {kept}, seed {seed}")
            counts += report.get()
            seed += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    counts = fuzz(60 * asked.minutes, asked.seed)
    print(f"{counts.total():,} broken files: {counts['refused']:,} refused, {counts['read']:,} were still sound")


if __name__ == "__main__":
    main()
