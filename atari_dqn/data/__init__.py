"""Published scores and learning curves with their sources; names of Atari games."""
