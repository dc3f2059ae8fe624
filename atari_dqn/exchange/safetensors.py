"""safetensors: a network's weights, and all that is needed to make the network again. Needs the extra `export`."""

import json
from collections.abc import Mapping
from pathlib import Path

from atari_dqn.checkpoint.network import restored
from atari_dqn.config import compose
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.text import one_line

NEEDS = ("safetensors",)


def save(network: QNetwork, about: Mapping[str, str]) -> bytes:
    """The file's content: the weights under their names in the network, and `about` as its metadata."""
    from safetensors.torch import save

    tensors = {name: value.contiguous().clone() for name, value in network.state_dict().items()}  # tied ones, too
    content: bytes = save(tensors, dict(about))
    return content


def load(path: Path | str) -> QNetwork:
    """The network that `save` wrote. Raises UserError for any other file, and if a plug-in that it needs is missing."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in list(file.keys())}
        config = compose.to_train_config(compose.plain(json.loads(about["config"])))
        shape, actions = json.loads(about["state_shape"]), json.loads(about["actions"])
        return restored(config, shape[1:], len(actions), weights)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path} is not an agent that atari_dqn exported ({one_line(error, 120)})") from None
