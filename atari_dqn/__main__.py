"""python -m atari_dqn COMMAND key=value ...

Commands:
  train      learn a game, or go on with a run (resume=PATH)
  demo       learn Pong in some minutes, film it, draw its curve
  sweep      learn many games with many seeds, on one machine or a Ray cluster
  aggregate  statistics of many games and seeds, beside published ones
  evaluate   play whole games with a checkpoint and count the score
  compare    draw a run's curve on a published one
  video      film a game that a checkpoint plays
  watch      show a checkpoint's games in a window
  runs       list the runs in runs/: how far, how good, how large
  report     put runs into one HTML file: settings, curves, scores, films
  dashboard  the same page, live in a browser on this machine
  play       play a game by hand, with a checkpoint's advice or without
  profile    say where the time of training goes
  games      list the games that can be learnt
  doctor     say what is wrong with this machine, if anything

`python -m atari_dqn train -m env.game=Pong,Breakout seed=1,2,3` makes six runs, one after another.
`python -m atari_dqn COMMAND --cfg job` prints a command's settings; conf/ explains them.
"""

import atexit
import dataclasses
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atari_dqn.utils import console
from atari_dqn.utils.errors import JobFailed, RunFailed, Stopped, UserError

if TYPE_CHECKING:  # the real imports are slow, and wait until a command needs them
    from atari_dqn.checkpoint.checkpoints import Checkpoint
    from atari_dqn.config.commands import PlayConfig
    from atari_dqn.config.schema import Protocol


def train(composed: Any) -> float | None:
    """Returns what a sweeper is to make large: the last evaluation's mean, or the last training games'."""
    from atari_dqn.checkpoint import folders
    from atari_dqn.config import compose
    from atari_dqn.tracking import curves
    from atari_dqn.training import launch
    from atari_dqn.utils import signals

    config = compose.to_train_config(composed)
    run = launch.train(config, compose.task_overrides())
    if run and run.outcome == "stopped":
        signals.pass_on()
        if compose.is_multirun():
            raise Stopped
    folder = run.folder if run else folders.find(config)
    return curves.objective(folder) if folder and compose.is_multirun() else None


def demo(composed: Any) -> None:
    from atari_dqn.cli import demo
    from atari_dqn.config import compose

    demo.demo(compose.to_train_config(composed), compose.task_overrides())


def profile(composed: Any) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # before torch is loaded; its profiler talks
    from atari_dqn.config import compose, unread
    from atari_dqn.training import profiler

    config = compose.to_train_config(composed)
    unread.refuse(config, compose.task_overrides())
    profiler.profile(config)


def _asked(composed: Any) -> "tuple[PlayConfig, Checkpoint, Protocol]":
    """What evaluate, video and watch share: the checked request, its checkpoint, its protocol.

    Tells what the protocol asks for in vain, and what the environment does by itself.
    """
    from atari_dqn.checkpoint import checkpoints
    from atari_dqn.config import compose, unread, validate
    from atari_dqn.dqn import networks
    from atari_dqn.evaluation.protocol import environment
    from atari_dqn.utils import devices

    asked = compose.to_object(composed)
    device = devices.choose_device(asked.device)
    checkpoint = checkpoints.Checkpoint(checkpoints.find(asked.checkpoint), device)
    if asked.checkpoint == "latest":
        console.say(f"checkpoint: {checkpoint.path}")
    networks.set_threads(checkpoint.config.network.name, device)
    protocol = compose.merge_protocol(asked.protocol, checkpoint.config.protocol)
    env = environment(checkpoint.config.env, protocol, asked.env.game, asked.env.arguments)
    env = dataclasses.replace(checkpoint.config.env, game=env.game, arguments=env.arguments)
    played = dataclasses.replace(checkpoint.config, protocol=protocol, env=env)
    unread.refuse(played, compose.task_overrides(), "protocol.")
    for note in (*unread.notes(played, "protocol."), *validate.own_notes(played.env)):
        console.say(f"note: {note}")
    return asked, checkpoint, protocol


