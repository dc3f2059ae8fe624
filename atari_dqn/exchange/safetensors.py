"""safetensors: a network's weights, and all that is needed to make the network again. Needs the extra `export`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from atari_dqn.config import schema
from atari_dqn.dqn import networks
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import one_line

NEEDS = ("safetensors",)


def save(network: QNetwork, about: Mapping[str, str]) -> bytes:
    """The file's content: the weights under their names in the network, and `about` as its metadata."""
    from safetensors.torch import save

    content: bytes = save({name: value.contiguous() for name, value in network.state_dict().items()}, dict(about))
    return content


def load(path: Path | str) -> QNetwork:
    """The network that `save` wrote. Raises UserError for any other file."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in list(file.keys())}
        config = OmegaConf.create(json.loads(about["config"]))
        stack, *frame_shape = json.loads(about["state_shape"])
        network = networks.make_network(
            _as(schema.Network, config.network),
            frame_shape,
            stack,
            len(json.loads(about["actions"])),
            _as(schema.Head, config.head),
            _as(schema.AgentConfig, config.agent),
        )
        network.load_state_dict(weights)
    except Exception as error:
        raise UserError(f"{path} is not an agent that atari_dqn exported ({one_line(error, 120)})") from None
    return network.requires_grad_(False)


def _as(kind: type[Any], config: Any) -> Any:
    """An instance of a dataclass of the schema, from the settings in a file."""
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), config))
