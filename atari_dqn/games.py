"""Names of games, as people type them and as the ALE spells them; what Gymnasium's do by themselves."""

import difflib
import functools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import ale_py
import gymnasium

from atari_dqn.errors import UserError

gymnasium.register_envs(ale_py)

# Kaiser et al. 2020, Table 1: the games of "Atari 100k".
ATARI_26 = (
    "Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout", "ChopperCommand",
    "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero", "Jamesbond", "Kangaroo", "Krull",
    "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner", "Seaquest", "UpNDown",
)  # fmt: skip


def suggest(word: str, options: Iterable[str]) -> str:
    """`" (did you mean X?)"` where one of `options` is near `word`, else nothing."""
    plain = {option.lower(): option for option in options}
    near = difflib.get_close_matches(word.lower(), plain, n=1, cutoff=0.6)
    return f" (did you mean {plain[near[0]]}?)" if near else ""


@functools.cache
def atari_games() -> dict[str, str]:
    """Every single-player game of ale-py: CamelCase name -> the snake_case id of its ROM."""
    return {
        name.removeprefix("ALE/").removesuffix("-v5"): spec.kwargs["game"]
        for name, spec in gymnasium.registry.items()
        if name.startswith("ALE/") and name.endswith("-v5")
    }


def atari_name(typed: str) -> str:
    """The ALE's CamelCase name of a game typed in any case: `breakout`, `ms_pacman`, `ALE/Breakout-v5`.

    Raises UserError with the nearest name where there is no such game.
    """
    word = re.sub(r"^ALE/|(NoFrameskip|Deterministic)?-v\d+$", "", typed)
    key = re.sub(r"[\s_-]", "", word).lower()
    for name in atari_games():
        if name.lower() == key:
            return name
    hint = suggest(key, [*atari_games(), "CartPole"])
    raise UserError(f"no Atari game is called {typed!r}{hint}; `make games` lists all {len(atari_games())}")


def make(name: str, **kwargs: Any) -> gymnasium.Env:
    """A Gymnasium environment by its name. Raises UserError where it cannot be made."""
    try:
        return gymnasium.make(name, disable_env_checker=True, **kwargs)
    except gymnasium.error.Error as error:
        hint = suggest(name, gymnasium.registry)
        raise UserError(f"no Gymnasium environment {name!r}{hint}: {str(error).splitlines()[0]}") from None
    except ImportError as error:
        raise UserError(f"{name} needs a package that is not installed: {error}") from None


class Own(NamedTuple):
    """What a Gymnasium environment does by itself, whatever the settings say."""

    shape: tuple[int, ...]  # of its observations
    frame_skip: tuple[int, int]  # frames in a step: at least, at most
    stickiness: float  # probability that an action is repeated
    atari: str | None  # its name for env=atari

    @property
    def frames(self) -> str:
        """`4`, or `2 to 4`."""
        return " to ".join(map(str, sorted({*self.frame_skip})))

    def check(self, name: str, frame_skip: int) -> None:
        """Raise UserError where frames would be skipped twice."""
        if self.frame_skip[1] > 1 and frame_skip > 1:
            remedy = f"env=atari env.game={self.atari}, or " if self.atari else ""
            raise UserError(
                f"{name} plays {self.frames} frames a step by itself, and env.frame_skip={frame_skip} would repeat "
                f"each step {frame_skip} times: use {remedy}env.frame_skip=1"
            )

    @property
    def note(self) -> str:
        """What of it must be known beside a score; nothing where it does as the settings say."""
        does = [f"plays {self.frames} frames a step"] if self.frame_skip[1] > 1 else []
        does += [f"repeats an action with a probability of {self.stickiness:g}"] if self.stickiness else []
        return " and ".join(does)


# What environments and wrappers around them call it: the ALE's, VizDoom's, Gymnasium's.
SKIPS = ("frameskip", "_frameskip", "frame_skip", "_frame_skip", "_skip")
STICKINESS = ("repeat_action_probability", "_repeat_action_probability")


def own(env: gymnasium.Env) -> Own:
    """What an environment does by itself, read from its wrappers, its arguments and what it was registered with."""
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    told: list[dict[str, Any]] = [vars(layer) for layer in layers]
    told += [told[-1].get("_ezpickle_kwargs", {}), env.spec.kwargs if env.spec else {}]
    found = {names: [one[name] for one in told for name in names if name in one] for names in (SKIPS, STICKINESS)}
    skips = [(skip, skip) for skip in found[SKIPS] if isinstance(skip, int)]
    # Of two numbers, the ALE draws one below the second.
    skips += [(skip[0], skip[1] - 1) for skip in found[SKIPS] if isinstance(skip, tuple | list) and len(skip) == 2]
    sticky = [float(share) for share in found[STICKINESS] if isinstance(share, int | float)]
    name = env.spec.id if env.spec else ""
    try:
        atari = atari_name(name) if "ale_py" in type(env.unwrapped).__module__ else None
    except UserError:
        atari = None
    return Own(
        env.observation_space.shape or (),
        max(skips, key=lambda skip: skip[1], default=(1, 1)),
        max(sticky, default=0.0),
        atari,
    )


@functools.cache
def own_of(name: str) -> Own:
    """The same of an environment by its name. Raises UserError where there is none."""
    env = make(name)
    try:
        return own(env)
    finally:
        env.close()
