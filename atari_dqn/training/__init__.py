"""A training run, from its config to its end: starting, running, evaluating, saving, resuming."""
