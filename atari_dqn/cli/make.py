"""What the Makefile's variables mean to the program. The standard library suffices: this runs before .venv is there.

    python -I atari_dqn/cli/make.py            check what was typed: each goal, what it needs, what it would not use
    python -I atari_dqn/cli/make.py train      run a target's command with its variables as settings
    python -I atari_dqn/cli/make.py -- FILE    run this Python with what follows, and ARGS

The help lines of the Makefile in this folder are the table: a target uses the variables that its line names. Values
come by the environment, as they were typed.
"""

import difflib
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

SETTINGS = {
    "GAME": "env.game", "SEED": "seed", "PRESET": "preset", "STEPS": "total_steps", "REPLAY": "replay.capacity",
    "WANDB": "logger.wandb", "GAMES": "sweep.games", "SEEDS": "sweep.seeds", "RAY": "sweep.address",
    "STORAGE": "sweep.storage", "RUNS": "runs", "RUN": "run", "CKPT": "checkpoint", "VIEW": "view",
    "PROTOCOL": "protocol", "EPISODES": "evaluation.episodes", "INIT": "init", "FILE": "source",
}  # fmt: skip
VARIABLES = (*SETTINGS, "CLEANRL", "ARGS")
MAKES_OWN = ("PYTHON", "SHELL", "MAKE", "MAKEFLAGS", "MAKEFILES", "MAKEOVERRIDES")
NEEDS = {
    "resume": "RUN", "compare": "RUN", "report": "RUN", "evaluate": "CKPT", "video": "CKPT", "watch": "CKPT",
    "export": "CKPT", "collect": "CKPT", "match": "CKPT", "sweep": "GAMES", "import": "FILE",
}  # fmt: skip
INSTEAD = {"RUN": "CKPT", "CKPT": "RUN"}
MEANS = {
    "RUN": "a folder in runs/, or latest",
    "CKPT": "a .pt file, a folder in runs/, or latest",
    "FILE": "a .cleanrl_model, Stable-Baselines3's .zip, or atari-agents' .gz",
    "GAMES": "atari57, atari26, nature49, or names with commas between",
}


class Wrong(Exception):
    """What was typed cannot be meant: one line that says what to type instead."""


def targets(makefile: str) -> dict[str, list[str]]:
    """The Makefile's targets, each with the variables that it uses."""
    found = {}
    for line in makefile.splitlines():
        if match := re.match(r"([a-z0-9-]+):(?!=)(?:.*?##(.*))?", line):
            words = set(re.findall(r"[A-Z]+", match[2] or ""))
            found[match[1]] = [name for name in VARIABLES if name in words]
    return found | {"help": list(VARIABLES)}


def check(makefile: str, env: Mapping[str, str]) -> None:
    """Raise Wrong if a goal is none, lacks what it needs, or where none of them uses what was typed.

    Args:
        env: GOALS and TYPED, the names on make's command line; INHERITED, a parent make's flags; and the values.
    """
    known, goals = targets(makefile), env.get("GOALS", "").split() or ["help"]
    for goal in goals:
        if goal not in known and not goal.startswith("."):
            near = _near(goal, known)
            raise Wrong(
                f"there is no target {goal!r}{near and f' (did you mean {near}?)'}; `{make()} help` lists them, and "
                f"values have names: `make train GAME=Pong`"
            )
    used = [name for name in VARIABLES if any(name in known.get(goal, ()) for goal in goals)]
    for name in sorted(env.get("TYPED", "").split()):
        value = env.get(name, "")
        if name in MAKES_OWN or re.search(rf"(^|\s){re.escape(name)}=", env.get("INHERITED", "")):
            continue
        if name not in used:
            other = INSTEAD.get(name, "")
            near = other if other in used else _near(name, used)
            those = "it uses " + ", ".join(used) if used else "it takes no variables"
            those += '; any other setting goes into ARGS="key=value"' if "ARGS" in used and not near else ""
            raise Wrong(
                f"`{make()} {' '.join(goals)}` does not use {name}={near and f' (did you mean {near}?)'}; {those}"
            )
        if not value.strip() and name != "ARGS":
            raise Wrong(f"{name}= is empty; give it a value, or leave it out")
    for goal in goals:
        needed = NEEDS.get(goal, "")
        if needed and not env.get(needed, "").strip():
            raise Wrong(f"`make {goal}` needs {needed}: {needed}=... is missing, {MEANS[needed]}")
    arguments(env)


def arguments(env: Mapping[str, str]) -> list[str]:
    """ARGS, split as a shell would. Raises Wrong."""
    try:
        return shlex.split(env.get("ARGS", ""))
    except ValueError as error:
        raise Wrong(f"ARGS={env['ARGS']}: {str(error).lower()}") from None


def command(target: str, uses: Iterable[str], env: Mapping[str, str]) -> list[str]:
    """The arguments of `python -m atari_dqn` for a target."""
    given = {name: env[name] for name in uses if name in SETTINGS and env.get(name)}
    if target in ("train", "profile") or (target == "play" and "CKPT" not in given):
        given.setdefault("GAME", "Breakout")
    words = ["train" if target == "resume" else target]
    for name, value in given.items():
        key = {"resume RUN": "resume", "collect EPISODES": "episodes"}.get(f"{target} {name}", SETTINGS[name])
        is_cartpole = value.lower() in ("cartpole", "cartpole-v1")
        if name == "GAME" and target in ("train", "profile"):
            kind = "gymnasium" if ":" in value else "atari"  # my_module:MyEnv-v0
            words += ["env=cartpole"] if is_cartpole else [f"env={kind}", f"{key}={value}"]
        elif name == "GAMES" and is_cartpole:
            words += ["env=cartpole", f"{key}=CartPole-v1"]
        else:
            words.append(f"{key}={value}")
    return [*words, *arguments(env)] if "ARGS" in uses else words


def main(words: list[str]) -> None:
    env = dict(os.environ)
    makefile = Path("Makefile").read_text(encoding="utf-8")
    if not words:
        check(makefile, env)
        return
    if words[0] == "--":
        started = [*words[1:], *arguments(env)]
    else:
        started = ["-m", "atari_dqn", *command(words[0], targets(makefile)[words[0]], env)]
    for name in (*VARIABLES, "TYPED", "GOALS", "INHERITED", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
        env.pop(name, None)  # not for a make that the command may start
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *started], env)


def make() -> str:
    """How make is called for the Makefile in this folder."""
    return "make" if Path("atari_dqn").is_dir() else f"make -C {Path.cwd().name}"


def _near(word: str, options: Iterable[str]) -> str:
    """The one of `options` that is nearest, in whatever case; nothing where none is near."""
    plain = {name.lower(): option for option in options for name in (SETTINGS.get(option, option), option)}
    near = difflib.get_close_matches(word.lower(), plain, n=1, cutoff=0.6)
    return plain[near[0]] if near else ""


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Wrong as error:
        print(f"make: {error}", file=sys.stderr)
        sys.exit(2)
