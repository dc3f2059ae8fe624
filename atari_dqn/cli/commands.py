"""What each command does with its settings. Each imports what it needs only when it runs: torch takes seconds."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atari_dqn.utils import console, extras
from atari_dqn.utils.errors import Stopped, UserError

if TYPE_CHECKING:
    from atari_dqn.envs.base import Game
    from atari_dqn.evaluation.request import Request


def train(composed: Any) -> float | None:
    """Returns what a sweeper is to make large: the last evaluation's mean, or the last training games'."""
    from atari_dqn.checkpoint import folders
    from atari_dqn.config import compose
    from atari_dqn.tracking import curves
    from atari_dqn.training import launch

    config = compose.to_train_config(composed)
    run = launch.train(config, compose.task_overrides())
    _pass_on(run)
    folder = run.folder if run else folders.find(config)
    return curves.objective(folder) if folder and compose.is_multirun() else None


def _pass_on(run: Any) -> None:
    """Where a run was stopped, end a multirun, too, and the process as its signal would."""
    from atari_dqn.config import compose
    from atari_dqn.utils import signals

    if run and run.outcome == "stopped":
        signals.pass_on()
        if compose.is_multirun():
            raise Stopped


def demo(composed: Any) -> None:
    from atari_dqn.cli import demo
    from atari_dqn.config import compose

    _pass_on(demo.demo(compose.to_train_config(composed), compose.task_overrides()))


def profile(composed: Any) -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # before torch is loaded; its profiler talks
    from atari_dqn.config import compose, unread
    from atari_dqn.training import profiler

    config = compose.to_train_config(composed)
    unread.refuse(config, compose.task_overrides())
    profiler.profile(config)


def _asked(composed: Any) -> "Request":
    """What evaluate, video, watch and collect share."""
    from atari_dqn.config import compose
    from atari_dqn.evaluation import request

    return request.read(composed, compose.task_overrides())


@contextlib.contextmanager
def _told(view: console.Console, episodes: int, game: str, who: str = "") -> "Iterator[Callable[[list[Game]], None]]":
    """Show how many games were played, and by `who`; yields what is to be called with them at each step."""
    from atari_dqn.data import scores
    from atari_dqn.tracking import display
    from atari_dqn.utils.text import plural

    seldom = display.Seldom(view)
    with view.status(f"{who}0 of {plural(episodes, 'game')} played") as status:

        def tell(played: "list[Game]") -> None:
            text = f"{who}{len(played)} of {plural(episodes, 'game')} played"
            if played:
                last = played[-1]
                text += f", the last one {last.score:.10g}{scores.human(game, last.score, last.whole)}"
            status.update(text)
            if seldom.is_due():
                view.print(text, soft_wrap=True)

        yield tell


def evaluate(composed: Any) -> None:
    from atari_dqn.checkpoint import outputs
    from atari_dqn.evaluation import evaluate, request
    from atari_dqn.evaluation.player import make_player
    from atari_dqn.registry import environments
    from atari_dqn.utils import files

    asked, checkpoint, protocol = _asked(composed)
    env, player = make_player(checkpoint, protocol, asked.env.game, asked.env.arguments)
    name = f"{checkpoint.path.stem}-{environments.bare(env.game)}-{files.name(protocol.name)}.json"
    output = outputs.choose(asked.output, checkpoint.path.parent / name, (".json",), is_kept=True)
    view, episodes = console.Console(), request.episodes(asked.evaluation.episodes, protocol)
    with _told(view, episodes, env.game) as tell:
        result = evaluate.evaluate(
            checkpoint, protocol, env, player, episodes, asked.evaluation.num_envs, asked.seed, tell
        )
    evaluate.report(result, output, view)


def _dress(asked: Any, env: Any, player: Any) -> Any:
    """What the view that is asked for puts around the pictures."""
    from atari_dqn.viewing import video

    if asked.view != "inspect":
        return video.plain
    from atari_dqn.viewing import inspector

    return lambda screen: inspector.Inspected(screen, player, env.game)


def video(composed: Any) -> None:
    from atari_dqn.checkpoint import outputs
    from atari_dqn.evaluation.player import make_player
    from atari_dqn.registry import environments
    from atari_dqn.viewing import screens
    from atari_dqn.viewing import video as videos

    asked, checkpoint, protocol = _asked(composed)
    env, player = make_player(checkpoint, protocol, asked.env.game, asked.env.arguments)
    folder = checkpoint.path.parent
    folder = folder.parent / "videos" if folder.name == "checkpoints" else folder
    name = f"{checkpoint.path.stem}-{environments.bare(env.game)}-seed{asked.seed}.mp4"
    output = outputs.choose(asked.output, folder / name, screens.FILMS, is_kept=True)
    dress = _dress(asked, env, player)
    game, seconds = videos.film(player, env, protocol.epsilon, asked.seed, output, asked.max_seconds, dress=dress)
    console.say(f"{env.game}: score {videos.score(env, game)} in {seconds:.1f} seconds of play; written: {output}")


def match(composed: Any) -> None:
    import datetime

    from atari_dqn.analysis import match as matches
    from atari_dqn.config import compose
    from atari_dqn.evaluation import request
    from atari_dqn.registry import environments

    requests = request.read_several(composed, compose.task_overrides())
    first = requests[0]
    game = first.asked.env.game or first.checkpoint.config.env.game
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = Path(first.asked.output or f"runs/matches/{environments.bare(game)}-{stamp}")
    episodes, view = request.episodes(first.asked.evaluation.episodes, first.protocol), console.Console()
    matches.match(requests, episodes, folder, lambda name: _told(view, episodes, game, f"{name}: "), view)


def watch(composed: Any) -> None:
    from atari_dqn.evaluation.player import make_player
    from atari_dqn.viewing import video as videos

    asked, checkpoint, protocol = _asked(composed)
    env, player = make_player(checkpoint, protocol, asked.env.game, asked.env.arguments)
    videos.watch(player, env, protocol.epsilon, asked.seed, _dress(asked, env, player))


def play(composed: Any) -> None:
    extras.need("playing by hand", "pygame")
    from atari_dqn.checkpoint import checkpoints, outputs
    from atari_dqn.config import compose
    from atari_dqn.envs import factory
    from atari_dqn.envs.atari import atari_actions
    from atari_dqn.evaluation.player import Player, make_player
    from atari_dqn.utils import devices
    from atari_dqn.viewing import play, screens

    asked = compose.to_object(composed)
    device = devices.choose_device(asked.device)
    if asked.checkpoint is not None:
        checkpoint = checkpoints.Checkpoint(checkpoints.find(asked.checkpoint), device)
        env, player = make_player(checkpoint, checkpoint.config.protocol, asked.env.game, asked.env.arguments)
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
            player = Player(player.network, player.learned, names)
    envs = factory.make_emulators(env, 1)
    envs.close()
    screens.check_display(play.remedy())
    play.play(player, env, envs.actions, asked.seed, outputs.choose(asked.output, Path(), (".csv",)), name)


def export(composed: Any) -> None:
    from atari_dqn.checkpoint import checkpoints
    from atari_dqn.config import compose
    from atari_dqn.exchange import export

    asked = compose.to_object(composed)
    checkpoint = checkpoints.Checkpoint(checkpoints.find(asked.checkpoint))
    if asked.checkpoint == "latest":
        console.say(f"checkpoint: {checkpoint.path}")
    export.export(checkpoint, asked, console.Console())


def import_network(composed: Any) -> None:
    from atari_dqn.config import compose
    from atari_dqn.exchange import imports

    imports.run(compose.to_object(composed), console.Console())


def collect(composed: Any) -> None:
    import threading

    from atari_dqn.evaluation import request
    from atari_dqn.evaluation.player import make_player
    from atari_dqn.exchange import minari
    from atari_dqn.utils import signals

    asked, checkpoint, protocol = _asked(composed)
    env, player = make_player(checkpoint, protocol, asked.env.game, asked.env.arguments)
    minari.check()
    episodes = request.episodes(asked.episodes, protocol)
    stopped = threading.Event()
    with signals.stop_signals(stopped), _told(console.Console(), episodes, env.game) as tell:
        data, played = minari.collect(checkpoint, protocol, env, player, asked, episodes, tell, stopped.is_set)
    minari.report(data, played, episodes, console.Console())


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


def atari100k(composed: Any) -> None:
    from atari_dqn.cli import atari100k
    from atari_dqn.config import compose

    train_alone, asked, table = compose.apart(composed, "sweep", "table")
    config = compose.to_train_config(train_alone)
    atari100k.atari100k(config, asked, table, compose.task_overrides(), console.Console())


COMMANDS: dict[str, Callable[[Any], Any]] = {
    "train": train, "demo": demo, "evaluate": evaluate, "compare": compare, "video": video, "watch": watch,
    "play": play, "report": report, "runs": runs, "dashboard": dashboard, "profile": profile, "sweep": sweep,
    "aggregate": aggregate, "export": export, "collect": collect, "atari100k": atari100k, "match": match,
    "import": import_network,
}  # fmt: skip
