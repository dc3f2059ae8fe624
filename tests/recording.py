"""What of the project is audited for CUDA graphs; see atari_dqn/testing/capture.py."""

from atari_dqn.config.commands import conf_dir
from atari_dqn.testing.capture import GPU, Audit, MetaGpu, Recording, audited_turn  # noqa: F401

# What is audited: each preset, and what no preset asks for.
VARIANTS = {path.stem: [f"preset={path.stem}"] for path in sorted((conf_dir() / "preset").glob("*.yaml"))} | {
    "keras_rl_cartpole": ["preset=keras_rl_cartpole", "env=cartpole"],
    "cartpole": ["preset=cartpole", "env=cartpole"],
    "noisy": ["agent.noisy=true"],
    "m-iqn": ["preset=munchausen", "head=iqn"],
    "boltzmann": ["exploration.temperature=1.0"],
    "persistent": ["exploration.persistence=2"],
    "standardize": ["network.standardize=true"],
}
