"""Published scores, and scores in terms of a human's."""

import csv
import functools
import importlib.resources

SOURCE = "Wang et al. 2016, Table 2 (57 games, no-op starts)"


@functools.cache
def random_and_human() -> dict[str, tuple[float, float]]:
    """Game -> mean raw score of a random and of a human player."""
    text = importlib.resources.files("atari_dqn").joinpath("data/atari57_random_human.csv").read_text()
    return {row["game"]: (float(row["random"]), float(row["human"])) for row in csv.DictReader(text.splitlines())}


def human_normalised(game: str, score: float) -> float | None:
    """(score - random) / (human - random): 0 plays at random, 1 like a human. None where the game has no numbers."""
    if game not in random_and_human():
        return None
    random, human = random_and_human()[game]
    return (score - random) / (human - random)
