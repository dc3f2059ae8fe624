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
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atari_dqn.errors import JobFailed, RunFailed, Stopped, UserError

if TYPE_CHECKING:  # the real imports are slow, and wait until a command needs them
    from atari_dqn import config
    from atari_dqn.checkpoints import Checkpoint


def train(composed: Any) -> float | None:
    """Returns what a sweeper is to make large: the last evaluation's mean, or the last training games'."""
    from atari_dqn import curves, folders, launch, settings, signals

    config = settings.to_train_config(composed)
    run = launch.train(config, settings.task_overrides())
    if run and run.outcome == "stopped":
        signals.pass_on()
        if settings.is_multirun():
            raise Stopped
    folder = run.folder if run else folders.find(config)
    return curves.objective(folder) if folder and settings.is_multirun() else None


def demo(composed: Any) -> None:
    from atari_dqn import demo, settings

    demo.demo(settings.to_train_config(composed), settings.task_overrides())


def profile(composed: Any) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # before torch is loaded; its profiler talks
    from atari_dqn import profiling, settings, unread

    config = settings.to_train_config(composed)
    unread.refuse(config, settings.task_overrides())
    profiling.profile(config)


def _asked(composed: Any) -> "tuple[config.PlayConfig, Checkpoint, config.Protocol]":
    """What evaluate, video and watch share: the checked request, its checkpoint, its protocol.

    Tells what the protocol asks for in vain, and what the environment does by itself.
    """
    from atari_dqn import checkpoints, checks, machine, networks, settings, unread

    asked = settings.to_object(composed)
    device = machine.choose_device(asked.device)
    checkpoint = checkpoints.Checkpoint(checkpoints.find(asked.checkpoint), device)
    networks.set_threads(checkpoint.config.network.name, device)
    protocol = settings.merge_protocol(asked.protocol, checkpoint.config.protocol)
    played = dataclasses.replace(checkpoint.config, protocol=protocol)
    unread.refuse(played, settings.task_overrides(), "protocol.")
    for note in (*unread.notes(played, "protocol."), *checks.own_notes(played.env)):
        print(f"note: {note}")
    return asked, checkpoint, protocol


def _output(asked: str | None, default: Path) -> Path:
    """Where a result goes; raises UserError before the work is done, not after, where it cannot be written."""
    path = Path(asked) if asked else default
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path.parent}: {error.strerror}; set output=PATH") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"cannot write to {path}; set output=PATH to a file in a folder of yours")
    return path


def evaluate(composed: Any) -> None:
    from rich.console import Console

    from atari_dqn import evaluation, scores

    asked, checkpoint, protocol = _asked(composed)
    env, player = evaluation.seat(checkpoint, protocol, asked.env.game)
    name = f"{checkpoint.path.stem}-{env.game.replace('/', '-')}-{protocol.name}.json"
    output = _output(asked.output, checkpoint.path.parent / name)
    console = Console(highlight=False)
    episodes = asked.evaluation.episodes
    with console.status("") as status:
        result = evaluation.evaluate(
            checkpoint,
            protocol,
            env,
            player,
            episodes,
            asked.evaluation.num_envs,
            asked.seed,
            lambda games: status.update(
                f"{len(games)} of {episodes} games played, the last one {games[-1].score:.10g}"
                f"{scores.human(env.game, games[-1].score, games[-1].whole)}"
            ),
        )
    evaluation.report(result, output, console)


def _dress(asked: Any, env: Any, player: Any) -> Any:
    """What the view that is asked for puts around the pictures."""
    from atari_dqn import inspector, video

    return (lambda screen: inspector.Inspected(screen, player, env.game)) if asked.view == "inspect" else video.plain


