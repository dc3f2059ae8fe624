"""Parts as a user writes them, right and wrong; for test_plugins.py."""

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from atari_dqn.extend import Callback, Greedy

told: list[str] = []


class Net(nn.Module):
    def __init__(self, frame_shape, stack, width=32):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(stack * int(np.prod(frame_shape)), width), nn.Tanh())
        self.widths = (width, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Normed(Net):
    """A state's features depend on its batch."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y - y.mean(0)


class Idle(Net):
    def __init__(self, frame_shape, stack):
        super().__init__(frame_shape, stack)
        self.spare = nn.Linear(3, 3)


class Counting(Net):
    """Its features depend on how often it was called, which Python counts."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * (1 + self.calls)


class Peeking(Net):
    """Waits for the device."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if x.sum().item() > -1 else 2.0)


class Short(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :5]


class Widthless(nn.Module):
    def __init__(self, frame_shape, stack):
        super().__init__()


class Average(Greedy):
    """Bootstraps from the mean over actions, and counts copies in a tensor."""

    def __init__(self, weight: float = 1.0):
        self.weight = weight

    def begin(self, target):
        self.copies = torch.zeros(1, device=next(target.parameters()).device)

    def copying(self, target):
        self.copies += 1

    def target(self, online, m):
        return m.r_t[:, None] + self.weight * m.discount_t[:, None] * m.z_t.mean(1)

    def state(self):
        return {"copies": self.copies}

    def restore(self, state):
        self.copies.copy_(state["copies"])


class Forgetful(Greedy):
    """Its targets depend on a count that no checkpoint keeps."""

    def begin(self, target):
        self.copies = torch.zeros((), device=next(target.parameters()).device)

    def copying(self, target):
        self.copies += 1

    def target(self, online, m):
        return super().target(online, m) + self.copies


class Drifting(Greedy):
    """Its targets depend on how often they were asked for, which Python counts."""

    asked = 0

    def target(self, online, m):
        self.asked += 1
        return super().target(online, m) + self.asked


class Expectile(Greedy):
    """Another loss."""

    def loss(self, online, z_tm1, y, m):
        error = y - z_tm1
        return (torch.where(error > 0, 0.6, 0.4) * error.square()).sum(-1), error.detach().abs().sum(-1)


class SignSgd(torch.optim.Optimizer):
    def __init__(self, params, lr, decay=0.0):
        super().__init__(params, {"lr": lr, "decay": decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["decay"]).sub_(group["lr"] * p.grad.sign())
                self.state[p].setdefault("steps", torch.zeros(1)).add_(1)


class Broken(Greedy):
    def target(self, online, m):
        raise KeyError("nothing there")


class Told(Callback):
    """A tracker that keeps what it is told."""

    def start(self, run):
        told.append(f"start {run.agent_steps}")

    def evaluation(self, row):
        told.append(f"evaluation {row['agent_steps']}")

    def close(self):
        told.append("close")


class Dead(Told):
    def evaluation(self, row):
        raise OSError("no connection")


class Enough(Callback):
    """Ends a run after so many steps of its own count, over resumes."""

    def __init__(self, most: int = 30):
        self.most, self.seen, self.events = most, 0, []

    def start(self, run):
        self.run = run
        self.events.append("start")

    def step(self, info):
        self.seen += 1
        if self.seen == self.most:
            self.run.stop()

    def episode(self, row):
        self.events.append("episode")

    def evaluation(self, row):
        self.events.append("evaluation")

    def checkpoint(self, path):
        assert path.is_file()
        self.events.append("checkpoint")

    def close(self):
        self.events.append("close")

    def state(self):
        return {"seen": self.seen}

    def restore(self, state):
        self.seen = state["seen"]


class Chance(gymnasium.Env):
    """Its games come from a generator that no seed reaches."""

    observation_space = gymnasium.spaces.Box(0, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    rng = np.random.default_rng()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.rng.random(2, np.float32), {}

    def step(self, action):
        return self.rng.random(2, np.float32), 0.0, bool(self.rng.random() < 0.1), False, {}


def not_a_class(frame_shape, stack):
    return 3
