"""Play whole games with a network under a published protocol, and count raw scores."""

import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ale_py
import cv2
import gymnasium
import numpy as np
import torch
from rich.table import Table
from torch import Tensor

import atari_dqn
from atari_dqn.checkpoint.checkpoints import Checkpoint
from atari_dqn.config.schema import Env, Protocol
from atari_dqn.config.validate import PLAYED, check_training, played_by
from atari_dqn.data import scores
from atari_dqn.data.games import atari_name
from atari_dqn.dqn.exploration import epsilon_greedy
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.dqn.replay import Replay, torch_dtype
from atari_dqn.envs import factory
from atari_dqn.envs.base import Emulators, Game
from atari_dqn.registry.environments import check_arguments, named, own_of
from atari_dqn.tracking import curves
from atari_dqn.utils import seeding
from atari_dqn.utils.console import Console
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.files import replacing
from atari_dqn.utils.graphs import graphed
from atari_dqn.utils.machine import cpus


class Player:
    """A network at the controls of a game: its actions are matched to the game's by their meaning, FIRE to FIRE.

    Attributes:
        learnt: the names of the actions that the network knows.
        unmatched: actions that the network knows and the game has not; they are never chosen.
        unknown: actions that the game has and the network never learnt; they are never played.
    """

    def __init__(self, network: QNetwork, learnt: Sequence[str], game: Sequence[str]) -> None:
        self.network, self.learnt = network, tuple(learnt)
        self.unmatched = tuple(name for name in learnt if name not in game)
        self.unknown = tuple(name for name in game if name not in learnt)
        if len(self.unmatched) == len(learnt):
            raise UserError(f"none of the checkpoint's actions ({', '.join(learnt)}) exists in this game")
        self.device = device = next(network.parameters()).device
        self._index = torch.tensor([game.index(name) if name in game else -1 for name in learnt], device=device)

    @torch.no_grad()
    def q_values(self, states: Tensor) -> Tensor:
        """Q-values [N, A] of the learnt actions; -inf for those that the game has not."""
        return self.network.q_values(states).masked_fill(self._index < 0, -torch.inf)

    def act(self, states: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
        """The game's action numbers, int64 [N], for states [N, stack, *frame]."""
        return self.in_game(epsilon_greedy(self.q_values(states), epsilon, generator))

    def in_game(self, learnt: Tensor) -> Tensor:
        """Learnt actions by the game's numbers."""
        return self._index[learnt]

    def learnt_as(self, action: int) -> int | None:
        """The learnt action that one of the game's is; None where it was never learnt."""
        return next((i for i, number in enumerate(self._index.tolist()) if number == action), None)


class Games:
    """Games side by side, each on emulators of its own, so that some can go on when the others have stopped.

    Making one takes longer than many of its steps, so they can begin again.

    Args:
        device: where the states are wanted.
    """

    def __init__(self, env: Env, num_envs: int, device: torch.device) -> None:
        self.all = tuple(range(num_envs))
        self._envs: list[Emulators] = []
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            for _ in self.all:
                self._envs.append(factory.make(env, 1))
            on_error.pop_all()
        shape, dtype = self._envs[0].frame_shape, torch_dtype(self._envs[0].frame_dtype)
        # The replay of a few rows is the history that the network sees: training and evaluation stack alike.
        self._history = Replay(env.frame_stack + 1, num_envs, shape, dtype, env.frame_stack, device)
        self._rewards, self._flags = torch.zeros(num_envs), torch.zeros(num_envs, dtype=torch.uint8)
        self._actions = torch.zeros(num_envs, dtype=torch.int64)

    def begin(self, seed: int) -> None:
        """New games, whose starts come from a seed."""
        seeds = seeding.derive(seed, "evaluation games", count=len(self.all))
        with ThreadPoolExecutor(cpus()) as pool:  # a start takes as long as 300 steps
            firsts = pool.map(lambda envs, one: envs.reset([one]), self._envs, seeds)
            self._frames = torch.from_numpy(np.concatenate(list(firsts)))
        self._flags.zero_()
        self._history.begin(self._frames)

    def states(self, which: Sequence[int]) -> Tensor:
        """The states that some games are in, [len(which), stack, *frame]."""
        states = self._history.newest_stack()
        return states if len(which) == len(self.all) else states[list(which)]

    def step(self, which: Sequence[int], actions: Tensor) -> list[Game]:
        """Take an action in each of some games, which are given for all; the games that ended.

        Args:
            actions: int64 [games].
        """
        ended = []
        for i in which:
            self._envs[i].send(actions[i : i + 1].numpy())
        for i in which:
            turn = self._envs[i].recv()
            self._frames[i], self._flags[i] = torch.from_numpy(turn.frames[0]), int(turn.flags[0])
            ended += [game._replace(env=i) for game in turn.games]
        self._history.write(actions, self._rewards, self._frames, self._flags)
        return ended

    def close(self) -> None:
        for envs in self._envs:
            envs.close()


def play(
    player: Player,
    games: Games,
    epsilon: float,
    episodes: int,
    seed: int,
    on_step: Callable[[list[Game]], None] = lambda games: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Game]:
    """Whole games, `episodes` in all, side by side; fewer only if `stop` says so.

    Each emulator has its quota beforehand, so that short games are not counted more often than long ones. A game ends
    by itself or at env.max_frames, so this returns.

    Args:
        on_step: told the games that are over, at each step: a game can take minutes.
    """
    num_envs = len(games.all)
    quota = [episodes // num_envs + (i < episodes % num_envs) for i in games.all]
    generator = seeding.generator(player.device, seed, "evaluation actions")

    def ask(which: tuple[int, ...]) -> Tensor:
        return player.act(games.states(which), epsilon, generator)

    act = graphed(ask, player.device, [generator])
    played: list[Game] = []
    games.begin(seed)
    actions = torch.zeros(num_envs, dtype=torch.int64)
    while any(quota) and not stop():
        going = tuple(i for i in games.all if quota[i])
        asked = games.all if player.device.type == "cuda" else going  # one graph serves all the time
        actions[list(asked)] = act(asked).cpu()
        for game in games.step(going, actions):
            quota[game.env] -= 1
            played.append(game)
        on_step(played)
    return played


HELD_OUT_EVERY = 10  # agent steps from one state that is kept to the next


def held_out(games: Games, num_actions: int, states: int, seed: int) -> Tensor:
    """Some states [states, stack, *frame] of random play, on which the growth of Q-values can be followed.

    (Mnih et al. 2015, Figure 2: "a held-out set of states"; its code kept 500 of the first 50,000 steps, which are
    random.)
    """
    generator = torch.Generator().manual_seed(seeding.derive(seed, "held-out actions")[0])
    kept: list[Tensor] = []
    games.begin(seed)
    for step in range(-(-states // len(games.all)) * HELD_OUT_EVERY):
        if step % HELD_OUT_EVERY == 0:
            kept.append(games.states(games.all))
        games.step(games.all, torch.randint(num_actions, (len(games.all),), generator=generator))
    return torch.cat(kept)[:states]


@torch.no_grad()
def mean_max_q(network: QNetwork, states: Tensor) -> float:
    """Mean over states [B, stack, *frame] of the largest Q-value: the paper's Figure 2."""
    return float(torch.cat([network.q_values(some).amax(1) for some in states.split(100)]).mean())


def environment(trained: Env, protocol: Protocol, game: str | None, arguments: Mapping[str, Any] | None = None) -> Env:
    """The games to evaluate on: preprocessing as trained, starts and ends as the protocol says, lives ignored.

    Args:
        arguments: of a Gymnasium environment, to change of those that it was trained with.
    """
    changes: dict[str, Any] = {"terminal_on_life_loss": False, "goals": []}
    for key in played_by(trained):
        if getattr(protocol, key) is not None:
            changes[key] = getattr(protocol, key)
    if game is not None:
        if trained.kind == "atari":
            changes["game"] = atari_name(game)
        elif named(game.rpartition(":")[2]).lower() != trained.game.rpartition(":")[2].lower():
            raise UserError(f"this checkpoint learnt {trained.game}, not from Atari's screen; it cannot play {game}")
        elif ":" in game:  # its module may have moved
            changes["game"] = game
    if arguments:
        changes["arguments"] = {**trained.arguments, **arguments}
        check_arguments(trained.kind, trained.game, arguments)
    return dataclasses.replace(trained, **changes)


def seat(
    checkpoint: Checkpoint, protocol: Protocol, game: str | None, arguments: Mapping[str, Any] | None = None
) -> tuple[Env, Player]:
    """A checkpoint's network at the controls of `game` (None: the one it learned), under a protocol.

    Args:
        arguments: as `environment` takes them.
    """
    env = environment(checkpoint.config.env, protocol, game, arguments)
    envs = factory.make(env, 1)
    envs.close()
    if (envs.frame_shape, envs.frame_dtype.name) != (checkpoint.frame_shape, checkpoint.frame_dtype):
        raise UserError(
            f"{checkpoint.path} learnt from frames {checkpoint.frame_shape}, not {env.game}'s {envs.frame_shape}"
        )
    return env, Player(checkpoint.network, checkpoint.actions, envs.actions)


def summary(game: str, played: Sequence[Game]) -> dict[str, Any]:
    """Mean, sd, median, min and max of raw scores, and the mean in terms of a human's where they can be compared."""
    results = [one.score for one in played]
    mean = statistics.fmean(results)
    return {
        "episodes": len(results),
        "mean": mean,
        "sd": statistics.stdev(results) if len(results) > 1 else 0.0,
        "median": statistics.median(results),
        "min": min(results),
        "max": max(results),
        "human_normalised": scores.human_normalised(game, mean) if all(one.whole for one in played) else None,
    }


def counted(rows: Sequence[dict[str, str]], trained: Env) -> list[Game]:
    """The games that some rows of a run's episodes.csv are of."""
    lengths = [int(row["length_frames"]) for row in rows]
    return [
        Game(int(row["env"]), float(row["return"]), length, length >= trained.max_frames)
        for row, length in zip(rows, lengths, strict=True)
    ]


def training_games(checkpoint: Checkpoint, protocol: Protocol, env: Env) -> list[Game]:
    """The training games by which a protocol scores a checkpoint, from its run's episodes.csv."""
    trained, path = checkpoint.config.env, checkpoint.path.parent.parent / "episodes.csv"
    check_training(protocol, trained)
    if env.game != trained.game:
        raise UserError(f"protocol={protocol.name} scores training games, and there are none of {env.game}")
    rows = curves.window(curves.read(path), protocol, checkpoint.agent_steps * trained.frame_skip)
    if not rows:
        raise UserError(f"protocol={protocol.name} scores training games, and there are none for it in {path}")
    return counted(rows, trained)


def played_as(env: Env) -> dict[str, Any]:
    """How games are played, for the record: what `env` asks for, or what the game does by itself."""
    found = {key: getattr(env, key) if key in played_by(env) else None for key in PLAYED}
    if env.kind != "atari":
        own = own_of(env.game, env.arguments)
        found |= {"repeat_action_probability": own.stickiness, "own_frame_skip": list(own.frame_skip)}
        found |= {"arguments": env.arguments} if env.arguments else {}
    return found | {key: getattr(env, key) for key in ("frame_skip", "frame_stack", "screen_size")}


def evaluate(
    checkpoint: Checkpoint,
    protocol: Protocol,
    env: Env,
    player: Player,
    episodes: int,
    num_envs: int,
    seed: int,
    on_step: Callable[[list[Game]], None] = lambda games: None,
) -> dict[str, Any]:
    """Evaluate a checkpoint, seated by `seat`; all that another needs to judge or repeat the numbers, as plain data."""
    started = time.perf_counter()
    if protocol.source == "training":
        played = training_games(checkpoint, protocol, env)
    else:
        with contextlib.closing(Games(env, min(num_envs, episodes), player.device)) as games:
            played = play(player, games, protocol.epsilon, episodes, seed, on_step)
    return {
        "game": env.game,
        "checkpoint": str(checkpoint.path),
        "trained_on": checkpoint.config.env.game,
        "trained_agent_steps": checkpoint.agent_steps,
        "trained_frames": checkpoint.agent_steps * env.frame_skip,
        "preset": checkpoint.config.preset,
        "protocol": dataclasses.asdict(protocol) | played_as(env) | {
            "terminal_on_life_loss": False, "seed": seed, "num_envs": min(num_envs, episodes)
        },
        "actions": list(checkpoint.actions),
        "actions_not_in_game": list(player.unmatched),
        "actions_never_learnt": list(player.unknown),
        "returns": [g.score for g in played],
        "lengths_frames": [g.length_frames for g in played],
        "cut_off": sum(g.cut for g in played),
        "summary": summary(env.game, played),
        "human_normalised_source": scores.SOURCE,
        "seconds": round(time.perf_counter() - started, 3),
        "versions": {
            "atari_dqn": atari_dqn.__version__, "torch": torch.__version__, "gymnasium": gymnasium.__version__,
            "ale_py": ale_py.__version__, "opencv": cv2.__version__,
        },
    }  # fmt: skip


def table(result: dict[str, Any]) -> Table:
    """The result as a table of one row, 80 columns wide at most."""
    numbers, protocol = result["summary"], result["protocol"]
    kind = "training games" if protocol["source"] == "training" else "games"
    epsilon = "" if protocol["source"] == "training" else f" (epsilon {protocol['epsilon']:g})"
    view = Table(title=f"{result['game']}: {numbers['episodes']} {kind}, protocol {protocol['name']}{epsilon}")
    for column in ("mean", "sd", "median", "min", "max", "human-normalised"):
        view.add_column(column, justify="right")
    normalised = numbers["human_normalised"]
    view.add_row(
        *(f"{numbers[key]:,.1f}" for key in ("mean", "sd", "median", "min", "max")),
        "-" if normalised is None else f"{normalised:.1%}",
    )
    return view


def report(result: dict[str, Any], output: Path, console: Console) -> None:
    """Print the table and what a reader must know beside it; write the JSON."""
    console.print(table(result))
    game, frames = result["game"], result["protocol"]["max_frames"]
    if result["summary"]["human_normalised"] is not None:
        console.print(f"human-normalised by {scores.SOURCE}", soft_wrap=True)
    elif scores.human_normalised(game, 0) is not None:
        console.print(
            f"not human-normalised: games were cut off at {frames:,} frames, and a human's lasted up to "
            f"{scores.HUMAN_FRAMES:,}",
            soft_wrap=True,
        )
    for key, text in (
        ("actions_not_in_game", "learnt actions that this game has not, never chosen"),
        ("actions_never_learnt", "actions of this game that were never learnt, never played"),
    ):
        if result[key]:
            console.print(f"{text}: {', '.join(result[key])}", soft_wrap=True)
    if cut := result["cut_off"]:
        text = "1 game was cut off" if cut == 1 else f"{cut} games were cut off"
        console.print(f"{text} at {frames:,} frames; the score up to then counts", soft_wrap=True)
    with replacing(output, "w") as file:
        file.write(json.dumps(result, indent=1) + "\n")
    console.print(f"written: {output}", soft_wrap=True)