def video(composed: Any) -> None:
    from atari_dqn import evaluation
    from atari_dqn import video as videos

    asked, checkpoint, protocol = _asked(composed)
    env, player = evaluation.seat(checkpoint, protocol, asked.env.game)
    folder = checkpoint.path.parent
    folder = folder.parent / "videos" if folder.name == "checkpoints" else folder
    name = f"{checkpoint.path.stem}-{env.game.replace('/', '-')}-seed{asked.seed}.mp4"
    output = _output(asked.output, folder / name)
    dress = _dress(asked, env, player)
    game, seconds = videos.film(player, env, protocol.epsilon, asked.seed, output, asked.max_seconds, dress=dress)
    print(f"{env.game}: score {videos.score(env, game)} in {seconds:.1f} seconds of play; written: {output}")


def watch(composed: Any) -> None:
    from atari_dqn import evaluation
    from atari_dqn import video as videos

    asked, checkpoint, protocol = _asked(composed)
    env, player = evaluation.seat(checkpoint, protocol, asked.env.game)
    videos.watch(player, env, protocol.epsilon, asked.seed, _dress(asked, env, player))


def play(composed: Any) -> None:
    from atari_dqn import checkpoints, emulators, evaluation, machine, play, screens, settings

    asked = settings.to_object(composed)
    device = machine.choose_device(asked.device)
    if asked.checkpoint is not None:
        checkpoint = checkpoints.Checkpoint(checkpoints.find(asked.checkpoint), device)
        env, player = evaluation.seat(checkpoint, checkpoint.config.protocol, asked.env.game)
        name = str(checkpoint.path)
    elif asked.env.game is not None:
        kind = "cartpole" if asked.env.game.lower() in ("cartpole", "cartpole-v1") else "atari"
        game = [] if kind == "cartpole" else [f"env.game={asked.env.game}"]
        env = settings.to_train_config(settings.compose("train", [f"env={kind}", *game])).env
        player, name = None, ""
    else:
        raise UserError("which game? set env.game (GAME=Pong), or checkpoint (CKPT=runs/...)")
    if env.kind == "atari" and "NOOP" not in emulators.atari_actions(env.game, env.full_action_space):
        env = dataclasses.replace(env, full_action_space=True)  # else no key would mean FIRE
        if player:
            names = emulators.atari_actions(env.game, True)
            player = evaluation.Player(player.network, player.learnt, names)
    envs = emulators.make(env, 1)
    envs.close()
    screens.check_display(play.REMEDY)
    play.play(player, env, envs.actions, asked.seed, _output(asked.output, Path()), name)


def compare(composed: Any) -> None:
    from rich.console import Console

    from atari_dqn import compare, settings

    compare.compare(settings.to_object(composed), Console(highlight=False))


def report(composed: Any) -> None:
    from rich.console import Console

    from atari_dqn import report, settings

    asked = settings.to_object(composed)
    report.write(asked, Console(highlight=False))


def dashboard(composed: Any) -> None:
    from rich.console import Console

    from atari_dqn import dashboard, settings

    asked = settings.to_object(composed)
    dashboard.serve(asked, Console(highlight=False))


def aggregate(composed: Any) -> None:
    from rich.console import Console

    from atari_dqn import aggregate, settings

    aggregate.aggregate(settings.to_object(composed), Console(highlight=False))


def sweep(composed: Any) -> None:
    from rich.console import Console

    from atari_dqn import settings, sweep

    train_alone, asked = settings.apart(composed, "sweep")
    sweep.sweep(settings.to_train_config(train_alone), asked, settings.task_overrides(), Console(highlight=False))


COMMANDS: dict[str, Callable[[Any], Any]] = {
    "train": train, "demo": demo, "evaluate": evaluate, "compare": compare, "video": video, "watch": watch,
    "play": play, "report": report, "dashboard": dashboard, "profile": profile, "sweep": sweep, "aggregate": aggregate,
}  # fmt: skip


HYDRA_OPTIONS = ("-h", "--help", "--hydra-help", "-c", "--cfg", "--resolve", "-m", "--multirun", "-i", "--info")


