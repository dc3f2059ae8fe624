"""Nothing in a turn of training waits for the device or needs the host: a GPU can have it as a CUDA graph."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from recording import GPU, VARIANTS, Audit, MetaGpu, Recording, audited_turn
from torch import Tensor

from atari_dqn.config import compose
from atari_dqn.dqn import optimizers
from atari_dqn.training.agents import make_agent

WAITS = "waits for the device"
CONSTANT = "is a constant that the host copies"

# Seen on any device.
FORBIDDEN: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a number is read": (lambda x: x * x.sum().item(), WAITS),
    "a condition": (lambda x: -x if x.sum() > 0 else x, WAITS),
    "places are looked for": (lambda x: torch.where(x > 0), WAITS),
    "a mask chooses": (lambda x: x[x > 0], "how much does the mask choose"),
    "a mask is written to": (lambda x: x.index_put_((x > 0,), x[0]), "how much does the mask choose"),
    "numbers of Python": (lambda x: x + torch.tensor([1.0, 2.0, 3.0], device=x.device), CONSTANT),
    "indices of Python": (lambda x: x[[0, 2]], CONSTANT),
}
HOST = torch.ones(3)
# Seen only where host and device are two.
FORBIDDEN_ON_A_GPU: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a tensor of the host": (lambda x: x.copy_(HOST), "takes a tensor of the host"),
    "a number of the host": (lambda x: x * HOST[0], "takes a tensor of the host"),
    "to the host": (lambda x: x.cpu(), "copies to the host"),
    "on the host": (lambda x: torch.ones(3), "works there"),
    "strides": (lambda x: torch._foreach_add([x.expand(3, 3)], [x.expand(3, 3).t()]), "different strides"),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_recording_fails_at_what_a_graph_cannot_have(name):
    function, why = FORBIDDEN[name]
    x = torch.ones(3)
    function(x)
    with pytest.raises(AssertionError, match=why):
        Recording(lambda: function(x))


@pytest.mark.parametrize("name", FORBIDDEN | FORBIDDEN_ON_A_GPU)
def test_an_audit_fails_at_what_a_graph_cannot_have(name):
    function, why = (FORBIDDEN | FORBIDDEN_ON_A_GPU)[name]
    with MetaGpu():
        x = torch.ones(3, device=GPU)
        with pytest.raises(AssertionError, match=why), Audit():
            function(x)


def test_an_audit_counts_kernels():
    with MetaGpu():
        x = torch.ones(3, 4, device="cuda", requires_grad=True)
        with Audit() as audit:
            (x * 2 + torch.arange(4, device=x.device)).view(2, 6).sum().backward()
    # Backwards: a gradient of 1, expanded, times 2.
    assert audit.kernels == {"mul": 2, "arange": 1, "add": 1, "sum": 1, "ones_like": 1}


def test_the_meta_device_shows_itself_as_a_gpu():
    with MetaGpu():
        x = torch.nn.Linear(2, 3).to(GPU)(torch.zeros(1, 2).to("cuda"))
        assert x.is_cuda and x.device == GPU and x.detach().device.type == "cuda" and x.shape == (1, 3)
        for host in (torch.zeros(3), torch.zeros(3, pin_memory=True), torch.zeros(3).pin_memory()):
            assert not host.is_cuda and host.device.type == "cpu"
    assert x.is_meta and not x.is_cuda and x.device.type == "meta"


def check(*words: str) -> None:
    config = compose.to_train_config(
        compose.compose("train", ["device=cpu", "compute.compile=false", "num_envs=8", *words])
    )
    frame_shape = (4,) if config.network.name == "mlp" else (84, 84)
    kernels, agent = audited_turn(config, frame_shape, minibatches=2)
    assert optimizers.can_be_recorded(agent.optimizer)
    assert all(kernels[part] for part in ("act", "act_at_random", "sample", "learn", "copy"))
    for parameter in agent.online.parameters():  # else an optimizer's step is slow
        assert parameter.grad is not None and parameter.grad.stride() == parameter.stride()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_turn_can_be_captured(name):
    check(*VARIANTS[name])


SCHEDULED = ["optimizer.schedule=linear", "optimizer.schedule_steps=100"]


READERS = [["ASGD"], ["SGD", "fused=false"], ["RMSprop", "foreach=false"], ["Adadelta", "foreach=false"]]


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "NatureRMSProp", "SGD", "RMSprop", "Adadelta", "NAdam"])
def test_a_turn_with_a_changing_learning_rate_can_be_captured(optimizer):
    check(f"optimizer.name={optimizer}", "network=small_cnn", *SCHEDULED)


@pytest.mark.parametrize("optimizer", READERS, ids=" ".join)
def test_an_optimizer_that_reads_a_changing_learning_rate_is_not_captured(optimizer):
    words = [f"optimizer.name={optimizer[0]}", *(f"+optimizer.arguments.{word}" for word in optimizer[1:])]
    with MetaGpu():
        for schedule, answer in (([], True), (SCHEDULED, False)):
            config = compose.to_train_config(compose.compose("train", [*words, *schedule, "compute.compile=false"]))
            agent = make_agent(config, (84, 84), 4, GPU)
            assert optimizers.can_be_recorded(agent.optimizer) == answer
    with pytest.raises((RuntimeError, NotImplementedError), match="meta tensor"):  # so it is right to refuse
        check(*words, *SCHEDULED)


@pytest.mark.parametrize("name", ["nature", "rainbow", "m-iqn", "laptop"])
def test_a_turn_to_be_compiled_can_be_captured(name):
    # The operators as the compiler is given them; an export to ONNX in this process leaves it strict about tracing.
    eager = torch._dynamo.config.patch(error_on_nested_fx_trace=False)
    with torch.compiler.set_stance("force_eager"), eager:
        check(*VARIANTS[name], "compute.compile=true")