def evaluate(composed: Any) -> None:
    from atari_dqn.checkpoint import outputs
    from atari_dqn.data import scores
    from atari_dqn.evaluation import evaluate
    from atari_dqn.evaluation.player import seat
    from atari_dqn.registry import environments
    from atari_dqn.tracking import display
    from atari_dqn.utils import files
    from atari_dqn.utils.text import plural

    asked, checkpoint, protocol = _asked(composed)
    env, player = seat(checkpoint, protocol, asked.env.game, asked.env.arguments)
    name = f"{checkpoint.path.stem}-{environments.bare(env.game)}-{files.name(protocol.name)}.json"
    output = outputs.choose(asked.output, checkpoint.path.parent / name, (".json",), is_kept=True)
    view, episodes = console.Console(), asked.evaluation.episodes
    seldom = display.Seldom(view)
    with view.status(f"0 of {plural(episodes, 'game')} played") as status:

        def tell(played: list[Any]) -> None:
            text = f"{len(played)} of {plural(episodes, 'game')} played"
            if played:
                last = played[-1]
                text += f", the last one {last.score:.10g}{scores.human(env.game, last.score, last.whole)}"
            status.update(text)
            if seldom.is_due():
                view.print(text, soft_wrap=True)

        result = evaluate.evaluate(
            checkpoint, protocol, env, player, episodes, asked.evaluation.num_envs, asked.seed, tell
        )
    evaluate.report(result, output, view)


def _dress(asked: Any, env: Any, player: Any) -> Any:
    """What the view that is asked for puts around the pictures."""
    from atari_dqn.viewing import inspector, video

    return (lambda screen: inspector.Inspected(screen, player, env.game)) if asked.view == "inspect" else video.plain


def video(composed: Any) -> None:
    from atari_dqn.checkpoint import outputs
    from atari_dqn.evaluation.player import seat
    from atari_dqn.registry import environments
    from atari_dqn.viewing import screens
    from atari_dqn.viewing import video as videos

    asked, checkpoint, protocol = _asked(composed)
    env, player = seat(checkpoint, protocol, asked.env.game, asked.env.arguments)
    folder = checkpoint.path.parent
    folder = folder.parent / "videos" if folder.name == "checkpoints" else folder
    name = f"{checkpoint.path.stem}-{environments.bare(env.game)}-seed{asked.seed}.mp4"
    output = outputs.choose(asked.output, folder / name, screens.FILMS, is_kept=True)
    dress = _dress(asked, env, player)
    game, seconds = videos.film(player, env, protocol.epsilon, asked.seed, output, asked.max_seconds, dress=dress)
    console.say(f"{env.game}: score {videos.score(env, game)} in {seconds:.1f} seconds of play; written: {output}")


def watch(composed: Any) -> None:
    from atari_dqn.evaluation.player import seat
    from atari_dqn.viewing import video as videos

    asked, checkpoint, protocol = _asked(composed)
    env, player = seat(checkpoint, protocol, asked.env.game, asked.env.arguments)
    videos.watch(player, env, protocol.epsilon, asked.seed, _dress(asked, env, player))


def play(composed: Any) -> None:
    from atari_dqn.checkpoint import checkpoints, outputs
    from atari_dqn.config import compose
    from atari_dqn.envs import factory
    from atari_dqn.envs.atari import atari_actions
    from atari_dqn.evaluation.player import Player, seat
    from atari_dqn.utils import devices
    from atari_dqn.viewing import play, screens

    asked = compose.to_object(composed)
    device = devices.choose_device(asked.device)
    if asked.checkpoint is not None:
        checkpoint = checkpoints.Checkpoint(checkpoints.find(asked.checkpoint), device)
        env, player = seat(checkpoint, checkpoint.config.protocol, asked.env.game, asked.env.arguments)
        name = str(checkpoint.path)
    elif asked.env.game is not None:
        env = compose.environment(asked.env.game, asked.env.arguments)
        player, name = None, ""
    else:
        raise UserError("which game? set env.game (GAME=Pong), or checkpoint (CKPT=runs/...)")
    if env.kind == "atari" and "NOOP" not in atari_actions(env.game, env.full_action_space):
        env = dataclasses.replace(env, full_action_space=True)  # else no key would mean FIRE
        if player:
            names = atari_actions(env.game, True)
            player = Player(player.network, player.learnt, names)
    envs = factory.make(env, 1)
    envs.close()
    screens.check_display(play.REMEDY)
    play.play(player, env, envs.actions, asked.seed, outputs.choose(asked.output, Path(), (".csv",)), name)


