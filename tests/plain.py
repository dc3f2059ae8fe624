"""Training and evaluation once more, as plainly as possible: lists, one state at a time, nothing fast.

It reads every constant from the config by itself and draws the same random numbers in the same order. It shares with
the program only torch's optimizers and the pure functions of targets.py, which have tests of their own.
"""

import functools
import zlib
from typing import Any

import gymnasium
import numpy as np
import torch
from test_prioritized import naive_draw
from torch import Tensor

from atari_dqn.config.schema import TrainConfig
from atari_dqn.dqn import targets
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.envs.base import CUT, ORDINARY, TERMINAL

Weights = dict[str, Tensor]
ONE, MOST, DICE = 1 << 20, 1 << 34, 1 << 62  # the priority 1, the largest, what dice are below


def stream(seed: int, name: str, count: int = 1) -> list[int]:
    """The seeds of a random stream."""
    words = np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(count)
    return [int(word) // 2 for word in words]


def generator(seed: int, name: str) -> torch.Generator:
    return torch.Generator().manual_seed(stream(seed, name)[0])


def multiples(every: int, before: int, after: int) -> int:
    """How many there are in (before, after]."""
    return sum(step % every == 0 for step in range(before + 1, after + 1))


def weights_of(network: QNetwork) -> Weights:
    return {name: part.detach().clone().requires_grad_() for name, part in network.named_parameters()}


class Games:
    """Some games, and everything that was seen in each, in lists by time."""

    def __init__(self, config: TrainConfig, seeds: list[int], max_frames: int) -> None:
        self.config, self.env, self.max_frames = config, config.env, max_frames
        self.all = [gymnasium.make(self.env.game, disable_env_checker=True) for _ in seeds]
        self.frames = [[game.reset(seed=seed)[0]] for game, seed in zip(self.all, seeds, strict=True)]
        self.flags: list[list[int]] = [[ORDINARY] for _ in seeds]
        self.actions: list[list[int]] = [[] for _ in seeds]
        self.rewards: list[list[float]] = [[] for _ in seeds]
        self.played, self.steps, self.score = [0] * len(seeds), [0] * len(seeds), [0.0] * len(seeds)
        self.ended: list[tuple[int, float, int]] = []  # game, raw score, length in frames

    def step(self, i: int, action: int) -> bool:
        """One agent step in game i; whether it ended with it. After an end the next step only shows the next game."""
        reward, flag = 0.0, ORDINARY
        if self.flags[i][-1] != ORDINARY:
            frame, _ = self.all[i].reset()
            self.played[i], self.steps[i], self.score[i] = 0, 0, 0.0
        else:
            shown = []
            for _ in range(self.env.frame_skip):
                frame, one, over, *_ = self.all[i].step(action + 5)  # where the probe's actions begin
                shown.append(frame)
                reward += one
                self.played[i] += 1
                if over:
                    flag = TERMINAL
                elif self.played[i] == self.max_frames:
                    flag = CUT
                if flag != ORDINARY:
                    break
            frame = shown[-1]  # of two vectors the larger parts are no state
            self.steps[i] += 1
            self.score[i] += reward
            if flag != ORDINARY:
                self.ended.append((i, self.score[i], self.steps[i] * self.env.frame_skip))
        self.actions[i].append(action)
        self.rewards[i].append(reward)
        self.frames[i].append(frame)
        self.flags[i].append(flag)
        return flag != ORDINARY

    def state(self, i: int, t: int = -1) -> Tensor:
        """What a network sees of game i at time t: the newest frames, and zeros for those of the game before."""
        t %= len(self.frames[i])
        shown = [self.frames[i][t]]
        while len(shown) < self.env.frame_stack and t > 0 and self.flags[i][t - 1] == ORDINARY:
            t -= 1
            shown.insert(0, self.frames[i][t])
        blank = [np.zeros_like(shown[0])] * (self.env.frame_stack - len(shown))
        return torch.from_numpy(np.concatenate(blank + shown))

    def transition(self, i: int, t: int) -> tuple[Tensor, int, Tensor, Tensor, Tensor]:
        """s_tm1, a_tm1, r_t, discount_t, s_t"""
        agent, r_t, taken = self.config.agent, 0.0, 0
        while taken < agent.n_step and self.flags[i][t + taken] == ORDINARY:
            reward = self.rewards[i][t + taken]
            if agent.reward_clip is not None:
                reward = max(-agent.reward_clip, min(agent.reward_clip, reward))
            r_t += agent.discount**taken * reward
            taken += 1
        discount_t = 0.0 if self.flags[i][t + taken] == TERMINAL else agent.discount**taken
        return (
            self.state(i, t), self.actions[i][t], torch.tensor(r_t), torch.tensor(discount_t), self.state(i, t + taken)
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the network


def layer(w: Weights, name: str, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if f"{name}.weight" in w:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"], noise
    matrix, bias = w[f"{name}.mean.weight"], w[f"{name}.mean.bias"]
    if noise is not None:
        outputs, inputs = matrix.shape
        e_in, e_out, noise = noise.split([inputs, outputs, len(noise) - inputs - outputs])
        matrix = matrix + w[f"{name}.spread.weight"] * torch.outer(e_out, e_in)
        bias = bias + w[f"{name}.spread.bias"] * e_out
    return x @ matrix.T + bias, noise


def layers(w: Weights, name: str, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Those called `name`, with ReLUs between them; and what is left of the noise."""
    for k in sorted({int(key.removeprefix(f"{name}.").split(".")[0]) for key in w if key.startswith(f"{name}.")}):
        x, noise = layer(w, f"{name}.{k}", x.relu() if k else x, noise)
    return x, noise


def outputs(c: TrainConfig, w: Weights, x: Tensor, noise: Tensor | None, taus: Tensor) -> Tensor:
    """[A, n] for one state [inputs], by one draw of the noise; `taus` are for IQN."""
    x = layers(w, "features.layers", x, None)[0].relu()
    scale = c.agent.dueling_gradient_scale if c.agent.dueling else 1.0
    x = scale * x + (1 - scale) * x.detach()
    if c.head.name == "iqn":
        cosines = torch.cos(torch.pi * torch.arange(c.head.cosines) * taus[:, None])
        x = x * layer(w, "embedding", cosines, None)[0].relu()  # [n, features]
    if c.agent.dueling_shared:
        x, noise = layers(w, "shared", x, noise)
        x = x.relu()
    z, noise = layers(w, "head", x, noise)
    each = {"scalar": 1, "c51": c.head.atoms, "qr": c.head.quantiles, "iqn": 1}[c.head.name]
    z = z.unflatten(-1, (-1, each))  # [(n,) A, each]
    if c.agent.dueling:
        v, _ = layers(w, "value", x, noise)
        z = v.unsqueeze(-2) + z - z.mean(-2, keepdim=True)
    return z.squeeze(-1).T if c.head.name == "iqn" else z


def middles(count: int) -> Tensor:
    return (torch.arange(count) + 0.5) / count


def support(c: TrainConfig) -> Tensor:
    return torch.linspace(c.head.v_min, c.head.v_max, c.head.atoms)


def mean(c: TrainConfig, z: Tensor) -> Tensor:
    """Expected returns of outputs [..., n]."""
    if c.head.name == "c51":
        return z.softmax(-1) @ support(c)
    return z[..., -c.head.policy_samples :].mean(-1) if c.head.name == "iqn" else z.mean(-1)


def q_values(c: TrainConfig, w: Weights, x: Tensor, noise: Tensor | None = None) -> Tensor:
    return mean(c, outputs(c, w, x, noise, middles(c.head.policy_samples)))


def epsilon_greedy(q: Tensor, epsilon: float, draw: torch.Generator) -> Tensor:
    random = torch.rand(len(q), generator=draw) < epsilon
    anything = torch.rand(q.shape, generator=draw).argmax(1)
    return torch.where(random, anything, q.argmax(1))


# -------------------------------------------------------------------------------------------------------- the learner


class RMSProp:
    """Nature's: w <- w - lr dw / sqrt(v - g^2 + eps), g and v being decaying means of dw and dw^2."""

    def __init__(self, weights: list[Tensor], lr: float, decay: float, eps: float) -> None:
        self.weights, self.lr, self.decay, self.eps = weights, lr, decay, eps
        self.g, self.v = [[torch.zeros_like(w) for w in weights] for _ in "gv"]

    def zero_grad(self) -> None:
        for w in self.weights:
            w.grad = None

    @torch.no_grad()
    def step(self) -> None:
        for w, g, v in zip(self.weights, self.g, self.v, strict=True):
            g[:] = self.decay * g + (1 - self.decay) * w.grad
            v[:] = self.decay * v + (1 - self.decay) * w.grad**2
            w -= self.lr * w.grad / (v - g**2 + self.eps).sqrt()


class Learner:
    """What a run of Probe/Dice-v0 should have done, from the weights that it began with.

    Args:
        errors: those that the run's replay was told, [K, B] for each turn with updates. They are compared with the
            ones found here and then used, because a difference in the last bit would change all later draws.
    """

    def __init__(self, c: TrainConfig, network: QNetwork, errors: list[Tensor] | None = None) -> None:
        self.errors = errors
        self.c, self.rows = c, -(-c.replay.capacity // c.num_envs) + 1
        self.online, self.target = weights_of(network), weights_of(network)
        self.explore, self.draw = generator(c.seed, "exploration"), generator(c.seed, "replay")
        kind: Any = RMSProp
        if c.optimizer.name != "NatureRMSProp":
            kind = functools.partial(getattr(torch.optim, c.optimizer.name), foreach=False)
        self.optimizer = kind([*self.online.values()], lr=c.optimizer.learning_rate, **c.optimizer.arguments)
        self.games = Games(c, stream(c.seed, "games/0", c.num_envs), c.env.max_frames)
        self.priorities: dict[tuple[int, int], int] = {}  # by time and game
        self.highest, self.updates = ONE, 0
        self.repeated, self.left = [0] * c.num_envs, [0] * c.num_envs
        self.noise_size = 0
        if c.agent.noisy:
            shapes = [part.shape for name, part in self.online.items() if name.endswith("spread.weight")]
            self.noise_size = sum(map(sum, shapes))
        self.told: list[tuple[int, int, float, list]] = []  # agent steps, updates, epsilon and ended games of each turn

    def noise(self, groups: int, draw: torch.Generator) -> list[Tensor | None]:
        if not self.c.agent.noisy:
            return [None] * groups
        drawn = torch.randn(groups, self.noise_size, generator=draw)
        return list(drawn.sign() * drawn.abs().sqrt())

    def epsilon(self, step: int) -> float:
        e = self.c.exploration
        begin = self.c.replay.warmup_steps if e.begin_steps is None else e.begin_steps
        return float(np.interp(step, [begin, begin + e.decay_steps], [e.start, e.end]))

    def change_learning_rate(self, step: int) -> None:
        o = self.c.optimizer
        if o.schedule == "linear":
            for group in self.optimizer.param_groups:
                group["lr"] = float(np.interp(step, [0, o.schedule_steps], [o.learning_rate, o.final_learning_rate]))

    def act(self, epsilon: float) -> list[int]:
        c, games = self.c, range(self.c.num_envs)
        q = torch.zeros(c.num_envs, 3)
        if epsilon < 1:
            noise = self.noise(c.num_envs, self.explore)
            with torch.no_grad():
                q = torch.stack([q_values(c, self.online, self.games.state(i), noise[i]) for i in games])
        if c.exploration.temperature is not None:
            uniform = torch.rand(q.shape, generator=self.explore)
            q = q / c.exploration.temperature - (-uniform.log()).log()
        if c.exploration.persistence is None:
            return epsilon_greedy(q, epsilon, self.explore).tolist()
        begin, length = torch.rand(2, c.num_envs, generator=self.explore)
        anything = epsilon_greedy(q, 1.0, self.explore)
        upto = (np.arange(1, 101) ** -c.exploration.persistence).cumsum()
        for i in games:
            if not self.left[i] and begin[i] < epsilon:
                longer = int((upto / upto[-1] < float(length[i])).sum()) if epsilon > c.exploration.end else 0
                self.repeated[i], self.left[i] = int(anything[i]), 1 + longer
        chosen = [self.repeated[i] if self.left[i] else int(q[i].argmax()) for i in games]
        self.left = [max(0, left - 1) for left in self.left]
        return chosen

    def drawn(self, minibatches: int) -> tuple[list[list[tuple[int, int]]], Tensor]:
        """The time and game of each transition of an update, and its weight."""
        c, newest = self.c, len(self.games.frames[0]) - 1
        size, batch = c.num_envs, c.update.batch_size
        oldest = max(0, newest - (self.rows - c.env.frame_stack))
        last = newest - c.agent.n_step
        if not c.replay.prioritized:
            places = []
            for dice in torch.randint(DICE, (minibatches, 4 * batch), generator=self.draw).tolist():
                draws = [die % ((last - oldest + 1) * size) for die in dice]
                found = [(last - die // size, die % size) for die in draws]
                places.append([(t, i) for t, i in found if self.games.flags[i][t] == ORDINARY][:batch])
            return places, torch.ones(minibatches, batch)
        ring = [0] * (self.rows * size)
        for t in range(oldest, last + 1):
            for i in range(size):
                if self.games.flags[i][t] == ORDINARY:
                    ring[t % self.rows * size + i] = self.priorities[t, i]
        at = {t % self.rows: t for t in range(oldest, last + 1)}
        dice = torch.randint(DICE, (minibatches, batch), generator=self.draw).tolist()
        indices = [naive_draw(ring, some) for some in dice]
        r = c.replay
        done = min(1.0, newest * size / r.importance_steps)
        beta = r.importance_start + done * (r.importance_end - r.importance_start)
        p = torch.tensor([[ring[index] for index in some] for some in indices], dtype=torch.float64)
        weights = (p / p.min(1, keepdim=True).values) ** -beta
        return [[(at[index // size], index % size) for index in some] for some in indices], weights.float()

    def learn(self, minibatches: int) -> None:
        c, head, agent = self.c, self.c.head, self.c.agent
        places, weights = self.drawn(minibatches)
        iqn, batch = head.name == "iqn", c.update.batch_size
        count = head.target_samples if iqn else 0, head.samples if iqn else 0
        noise_t = self.noise(minibatches, self.draw)
        taus_t = torch.rand(minibatches, batch, count[0], generator=self.draw) if iqn else None
        noise = self.noise(2 * minibatches, self.draw)
        taus = torch.rand(minibatches, batch, count[1], generator=self.draw) if iqn else None
        errors = torch.zeros(weights.shape)
        for k, some in enumerate(places):
            losses = []
            for b, (t, i) in enumerate(some):
                s_tm1, a_tm1, r_t, discount_t, s_t = self.games.transition(i, t)
                with torch.no_grad():
                    asked = torch.cat([taus_t[k, b], middles(head.policy_samples)]) if iqn else middles(1)
                    z_t = outputs(c, self.target, s_t, noise_t[k], asked)
                    samples = z_t[:, : head.target_samples] if iqn else z_t
                    chosen_by = q_values(c, self.online, s_t, noise[2 * k + 1]) if agent.double else mean(c, z_t)
                    if agent.munchausen:
                        q_tm1 = q_values(c, self.target, s_tm1, noise_t[k])
                        y = targets.munchausen(
                            r_t, discount_t, samples, mean(c, z_t), q_tm1, torch.tensor(a_tm1), agent.munchausen_alpha,
                            agent.munchausen_temperature, agent.munchausen_floor,
                        )  # fmt: skip
                    elif head.name == "c51":
                        y = targets.categorical(r_t, discount_t, z_t.softmax(-1), chosen_by, support(c))
                    else:
                        y = targets.greedy(r_t, discount_t, samples, chosen_by)
                z = outputs(c, self.online, s_tm1, noise[2 * k], taus[k, b] if iqn else middles(1))[a_tm1]
                if head.name == "c51":
                    loss = targets.divergence(z[None], y[None])[0]
                elif head.name in ("qr", "iqn"):
                    mine = taus[k, b] if iqn else middles(head.quantiles)
                    loss = targets.quantile_huber(z[None], mine[None], y[None])[0]
                else:
                    loss = targets.error_loss(agent.loss, z, y)[0]
                errors[k, b] = (y - z).abs()[0].detach() if head.name == "scalar" else loss.detach()
                if c.head.priority == "cross_entropy":
                    errors[k, b] = -(y[y > 0] * z.log_softmax(-1).detach()[y > 0]).sum()
                losses.append(weights[k, b] * loss)
            loss = torch.stack(losses).sum() / (1 if agent.reduction == "sum" else batch)
            self.optimizer.zero_grad()
            loss.backward()
            if c.optimizer.max_grad_norm is not None:
                norm = torch.stack([w.grad.norm() for w in self.online.values()]).norm()
                for w in self.online.values():
                    w.grad *= min(1.0, c.optimizer.max_grad_norm / float(norm))
            self.optimizer.step()
        if c.replay.prioritized and self.errors is not None:
            noted = self.errors.pop(0)
            torch.testing.assert_close(noted, errors, rtol=2e-3, atol=1e-4)
            values = (noted.flatten().clamp(min=0) ** c.replay.priority_exponent * ONE).round().clamp(1, MOST).tolist()
            learned: dict[tuple[int, int], int] = {}
            for place, value in zip((place for some in places for place in some), values, strict=True):
                learned[place] = max(int(value), learned.get(place, 0))
            self.priorities |= learned
            self.highest = max(self.highest, *learned.values())
        self.updates += minibatches

    def turn(self, before: int, after: int) -> None:
        c, epsilon = self.c, self.epsilon(before)
        actions = self.act(epsilon)
        self.change_learning_rate(before)
        held = min(len(self.games.frames[0]), self.rows) - 1
        if held * c.num_envs >= c.replay.warmup_steps and (due := multiples(c.update.period_steps, before, after)):
            self.learn(c.update.repeats * due)
        for _ in range(multiples(c.update.target_period_steps, before, after)):
            with torch.no_grad():
                for name, w in self.target.items():
                    w += c.update.tau * (self.online[name] - w)
        ended = len(self.games.ended)
        for i, action in enumerate(actions):
            self.games.step(i, action)
        whole = len(self.games.frames[0]) - 1 - c.agent.n_step
        if whole >= 0:
            self.priorities |= {(whole, i): self.highest for i in range(c.num_envs)}
        self.told.append((after, self.updates, epsilon, self.games.ended[ended:]))

    def go(self) -> None:
        for before in range(0, self.c.total_steps, self.c.num_envs):
            self.turn(before, before + self.c.num_envs)


# --------------------------------------------------------------------------------------------------------- evaluation


def evaluate(c: TrainConfig, w: Weights, seed: int) -> list[float]:
    """Scores of the games that an evaluation plays with some weights."""
    count = min(c.evaluation.num_envs, c.evaluation.episodes)
    quota = [len(range(i, c.evaluation.episodes, count)) for i in range(count)]
    games = Games(c, stream(seed, "evaluation games", count), c.protocol.max_frames or c.env.max_frames)
    draw = generator(seed, "evaluation actions")
    while any(quota):
        going = [i for i in range(count) if quota[i]]
        with torch.no_grad():
            q = torch.stack([q_values(c, w, games.state(i)) for i in going])
        for i, action in zip(going, epsilon_greedy(q, c.protocol.epsilon, draw).tolist(), strict=True):
            quota[i] -= games.step(i, action)
    return [score for _, score, _ in games.ended]


def held_out_q(c: TrainConfig, w: Weights) -> float:
    """Mean over states of random play, every tenth step's, of the largest Q-value."""
    (seed,), count = stream(c.seed, "held-out states/0"), min(c.evaluation.num_envs, c.evaluation.episodes)
    games = Games(c, stream(seed, "evaluation games", count), c.protocol.max_frames or c.env.max_frames)
    draw, states = generator(seed, "held-out actions"), []
    while len(states) < c.evaluation.held_out_states:
        states += [games.state(i) for i in range(count)]
        for _ in range(10):
            for i, action in enumerate(torch.randint(3, (count,), generator=draw).tolist()):
                games.step(i, action)
    with torch.no_grad():
        best = [float(q_values(c, w, state).max()) for state in states[: c.evaluation.held_out_states]]
    return float(np.mean(best))
