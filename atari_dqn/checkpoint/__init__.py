"""A run's folder: its checkpoints, the replay's files, where results go."""
