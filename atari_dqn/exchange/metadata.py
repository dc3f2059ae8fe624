"""What an exported file says about its agent: text by key, as ONNX and safetensors store it."""

import dataclasses
import json

import atari_dqn
from atari_dqn.checkpoint.checkpoints import Checkpoint

# The settings that describe an agent. The others name folders, accounts and machines.
PARTS = (
    "env", "network", "head", "optimizer", "agent", "replay", "update", "exploration", "protocol", "preset", "seed",
    "total_steps", "num_envs",
)  # fmt: skip


def of(checkpoint: Checkpoint) -> dict[str, str]:
    """Describe a checkpoint. `actions`, `state_shape` and `config` are JSON; the others are plain text."""
    config = dataclasses.asdict(checkpoint.config)
    return {
        "producer": f"atari_dqn {atari_dqn.__version__}",
        "game": checkpoint.config.env.game,
        "agent_steps": str(checkpoint.agent_steps),
        "actions": json.dumps(checkpoint.actions),
        "state_shape": json.dumps(state_shape(checkpoint)),
        "state_dtype": checkpoint.frame_dtype,
        "config": json.dumps({part: config[part] for part in PARTS}),
    }


def state_shape(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Of one state: (frame_stack, *frame)."""
    return checkpoint.config.env.frame_stack, *checkpoint.frame_shape
