"""Published scores and learning curves with their sources, and the names of Atari's games."""