def compare(composed: Any) -> None:
    from atari_dqn.analysis import compare
    from atari_dqn.config import compose

    compare.compare(compose.to_object(composed), console.Console())


def report(composed: Any) -> None:
    from atari_dqn.analysis import report
    from atari_dqn.config import compose

    report.write(compose.to_object(composed), console.Console())


def runs(composed: Any) -> None:
    from atari_dqn.analysis import runs
    from atari_dqn.config import compose

    runs.show(compose.to_object(composed).runs, console.Console())


def dashboard(composed: Any) -> None:
    from atari_dqn.analysis import dashboard
    from atari_dqn.config import compose

    dashboard.serve(compose.to_object(composed), console.Console())


def aggregate(composed: Any) -> None:
    from atari_dqn.analysis import aggregate
    from atari_dqn.config import compose

    aggregate.aggregate(compose.to_object(composed), console.Console())


def sweep(composed: Any) -> None:
    from atari_dqn.config import compose
    from atari_dqn.sweep import sweep

    train_alone, asked = compose.apart(composed, "sweep")
    sweep.sweep(compose.to_train_config(train_alone), asked, compose.task_overrides(), console.Console())


COMMANDS: dict[str, Callable[[Any], Any]] = {
    "train": train, "demo": demo, "evaluate": evaluate, "compare": compare, "video": video, "watch": watch,
    "play": play, "report": report, "runs": runs, "dashboard": dashboard, "profile": profile, "sweep": sweep,
    "aggregate": aggregate,
}  # fmt: skip


