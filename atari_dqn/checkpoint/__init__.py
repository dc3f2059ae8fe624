"""Run directories: checkpoints, replay files, output paths."""
