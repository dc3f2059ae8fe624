"""Gymnasium environments, preprocessed as an agent was trained."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Discrete

from atari_dqn.api import given
from atari_dqn.api.agent import Agent
from atari_dqn.api.given import told
from atari_dqn.api.preprocess import offset
from atari_dqn.api.vector import VectorGames
from atari_dqn.config import compose, schema, validate
from atari_dqn.config.schema import TrainConfig
from atari_dqn.envs.atari import atari_actions
from atari_dqn.evaluation import request
from atari_dqn.registry import environments, own_modules
from atari_dqn.utils.errors import UserError
from atari_dqn.viewing import screens, video

RENDER_MODES = (None, "rgb_array", "human")
FPS = 60  # of an Atari


@told
def make_env(
    agent_or_settings: Agent | TrainConfig | str | Sequence[str],
    *,
    game: str | None = None,
    protocol: str | Mapping[str, Any] | None = None,
    render_mode: str | None = None,
) -> gymnasium.Env[np.ndarray, int]:
    """A Gymnasium environment, preprocessed as an agent was trained, that plays by an evaluation protocol.

    Its observations are stacks [frame_stack, *frame] and its rewards raw. A game begins as the protocol says, ends when
    it is over, however many lives are lost before, and is truncated after the protocol's `max_frames`. Of an agent,
    action i is `agent.actions[i]`, in any game.

    Args:
        agent_or_settings: an agent; or settings as on the command line, "env.game=Pong"; or a run's config.
        game: another game; None for the agent's.
        protocol: its name, "nature"; or a dictionary of changes, {"noop_max": 0}; None for the run's own.
        render_mode: None; "rgb_array", `render()` then gives uint8 [height, width, 3]; or "human", a window.

    Raises:
        UserError: wrong settings, no such game or protocol, or no display for a window.
    """
    if render_mode not in RENDER_MODES:
        raise UserError(f"render_mode={given.said(render_mode)}: expected None, 'rgb_array' or 'human'")
    env, actions = _asked(agent_or_settings, game, protocol)
    return _make(env, actions, render_mode)


@told
def make_vec_env(
    agent_or_settings: Agent | TrainConfig | str | Sequence[str],
    num_envs: int,
    *,
    game: str | None = None,
    protocol: str | Mapping[str, Any] | None = None,
) -> gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]:
    """`num_envs` such environments side by side, Atari's in the ALE's own C++ threads.

    A gymnasium.vector.VectorEnv in Gymnasium's mode NEXT_STEP: in the step after a game's last, its action is ignored,
    its reward is 0, and its observation is the next game's first.

    Args:
        agent_or_settings: as `make_env` takes it.
        num_envs: 1 to 1,024.
        game: as `make_env` takes it.
        protocol: as `make_env` takes it.

    Raises:
        UserError: as `make_env`.
    """
    number = given.whole("num_envs", num_envs, 1, 1024)
    return VectorGames(*_asked(agent_or_settings, game, protocol), number)


def _asked(of: object, game: object, protocol: object) -> tuple[schema.Env, tuple[str, ...]]:
    """The environment that is asked for, and what its actions mean; nothing if they are the game's own."""
    if isinstance(of, Agent):
        config, actions = of.config, of.actions
    else:
        config, actions = of if isinstance(of, TrainConfig) else trained_as(of), ()
        validate.check(config)
    composed, words = compose.typed("evaluate", ["checkpoint=latest", *given.request(game, protocol)])
    env, _ = request.played(config, compose.to_object(composed), words)
    if env.kind == "atari" and not {*actions} <= {*atari_actions(env.game, env.full_action_space)}:
        env = dataclasses.replace(env, full_action_space=True)
    return env, actions if env.kind == "atari" else ()


def trained_as(settings: object) -> TrainConfig:
    """The config of settings as typed for `train`. Raises UserError."""
    composed, _ = compose.typed("train", given.settings(settings))
    return compose.to_train_config(composed)


class Preprocessed(gymnasium.Wrapper):
    """An environment with what Gymnasium wants to know of it: a spec that makes another, the frames a second.

    Attributes:
        made_of: its settings.
        actions: what each action number means; empty if the environment does not say.
    """

    def __init__(
        self, env: gymnasium.Env, made_of: schema.Env, actions: Sequence[str], render_mode: str | None
    ) -> None:
        super().__init__(env)
        self.made_of = made_of
        self.actions = tuple(actions)
        fps = FPS if made_of.kind == "atari" else video.told_fps(env.metadata.get("render_fps"))
        modes = ["rgb_array", "human"] if screens.has_display() else ["rgb_array"]
        self.metadata = env.metadata | {"render_modes": modes, "render_fps": fps / made_of.frame_skip}
        name = re.sub(r"[^\w.-]", "-", environments.bare(made_of.game))
        self._spec = EnvSpec(
            id=f"atari_dqn/{name}",
            entry_point="atari_dqn.api.envs:again",
            order_enforce=False,
            disable_env_checker=True,
            kwargs={"env": dataclasses.asdict(made_of), "actions": list(actions), "render_mode": render_mode},
        )

    @property
    def spec(self) -> EnvSpec:  # type: ignore[override]
        return self._spec

    def step(self, action: Any) -> Any:
        assert isinstance(self.action_space, Discrete)
        if not self.action_space.contains(action):
            raise UserError(f"action={given.said(action)}: expected a whole number from 0 to {self.action_space.n - 1}")
        return self.env.step(action)


def _make(env: schema.Env, actions: Sequence[str], render_mode: str | None) -> Preprocessed:
    if render_mode == "human":
        screens.check_display("use render_mode='rgb_array'")
    made = video.single_game(env, None, render_mode, actions)
    names = actions or (atari_actions(env.game, env.full_action_space) if env.kind == "atari" else ())
    return Preprocessed(offset(made), env, names, render_mode)


def again(env: dict[str, Any], actions: Sequence[str], render_mode: str | None = None) -> gymnasium.Env:
    """The environment of a spec, for gymnasium.make."""
    own_modules.allow(env["game"], env["arguments"])
    return _make(schema.Env(**env), actions, render_mode)
