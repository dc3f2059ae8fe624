"""Settings: their dataclasses, how Hydra composes them, and what they may be."""
