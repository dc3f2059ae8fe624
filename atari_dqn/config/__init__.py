"""Configuration: dataclasses, composition with Hydra, validation."""