def hydra_command(command: str, words: list[str]) -> int:
    """Run a command under Hydra; the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us, not the screen
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from atari_dqn import config, settings

    is_many = bool({"-m", "--multirun"} & {*words})
    words = [settings.as_hydra_reads(word, is_many) for word in words]
    for word in words:
        if word.startswith("-") and word.split("=")[0] not in HYDRA_OPTIONS:
            raise settings.unknown_option(command, word)
    settings.check_plugins(words)
    if {*words} & {*settings.LAUNCHERS.values()}:
        print("each run is a job, and says what it has to say below runs/multirun/; Ctrl-C here leaves them at work")
    codes, failed = [0], []

    def job(composed: Any) -> Any:
        results: list[Any] = []
        codes.append(guarded(lambda: results.append(COMMANDS[command](composed))))
        if not results and settings.is_multirun():
            typed = {word.lower() for word in words}  # what all have in common
            own = [word for word in settings.task_overrides() if word.lower() not in typed]
            failed.append(" ".join(own) or "the only one")
            if "SUBMITIT_EXECUTOR" in os.environ:  # which would end well, and Slurm believe it
                atexit.register(os._exit, codes[-1])
            raise JobFailed(codes[-1])  # a sweeper, or the process that waits for this one, is to know
        return results[0] if results else None

    sys.argv = [f"python -m atari_dqn {command}", *words]
    try:
        hydra.main(config_path=str(config.conf_dir()), config_name=command, version_base="1.3")(job)()
    except Stopped:
        return max(codes)
    except (JobFailed, ValueError) as error:  # Optuna's, where no trial was left
        if failed:
            print(f"atari_dqn: {len(failed)} of {len(codes) - 1} runs failed: {'; '.join(failed)}", file=sys.stderr)
        elif isinstance(error, JobFailed):
            print("atari_dqn: a run failed; what it said is below runs/multirun/", file=sys.stderr)
        else:
            raise settings.explain(command, words, error) from None
        return max(*codes, getattr(error, "code", 0))
    except (HydraException, OmegaConfBaseException) as error:
        raise settings.explain(command, words, error) from None
    except SystemExit as exit_:  # argparse, for --help and for options that Hydra does not have
        return 2 if exit_.code else 0
    return 0 if failed else max(codes)  # a sweeper that gets over a failure, as Optuna does


def guarded(action: Callable[[], Any]) -> int:
    """Run `action`; errors become a line for a person and an exit code."""
    try:
        action()
    except UserError as error:
        print(f"atari_dqn: {error}", file=sys.stderr)
        return 2
    except RunFailed as error:
        if os.environ.get("ATARI_DQN_TRACEBACK"):
            traceback.print_exception(error)
        print(f"atari_dqn: {error}", file=sys.stderr)
        return 1
    except Stopped:
        raise
    except KeyboardInterrupt:
        print("atari_dqn: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("ATARI_DQN_TRACEBACK"):
            traceback.print_exception(error)
        text = " ".join(str(error).split())[:300]
        print(
            f"atari_dqn: unforeseen {type(error).__name__}: {text} (ATARI_DQN_TRACEBACK=1 shows where)", file=sys.stderr
        )
        return 1
    return 0


def main(words: list[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    command, rest = (words[0], words[1:]) if words else ("", [])
    if command in ("", "help", "-h", "--help"):
        print(__doc__)
        return 0 if command else 2
    if command == "--version":
        import atari_dqn

        print(atari_dqn.__version__)
        return 0
    codes = [0]

    def action() -> None:
        if command == "games":
            from atari_dqn.games import atari_games

            print("CartPole", *sorted(atari_games()), sep="\n")
        elif command == "doctor":
            from atari_dqn import doctor

            codes.append(doctor.main())
        elif command in COMMANDS:
            codes.append(hydra_command(command, rest))
        else:
            from atari_dqn.games import suggest

            raise UserError(f"no command is called {command!r}{suggest(command, [*COMMANDS, 'doctor', 'games'])}")

    return max(guarded(action), *codes)


if __name__ == "__main__":
    sys.exit(main())