def hydra_command(command: str, words: list[str]) -> int:
    """Run a command under Hydra; the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us, not the screen
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from atari_dqn.cli import options
    from atari_dqn.config import compose, overrides
    from atari_dqn.config.commands import conf_dir

    chosen, words = options.apart(words, compose.known_keys(command)[0])
    if command in ("train", "profile", "sweep"):
        words = compose.with_group(words)
    words = [compose.as_hydra_reads(word, "--multirun" in chosen) for word in words]
    compose.check_plugins(words)
    if "--multirun" in chosen:
        options.check_values(command, words)
    if {*words} & {*overrides.LAUNCHERS.values()}:
        console.say(
            "each run is a job, and says what it has to say below runs/multirun/; Ctrl-C here leaves them at work"
        )
    codes, failed = [0], []

    def job(composed: Any) -> Any:
        results: list[Any] = []

        def action() -> None:
            compose.check_references(composed)
            compose.allow_typed(composed)
            results.append(COMMANDS[command](composed))

        codes.append(guarded(action))
        if not results and compose.is_multirun():
            typed = {word.lower() for word in words}  # what all have in common
            own = [word for word in compose.task_overrides() if word.lower() not in typed]
            failed.append(" ".join(own) or "the only one")
            if "SUBMITIT_EXECUTOR" in os.environ:  # which would end well, and Slurm believe it
                atexit.register(os._exit, codes[-1])
            raise JobFailed(codes[-1])  # a sweeper, or the process that waits for this one, is to know
        return results[0] if results else None

    sys.argv = [f"python -m atari_dqn {command}", *chosen, *words]
    try:
        hydra.main(config_path=str(conf_dir()), config_name=command, version_base="1.3")(job)()
    except Stopped:
        return max(codes)
    except (JobFailed, ValueError) as error:  # Optuna's, where no trial was left
        if failed:
            console.complain(f"{len(failed)} of {len(codes) - 1} runs failed: {'; '.join(failed)}")
        elif isinstance(error, JobFailed):
            console.complain("a run failed; what it said is below runs/multirun/")
        else:
            raise compose.explain(command, words, error) from None
        return max(*codes, getattr(error, "code", 0))
    except (HydraException, OmegaConfBaseException) as error:
        raise compose.explain(command, words, error) from None
    except SystemExit as exit_:  # argparse, for --help and for options that Hydra does not have
        return 2 if exit_.code else 0
    return 0 if failed else max(codes)  # a sweeper that gets over a failure, as Optuna does


# What other libraries say for "out of memory": the dynamic linker, torch, the system.
NO_MEMORY = ("failed to map segment", "can't allocate memory", "Cannot allocate memory")

# What the system says of a file or folder that a person named, or of the disk that it is on.
FILE_TROUBLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ELOOP,
    errno.ENAMETOOLONG,
}  # fmt: skip


def guarded(action: Callable[[], Any]) -> int:
    """Run `action`; errors become a line for a person and an exit code."""
    try:
        action()
    except UserError as error:
        console.complain(str(error))
        return 2
    except RunFailed as error:
        if os.environ.get("ATARI_DQN_TRACEBACK"):
            console.show_traceback()
        console.complain(str(error))
        return 1
    except Stopped:
        raise
    except KeyboardInterrupt:
        console.complain("interrupted")
        return 1
    except Exception as error:
        if os.environ.get("ATARI_DQN_TRACEBACK"):
            console.show_traceback()
        text = " ".join(str(error).split())[:300]
        if isinstance(error, MemoryError) or any(sign in text for sign in NO_MEMORY):
            console.complain("out of memory; free some, or raise the limit that `ulimit -v` shows")
            return 1
        if isinstance(error, OSError) and error.errno in FILE_TROUBLE and error.filename is not None:
            console.complain(f"cannot use {os.fsdecode(error.filename)}: {error.strerror}")
            return 2
        console.complain(f"unforeseen {type(error).__name__}: {text} (ATARI_DQN_TRACEBACK=1 shows where)")
        return 1
    return 0


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    with console.guarded() as out:
        code = _main(words)
        out.flush()
        if not code and out.lost and not isinstance(out.lost, BrokenPipeError) and _only_tells(words):
            console.complain(f"cannot write the output: {out.lost.strerror or out.lost}")
            return 1
    return code


def _only_tells(words: list[str]) -> bool:
    """Whether a command does nothing but print; others go on where nobody can read what they say."""
    return (
        words[0] not in COMMANDS
        or words[0] == "runs"
        or bool({*words} & {"-c", "--cfg", "-h", "--help", "--hydra-help"})
    )


def _main(words: list[str]) -> int:
    command, rest = (words[0], words[1:]) if words else ("", [])
    without = command in ("games", "doctor")  # settings
    if command in ("", "help", "-h", "--help") or (without and rest in (["-h"], ["--help"])):
        console.say(__doc__)
        return 0 if command else 2
    if command == "--version":
        import atari_dqn

        console.say(atari_dqn.__version__)
        return 0
    codes = [0]

    def action() -> None:
        if without and rest:
            raise UserError(f"{command} takes no settings, so {rest[0]!r} means nothing to it")
        if command == "games":
            from atari_dqn.data.games import atari_games

            console.say("\n".join(["CartPole", *sorted(atari_games())]))
        elif command == "doctor":
            from atari_dqn.cli import doctor

            codes.append(doctor.main())
        elif command in COMMANDS:
            codes.append(hydra_command(command, rest))
        elif command.startswith("-") or "=" in command:
            raise UserError(f"the command comes first, then {command!r}: python -m atari_dqn train {command}")
        else:
            from atari_dqn.utils.text import suggest

            raise UserError(f"no command is called {command!r}{suggest(command, [*COMMANDS, 'doctor', 'games'])}")

    return max(guarded(action), *codes)


if __name__ == "__main__":
    sys.exit(main())
