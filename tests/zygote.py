"""Starts of `python -m atari_dqn` in 0.1 s: forks of a process that has loaded torch and the rest, which takes 4 s.

They are real processes, children of whoever asks for them through `subprocess`. What the interpreter and the libraries
read from the environment when they are loaded is that of the tests; whoever asks for another gets a process that starts
from nothing, and so does everyone where there is no Linux.
"""

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import platform
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from typing import Any

MODULES = (  # all but the program itself
    "torch", "torch._dynamo", "hydra.main", "hydra._internal.hydra", "gymnasium", "ale_py", "cv2", "av", "wandb",
    "rich.live", "rich.progress", "torch.utils.tensorboard", "matplotlib.pyplot", "filelock", "psutil", "zstandard",
)  # fmt: skip
WHEN_LOADED = ("PYTHON", "LC_", "LANG", "OMP_", "GOMP_", "KMP_", "MKL_")
CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine()) if sys.platform == "linux" else None
CLONE_PARENT = 0x8000


def _when_loaded(env: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in env.items() if key.startswith(WHEN_LOADED) and key != "PYTHONPATH"}


_fork_exec = getattr(subprocess, "_fork_exec", None)  # of Python 3.11 and newer
_server: socket.socket | None = None
_environ: dict[str, str] = {}  # the server's


def install() -> None:
    """Have `subprocess` start what can be forked by forking it."""
    if CLONE and _fork_exec:
        subprocess._fork_exec = _start  # type: ignore[attr-defined]
        _environ.update(os.environ)


def _start(*words: Any) -> int:
    """In place of subprocess._fork_exec, see there; a pid."""
    global _server
    args, _, _, kept, cwd, environment, stdin, _, _, stdout, _, stderr, _, errors, _, session = words[:16]
    pairs = None if environment is None else (os.fsdecode(pair).split("=", 1) for pair in environment)
    env = {**os.environ} if pairs is None else {key: value for key, value in pairs}
    changed = _when_loaded(env) != _when_loaded(_environ)
    if args[:3] != [sys.executable, "-m", "atari_dqn"] or {*kept} != {errors} or changed:
        return _fork_exec(*words)  # type: ignore[misc, no-any-return]
    if _server is None:
        _server, theirs = socket.socketpair()
        subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=_environ | {"OPENBLAS_NUM_THREADS": "1"},  # numpy would make threads, which no fork has
        )
        theirs.close()
    handles = [number if handle == -1 else handle for number, handle in enumerate((stdin, stdout, stderr))]
    asked = json.dumps(
        {
            "words": args[3:], "env": env, "cwd": os.fsdecode(cwd or os.getcwd()), "session": bool(session),
            "cores": sorted(os.sched_getaffinity(0)),
        }
    ).encode()  # fmt: skip
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", handles))]
    _server.sendmsg([len(asked).to_bytes(4, "big")], rights)
    _server.sendall(asked)
    return int.from_bytes(_server.recv(4, socket.MSG_WAITALL), "big")


def serve(server: socket.socket) -> None:
    for module in MODULES:
        importlib.import_module(module)
    if len(os.listdir("/proc/self/task")) > 1:
        raise SystemExit("a module made a thread when it was loaded, so this cannot be forked")
    gc.freeze()
    base = [path for path in sys.path[1:] if path not in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    api = ctypes.PyDLL(None)
    api.syscall.restype = ctypes.c_long
    while header := server.recvmsg(4, socket.CMSG_SPACE(12)):
        length, ancillary = header[:2]
        if not length:
            return
        handles = array.array("i")
        handles.frombytes(ancillary[0][2])
        asked = json.loads(server.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
        api.PyOS_BeforeFork()
        pid = api.syscall(CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)  # a child of our parent
        if pid == 0:
            api.PyOS_AfterFork_Child()
            server.close()
            become(asked, handles, base)
        api.PyOS_AfterFork_Parent()
        for handle in handles:
            os.close(handle)
        server.sendall(pid.to_bytes(4, "big"))


def become(asked: dict[str, Any], handles: "array.array[int]", base: list[str]) -> None:
    """Be `python -m atari_dqn`, from here to the end."""
    code = 1
    try:
        if asked["session"]:
            os.setsid()
        for number, handle in enumerate(handles):
            os.dup2(handle, number)
        for handle in {*handles} - {0, 1, 2}:
            os.close(handle)
        os.sched_setaffinity(0, asked["cores"])
        os.chdir(asked["cwd"])
        os.environ.clear()
        os.environ.update(asked["env"])
        own = [path for path in asked["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
        sys.path[:] = [os.getcwd(), *own, *base]
        for number, stream in enumerate(("stdin", "stdout", "stderr")):
            old, lines = getattr(sys, stream), os.isatty(number) or number == 2
            raw = io.FileIO(number, "w" if number else "r", closefd=False)
            buffer = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
            made = io.TextIOWrapper(buffer, old.encoding, old.errors, line_buffering=lines)
            setattr(sys, stream, made)
            setattr(sys, f"__{stream}__", made)
        sys.argv = ["atari_dqn", *asked["words"]]
        runpy.run_module("atari_dqn", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    os._exit(code)  # without taking thousands of modules apart


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
