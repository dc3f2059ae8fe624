"""Q-networks: map a state to action values or return distributions."""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from atari_dqn.config import schema
from atari_dqn.dqn import heads
from atari_dqn.dqn.features import CONVOLUTIONS, MLP, Convolutions, Features, OwnFeatures
from atari_dqn.dqn.heads import Values
from atari_dqn.dqn.layers import Convolution, Dense, NoisyDense, Stream
from atari_dqn.utils.errors import UserError
from atari_dqn.utils.machine import cpus

INITIALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier": nn.init.xavier_uniform_,
    "he": functools.partial(nn.init.kaiming_normal_, nonlinearity="relu"),
}


class QNetwork(nn.Module):
    """Features of a state, then fully connected layers to each action's return: in one stream, or dueling.

    Args:
        values: what the outputs represent: a return's expectation or its distribution.
        agent: of it what begins with `dueling` and `noisy`.
        initialization: `torch`, U(+-1/sqrt(fan_in)), which is Torch7's and so the Nature paper's code's; `xavier`,
            Glorot and Bengio 2010, eq. 16, with biases of 0, as in Dopamine and Keras; or `he`, N(0, 2/fan_in), He et
            al. 2015, eq. 10, with biases of 0, as in nnabla-rl. Noisy layers always begin as `torch`, which is as in
            Fortunato et al. 2018, section 3.2.
    """

    def __init__(
        self, features: Features, num_actions: int, values: Values, agent: schema.AgentConfig, initialization: str
    ) -> None:
        super().__init__()
        self.features, self.values, self.num_actions = features, values, num_actions
        self._in_bfloat16 = False
        noisy = agent.noisy_sigma if agent.noisy else None
        self.embedding = nn.Linear(values.cosines, features.widths[0]) if values.cosines else None
        widths, self.shared = [*features.widths], None
        if agent.dueling and agent.dueling_shared and len(widths) > 1:
            self.shared, widths = Stream(widths, noisy), widths[-1:]
        self.head = Stream([*widths, num_actions * values.outputs], noisy)
        self.value = Stream([*widths, values.outputs], noisy) if agent.dueling else None
        self._branch_scale = agent.dueling_gradient_scale if agent.dueling else 1.0
        self._noise_sizes = [0 if s is None else s.noise_size for s in (self.shared, self.head, self.value)]
        self.noise_size = sum(self._noise_sizes)
        self._initialize(initialization)
        if self.sees_pictures:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on a CPU

    def _initialize(self, how: str) -> None:
        if how == "torch":
            return
        noisy = {part for layer in self.modules() if isinstance(layer, NoisyDense) for part in layer.modules()}
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer not in noisy:
                INITIALIZERS[how](layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    @property
    def sees_pictures(self) -> bool:
        return isinstance(self.features, Convolutions) or getattr(self.features, "is_picture", False)

    def use_products(self) -> None:
        """Compute convolutions as matrix products; see layers.Convolution."""
        for layer in self.modules():
            if isinstance(layer, Convolution):
                layer.as_product = True
            elif isinstance(layer, nn.ReLU):
                layer.inplace = False  # which autograd forbids after ConvolutionProduct

    def use_bfloat16(self) -> None:
        """Multiply in bfloat16, all but the last layers; sums, and what is learned, stay in float32."""
        self._in_bfloat16 = True
        last = {part for stream in (self.head, self.value) if stream is not None for part in stream[-1].modules()}
        for layer in self.modules():
            if isinstance(layer, Dense) and layer not in last:
                layer.in_bfloat16 = True

    def round_weights(self, anew: bool = False) -> None:
        """Round those weights that a CPU keeps in bfloat16, too: if they have changed, or `anew`, as after an
        optimizer, whose changes are not always seen."""
        for layer in self.modules() if self._in_bfloat16 else ():
            if isinstance(layer, Dense) and layer.in_bfloat16 and layer.is_large and layer.weight.device.type == "cpu":
                layer.rounded(anew)

    def draw_noise(self, groups: int, generator: torch.Generator) -> Tensor:
        """Noise for `groups` draws of the weights, [groups, noise_size]; empty if they are certain."""
        device = next(self.parameters()).device
        if not self.noise_size:
            return torch.empty(groups, 0, device=device)
        noise = torch.randn(groups, self.noise_size, generator=generator, device=device)
        return noise.sign() * noise.abs().sqrt()

    def prepare(self, states: Tensor) -> Tensor:
        """See Features.prepare."""
        return self.features.prepare(states)

    def forward(self, states: Tensor, noise: Tensor | None = None, taus: Tensor | None = None) -> Tensor:
        """Each action's return, [B, A, n]: its expectation, n = 1; or a distribution, see `values`.

        Args:
            states: [B, stack, *frame], or prepared.
            noise: [G, noise_size], each row for B / G states in turn; None for the mean weights.
            taus: [B, n], the quantiles that an implicit network is asked for; None for evenly spread ones.
        """
        x = self.prepare(states)
        if self._in_bfloat16:
            with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
                x = self.features(x)
        else:
            x = self.features(x)
        if self._branch_scale != 1:  # Wang et al. 2016, section 4.2: two streams push the features, so more softly
            x = x * self._branch_scale + x.detach() * (1 - self._branch_scale)
        if self.embedding is not None:
            x = self._asked(x, self.values.spread(x.shape[0], x.device) if taus is None else taus)
        for_shared, for_head, for_value = (None,) * 3 if noise is None else noise.split(self._noise_sizes, 1)
        if self.shared is not None:
            x = torch.relu(self.shared(x, for_shared))
        z = self.head(x, for_head)
        z = z.unflatten(-1, (self.num_actions, self.values.outputs))
        if self.value is not None:
            v = self.value(x, for_value)
            z = v.unsqueeze(-2) + z - z.mean(-2, keepdim=True)  # Wang et al. 2016, eq. 9
        return z if self.embedding is None else z.view(states.shape[0], -1, self.num_actions).transpose(1, 2)

    def _asked(self, x: Tensor, taus: Tensor) -> Tensor:
        """Features [B, F] for quantiles [B, n], as [B * n, F] (Dabney et al. 2018b, eq. 4)."""
        assert self.embedding is not None
        i = torch.arange(self.values.cosines, device=x.device)
        phi = torch.relu(self.embedding(torch.cos(math.pi * i * taus.unsqueeze(-1))))
        return (x.unsqueeze(1) * phi).flatten(0, 1)

    def q_values(self, states: Tensor, noise: Tensor | None = None) -> Tensor:
        """Expected returns [B, A]."""
        return self.values.mean(self(states, noise))


def set_threads(name: str, device: torch.device) -> None:
    """Let torch use as many CPU threads as the network called `name` gains from; an MLP is too small to share.

    Beside a GPU none but this one: torch's threads wait for work by spinning, on the cores that the emulators need.
    """
    torch.set_num_threads(1 if name == "mlp" or device.type == "cuda" else cpus())


def make_network(
    network: schema.Network,
    frame_shape: Sequence[int],
    stack: int,
    num_actions: int,
    head: schema.Head | None = None,
    agent: schema.AgentConfig | None = None,
    own: nn.Module | None = None,
) -> QNetwork:
    """The network that a config asks for. Raises UserError if it cannot take such frames.

    Args:
        head, agent: default to DQN's, with the Huber loss.
        own: a user's Network, in place of one of ours.
    """
    kind: Callable[..., Features] = MLP
    if own is not None:
        kind = functools.partial(OwnFeatures, own)
    elif network.name in CONVOLUTIONS:
        kind = Convolutions
        if len(frame_shape) != 2 or min(frame_shape) < 36:
            remedy = "use network=mlp" + " network.standardize=false" * network.standardize
            raise UserError(f"network={network.name} needs pictures of 36x36 or more, not {frame_shape}; {remedy}")
    elif network.name != "mlp":
        raise UserError(f"no network is called {network.name!r}; known: {', '.join(CONVOLUTIONS)}, mlp")
    agent = agent or schema.AgentConfig(loss="huber")
    values = heads.make_head(head or schema.Head(), agent.loss)
    features = kind(network, frame_shape, stack)
    return QNetwork(features, num_actions, values, agent, network.initialization)


FEATURES = ("convolutions.", "layers.", "standard.")


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict with today's names; older ones have no prefix for features."""
    return {f"features.{key}" if key.startswith(FEATURES) else key: value for key, value in weights.items()}
