"""The network that a config asks for, the user's own one included."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn import networks
from atari_dqn.dqn.features import CONVOLUTIONS
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.registry import plugins
from atari_dqn.registry.watched import where
from atari_dqn.utils.errors import UserError

OURS = (*CONVOLUTIONS, "mlp")


def is_own(config: TrainConfig) -> bool:
    """Whether the network is a plug-in."""
    return config.network.name not in OURS


def build_network(config: TrainConfig, frame_shape: Sequence[int], num_actions: int) -> QNetwork:
    """A fresh network for frames of a shape. Raises UserError if it cannot be made or cannot take such frames."""
    name, stack = config.network.name, config.env.frame_stack
    own = None
    if is_own(config):
        own = plugins.make(
            plugins.NETWORK, name, tuple(frame_shape), stack, arguments=config.network.arguments, known=OURS
        )
    network = networks.make_network(config.network, frame_shape, stack, num_actions, config.head, config.agent, own)
    if own is not None:
        _try_out(own, name, frame_shape, stack)
    return network


def restored(
    config: TrainConfig, frame_shape: Sequence[int], num_actions: int, weights: Mapping[str, Tensor]
) -> QNetwork:
    """The network with weights of a file. Raises ValueError if they do not fit or are not finite, and UserError."""
    # On the meta device: a tampered size allocates nothing before the weights' shapes are checked. A user's network
    # may keep tensors that no checkpoint has.
    own = is_own(config)
    with torch.device("cpu" if own else "meta"), torch.random.fork_rng([]):
        module = build_network(config, frame_shape, num_actions)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    if {key: tuple(value.shape) for key, value in weights.items()} != shapes:
        raise ValueError("its weights do not match its network")
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise ValueError("its weights are not finite")
    module = module if own else module.to_empty(device="cpu")
    module.load_state_dict(weights)
    return module.requires_grad_(False)


@torch.enable_grad()
def _try_out(own: nn.Module, name: str, frame_shape: Sequence[int], stack: int) -> None:
    """Raise UserError if a user's network does not return what it says, or could not learn."""
    for batch in (1, 2):
        try:
            features = own(torch.zeros(batch, stack, *frame_shape))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit, too
            shape = (batch, stack, *frame_shape)
            raise UserError(f"network={name} fails on states float32 {shape}: {where(error)}") from None
    wanted = (2, own.widths[0])  # type: ignore[index]
    shape = tuple(getattr(features, "shape", ()))
    if shape != wanted or features.dtype != torch.float32:
        dtype = str(getattr(features, "dtype", type(features).__name__)).removeprefix("torch.")
        raise UserError(
            f"network={name} returns {dtype} {shape or ''} for 2 states; expected float32 {wanted}, as its widths say"
        )
    if not features.isfinite().all():
        raise UserError(f"network={name} returns numbers that are not finite for states of zeros")
    if features.requires_grad:
        _try_gradients(own, name, features)
    elif any(weights.requires_grad for weights in own.parameters()):
        raise UserError(
            f"network={name} returns features without a gradient; freeze its parameters with requires_grad_(False)"
        )


def _try_gradients(own: nn.Module, name: str, features: Tensor) -> None:
    """Raise UserError unless every parameter that wants a gradient gets one."""
    learned = {key: weights for key, weights in own.named_parameters() if weights.requires_grad}
    found = torch.autograd.grad(features.sum(), [*learned.values()], allow_unused=True)
    if unused := [key for key, gradient in zip(learned, found, strict=True) if gradient is None]:
        raise UserError(
            f"network={name} does not use its parameter {unused[0]}; leave it out, or freeze it with "
            "requires_grad_(False)"
        )
