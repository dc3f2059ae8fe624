"""Names of games: the ALE's spelling, and matching of what users type."""

import functools
import re

import ale_py
import gymnasium

from atari_dqn.utils import hints
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import suggest

gymnasium.register_envs(ale_py)

# Kaiser et al. 2020, Table 1: the games of "Atari 100k".
ATARI_26 = (
    "Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout", "ChopperCommand",
    "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero", "Jamesbond", "Kangaroo", "Krull",
    "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner", "Seaquest", "UpNDown",
)  # fmt: skip


@functools.cache
def atari_games() -> dict[str, str]:
    """All single-player games of ale-py: CamelCase name -> snake_case ROM id."""
    return {
        name.removeprefix("ALE/").removesuffix("-v5"): spec.kwargs["game"]
        for name, spec in gymnasium.registry.items()
        if name.startswith("ALE/") and name.endswith("-v5")
    }


def atari_name(typed: str) -> str:
    """The ALE's CamelCase name of a game typed in any case: `breakout`, `ms_pacman`, `ALE/Breakout-v5`.

    Raises UserError, with the nearest name, if there is no such game.
    """
    word = re.sub(r"^ALE/|(NoFrameskip|Deterministic)?-v\d+$", "", typed)
    key = re.sub(r"[\s_-]", "", word).lower()
    for name in atari_games():
        if name.lower() == key:
            return name
    hint = suggest(key, [*atari_games(), "CartPole"])
    raise UserError(f"no Atari game is called {typed!r}{hint}; {hints.hint('games')} lists all {len(atari_games())}")
