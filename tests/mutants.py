"""Break the program in one place at a time, and see whether its tests notice.

Each mutant is a copy of the package with one change, in a temporary folder, where the tests that should notice are run.
A mutant survives if they all pass: then nothing protects that line. The exit code is 1 if any survives that is not
listed as the same program in other words.

    python tests/mutants.py --csv benchmarks/results/mutants.csv
"""

import argparse
import csv
import importlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
LONGEST = 120  # seconds that the tests of a mutant may take; one that never ends is noticed, too

WIRING = "tests/test_wiring.py"
RUNS = f"{WIRING}::test_a_run_does_what_its_config_says"
FIRST = f"{WIRING}::test_first_weights_are_those_of_the_config_and_its_seed"
EVALUATIONS = f"{WIRING}::test_evaluations_are_those_of_the_config"
TIES = f"{WIRING}::test_of_equal_networks_the_first_is_the_best"
DUE = f"{WIRING}::test_what_is_due_comes_when_the_config_says"
GOALS = f"{WIRING}::test_goals_are_reached_by_consecutive_games_and_end_the_run_where_they_should"
TOLD_ONCE = "tests/test_machine.py::test_goals_need_consecutive_games_and_are_told_once"
RESUMED = f"{WIRING}::test_a_resumed_run_goes_on_with_its_counts"
ATARI = f"{WIRING}::test_ataris_settings_reach_the_emulators_and_its_flags_the_replay"
CUT_GAME = f"{WIRING}::test_a_cut_game_leaves_nothing_to_the_next"
SEEDS = "tests/test_saving.py::test_every_game_is_played_to_its_end_and_begins_again_from_a_new_seed"
UNCUT = "tests/test_saving.py::test_new_seeds_lose_no_turn_of_any_game"
BACK = "tests/test_saving.py::test_emulators_come_back_to_where_they_were[gymnasium-1]"
POOLED = "tests/test_emulators.py::test_only_screens_are_pooled_over_skipped_frames"
SHOWN = "tests/test_learning.py::test_networks_are_shown_the_warmups_pictures_once"
EXACT_STEP = "tests/test_learning.py::test_the_target_network_is_copied_on_the_exact_step"
PADDED = "tests/test_fidelity.py::test_dopamines_network_pads_like_flax_and_starts_like_it"
BY_TRAINING = "tests/test_fidelity.py::test_training_is_scored_by_its_own_games"
NATURE, DOUBLE, RAINBOW, QR, IQN, MUNCHAUSEN = (
    f"{RUNS}[{variant}]" for variant in ("nature", "double", "rainbow", "qr", "iqn", "munchausen")
)


DER = f"{RUNS}[der]"
AUGMENTED = "tests/test_augmentation.py"
DRQ = f"{AUGMENTED}::test_updates_of_drq_eps_equal_plain_torch"
SHIFTS = f"{AUGMENTED}::test_all_shifts_and_brightnesses_of_the_sources_are_drawn"
CROPPED = f"{AUGMENTED}::test_pictures_are_padded_by_their_edges_and_cropped"
ROUNDED = f"{AUGMENTED}::test_an_update_tells_its_layers_to_round_again"
TWO_NETWORKS = f"{AUGMENTED}::test_two_networks_remain_where_they_may_differ"


class Mutant(NamedTuple):
    file: str  # in atari_dqn/
    name: str
    old: str
    new: str
    tests: str


# A name, what is found in the file once, what it becomes, and the tests that should notice, with spaces between.
TABLE: dict[str, list[tuple[str, str, str, str]]] = {
    "dqn/loop.py": [
        ("begin_steps is ignored",
         "begin = warmup_steps if exploration.begin_steps is None else exploration.begin_steps", "begin = warmup_steps",
         NATURE),
        ("epsilon falls at once", "(step - begin) /", "step /", DOUBLE),
        ("epsilon starts at 1", "return exploration.start + done", "return 1.0 + done", QR),
        ("epsilon of the step after", "epsilon = epsilon_at(progress.agent_steps,",
         "epsilon = epsilon_at(progress.agent_steps + emulators.num_envs,", NATURE),
        ("one turn more of warm-up", "replay.size >= config", "replay.size > config", NATURE),
        ("no warm-up", "replay.size >= config.replay.warmup_steps", "replay.size > 20", NATURE),
        ("an update each turn", "minibatches := update.repeats * due(update.period_steps, before, after)",
         "minibatches := 1", NATURE),
        ("never several updates at a time", "update.repeats * due(", "due(", DER),
        ("copies with the updates' period", "copies := due(update.target_period_steps,",
         "copies := due(update.period_steps,", NATURE),
        ("one copy a turn at most", "            copy_target(copies)", "            copy_target()", DOUBLE),
        ("copies come before updates", "if replay.size >= config",
         "agent.copy_target(due(update.target_period_steps, before, after))\n        if replay.size >= config",
         NATURE),
        ("standardizes at every update", "if not progress.updates:", "if True:", SHOWN),
        ("never standardizes", "agent.standardize(replay.some_frames())", "pass", SHOWN),
        ("a turn too many", "while progress.agent_steps < config.total_steps",
         "while progress.agent_steps <= config.total_steps", EXACT_STEP),
        ("signs of rewards", "torch.from_numpy(step.rewards)", "torch.from_numpy(step.rewards).sign()", QR),
        ("flags do not reach the replay", "torch.from_numpy(step.flags)", "torch.from_numpy(step.flags * 0)", NATURE),
        ("cuts reach the replay as ends", "torch.from_numpy(step.flags)", "torch.from_numpy(step.flags.clip(0, 1))",
         NATURE),
    ],
    "dqn/turn.py": [
        ("errors are not noted", "replay.update_priorities(batch, errors)", "pass", DOUBLE),
        ("batches of 32", "minibatches, update.batch_size,", "minibatches, 32,", NATURE),
        ("discount 0.99", "told.discount,", "0.99,", NATURE),
        ("always one step", "told.n_step, told.reward_clip", "1, told.reward_clip", NATURE),
        ("always clipped to 1", "told.n_step, told.reward_clip", "told.n_step, 1.0", NATURE),
        ("clipped where it should not be", "told.n_step, told.reward_clip", "told.n_step, told.reward_clip or 1.0", QR),
        ("samples by exploration's draws", "minibatches, update.batch_size, streams.replay,",
         "minibatches, update.batch_size, streams.exploration,", NATURE),
        ("learns by exploration's draws", "(*batch)), streams.replay)", "(*batch)), streams.exploration)", RAINBOW),
        ("acts by the replay's draws", "epsilon_tensor, streams.exploration)", "epsilon_tensor, streams.replay)",
         NATURE),
        ("random by the replay's draws", "config.num_envs, streams.exploration)", "config.num_envs, streams.replay)",
         NATURE),
        ("epsilon stays at 0", "epsilon_tensor.fill_(epsilon)", "pass", NATURE),
        ("looks while all is random", "choose_actions(epsilon < 1)", "choose_actions(epsilon <= 1)", MUNCHAUSEN),
    ],
    "training/agents.py": [
        ("one network for all seeds", 'seeded(config.seed, "network")', 'seeded(1, "network")', FIRST),
        ("temperature 1", "temperature=exploration.temperature)", "temperature=1.0)", DOUBLE),
        ("temperature is ignored", "if exploration.temperature is not None:", "if False:", DOUBLE),
        ("persistence 2", "Persistent(exploration.persistence,", "Persistent(2.0,", QR),
        ("persistence is ignored", "elif exploration.persistence is not None:", "elif False:", QR),
        ("persistent at last, too", "exploration.persistence, exploration.end,", "exploration.persistence, 0.0,", QR),
        ("learning rate 1e-4", "optimizer.learning_rate, optimizer.arguments", "1e-4, optimizer.arguments", NATURE),
        ("optimizer's arguments are ignored", "optimizer.learning_rate, optimizer.arguments",
         "optimizer.learning_rate, {}", DOUBLE),
        ("always Adam", "make_optimizer(optimizer.name,", 'make_optimizer("Adam",', DOUBLE),
        ("always DQN's rule", "bootstrap.make_rule(config.agent, target_is_online=_target_is_online(config))",
         "bootstrap.Greedy()", DER),
        ("always the mean", "config.agent.reduction,", '"mean",', NATURE),
        ("gradients are not shortened", "optimizer.max_grad_norm,", "None,", DOUBLE),
        ("a target network is never needed", "return copied and one_at_a_time", "return copied or one_at_a_time",
         TWO_NETWORKS),
        ("noise is no reason for one", "random = agent.noisy or", "random = False or", TWO_NETWORKS),
        ("always hard copies", "config.update.tau,", "1.0,", DOUBLE),
    ],
    "dqn/agent.py": [
        ("one noise for all games", "noise = self.online.draw_noise(len(states), generator)",
         "noise = self.online.draw_noise(len(states), generator)[:1]", RAINBOW),
        ("acts without noise", "self.online.q_values(states, noise), epsilon", "self.online.q_values(states), epsilon",
         RAINBOW),
        ("acts by the target network", "self.online.q_values(states, noise), epsilon",
         "self.target.q_values(states, noise), epsilon", DOUBLE),
        ("targets of the online network", "self.rule.precompute(self.target,", "self.rule.precompute(self.online,",
         NATURE),
        ("targets without noise", "precompute(self.target, batch, noise, taus)",
         "precompute(self.target, batch, noise * 0, taus)", RAINBOW),
        ("one noise for all minibatches", "generator).unflatten(0, (k, 2))",
         "generator).unflatten(0, (k, 2))[:1].expand(k, -1, -1)", RAINBOW),
        ("learns without noise", "self.online(m.x_tm1, m.noise[:1], m.taus)", "self.online(m.x_tm1, None, m.taus)",
         RAINBOW),
        ("weights are ignored", "self._reduce(m.weight * losses)", "self._reduce(losses)", DOUBLE),
        ("all are as surprising", "errors.append(error)", "errors.append(torch.ones_like(error))", DOUBLE),
        ("the next state is as it is", "s_t=self._augmented(batch.s_t, generator)", "s_t=batch.s_t", DRQ),
        ("a state is moved as the next", "s_t=self._augmented(batch.s_t, generator)",
         "s_t=self._augmented(batch.s_t, generator.clone_state())", DRQ),
        ("always as bright", "x.mul_(change.factor[:, None, None, None])", "pass", DRQ),
        ("weights are rounded once", "self.online.round_weights(anew=True)", "pass", ROUNDED),
        ("several copies are one", "share = 1 - (1 - self._tau) ** times", "share = self._tau", DOUBLE),
        ("the target asks for the update's quantiles", "values.draw(k * b, True,", "values.draw(k * b, False,", IQN),
    ],
    "dqn/augmentation.py": [
        ("all crops", '"drq": Kind(-3, 4, 0.05)', '"drq": Kind(-4, 4, 0.05)', SHIFTS),
        ("brighter and brighter", ".clamp(-2, 2)", "", SHIFTS),
        ("the same way down as right", "(2, states), generator=generator, device=device)",
         "(1, states), generator=generator, device=device).expand(2, -1)", SHIFTS),
        ("zeros around", "cv2.BORDER_REPLICATE", "cv2.BORDER_CONSTANT", CROPPED),
        ("down is up", "change.down[:, None]).clamp", "-change.down[:, None]).clamp", CROPPED),
    ],
    "dqn/prioritized.py": [
        ("never prioritized", "if not replay.prioritized:", "if True:", DOUBLE),
        ("exponent 0.6", "exponent=replay.priority_exponent", "exponent=0.6", DOUBLE),
        ("importance starts at 0.4", "(replay.importance_start,", "(0.4,", DOUBLE),
        ("importance ends at 1", "replay.importance_end, replay", "1.0, replay", DOUBLE),
        ("importance ends with the run", "replay.importance_steps)", "config.total_steps)", DOUBLE),
        ("importance counts turns", "self._newest * self.num_envs) / steps", "self._newest) / steps", DOUBLE),
        ("importance of a whole run", "** -importance", "** -1.0", DOUBLE),
        ("importance begins anew", "steps_before=steps_before,", "steps_before=0,", RESUMED),
        ("new ones have priority 1", "== ORDINARY, self._highest, 0)",
         "== ORDINARY, torch.full_like(self._highest, ONE), 0)", DOUBLE),
        ("the highest is forgotten", "torch.maximum(self._highest, values.max(), out=self._highest)",
         "self._highest.copy_(values.max().clamp(min=ONE))", DOUBLE),
        ("flagged states can be drawn", "self.flags[whole] == ORDINARY", "self.flags[whole] >= ORDINARY", DOUBLE),
        ("errors without an exponent", ".clamp(min=0) ** self._exponent", ".clamp(min=0)", DOUBLE),
    ],
    "dqn/replay.py": [
        ("cuts are ends", "self.flags[last, envs] == TERMINAL", "self.flags[last, envs] != ORDINARY", NATURE),
        ("one step's discount", "torch.pow(discount, taken.float())", "torch.full_like(r_t, discount)", DOUBLE),
        ("clip is 1", "rewards.clamp(-reward_clip, reward_clip)", "rewards.clamp(-1, 1)", NATURE),
        ("rewards of the next game count", ").cumprod(1)", ") | True", DOUBLE),
        ("stacks reach over ends", "index[:-1].masked_fill_(beyond, self._blank)", "pass", NATURE),
        ("ends begin transitions", "valid = self.flags[rows, envs] == ORDINARY",
         "valid = self.flags[rows, envs] >= ORDINARY", NATURE),
    ],
    "training/evaluator.py": [
        ("all evaluations play alike", "self._config.seed, stream, agent_steps)", "self._config.seed, stream)",
         EVALUATIONS),
        ("all runs' evaluations play alike", "self._config.seed, stream, agent_steps)", "1, stream, agent_steps)",
         EVALUATIONS),
        ("the best one plays the same games again", '"fresh evaluation"', '"evaluation"', EVALUATIONS),
        ("the last one plays as the best", "Player(best, self._learned, self._actions)", "self._player", EVALUATIONS),
        ("held-out states of the first evaluation", '"held-out states"', '"evaluation"', EVALUATIONS),
        ("evaluates at 0.05", "epsilon, episodes = self._config.protocol.epsilon,", "epsilon, episodes = 0.05,",
         EVALUATIONS),
        ("evaluates 10 games", "self._config.evaluation.episodes\n", "10\n", EVALUATIONS),
        ("evaluates on one emulator", "min(asked.num_envs, asked.episodes)", "1", EVALUATIONS),
        ("the protocol's games are ignored", "environment(config.env, config.protocol, None)", "config.env",
         EVALUATIONS),
        ("the last one is the best", "or mean > self.best_score", "or True", EVALUATIONS),
        ("of equals the last one is the best", "or mean > self.best_score", "or mean >= self.best_score", TIES),
        ("the first one is the best", "or mean > self.best_score", "", EVALUATIONS),
        ("evaluated when a run is measured", "due(self._config.evaluation.every_steps,", "due(50,", DUE),
        ("evaluated at every turn", "self.evaluated_steps = agent_steps", "pass", DUE),
        ("actions of the training games", "self._env.game, self._env.full_action_space)",
         "self._env.game, config.env.full_action_space)", ATARI),
        ("all training games count", "curves.window(curves.read(episodes), protocol,",
         "curves.window(curves.read(episodes), type(protocol)(window_games=10**9),", BY_TRAINING),
    ],
    "evaluation/player.py": [
        ("evaluation is noisy", "return self.network.q_values(states)",
         "return self.network.q_values(states, self.network.draw_noise(len(states), torch.Generator()))", EVALUATIONS),
        ("a later evaluation of games as trained",
         "env = environment(checkpoint.config.env, protocol, game, arguments)", "env = checkpoint.config.env",
         EVALUATIONS),
    ],
    "evaluation/rollout.py": [
        ("evaluation's games are always the same", 'derive(seed, "evaluation games",', 'derive(0, "evaluation games",',
         EVALUATIONS),
        ("evaluation's chance is always the same", 'player.device, seed, "evaluation actions")',
         'player.device, 0, "evaluation actions")', EVALUATIONS),
        ("quotas are rounded up", "(i < episodes % num_envs)", "(episodes % num_envs > 0)", EVALUATIONS),
        ("the first games to end count", "quota[game.env] -= 1",
         "quota[max(range(num_envs), key=quota.__getitem__)] -= 1", EVALUATIONS),
        ("an evaluation is greedy", "player.act(games.states(which), epsilon,", "player.act(games.states(which), 0.0,",
         EVALUATIONS),
        ("held-out states follow each other", "HELD_OUT_EVERY = 10", "HELD_OUT_EVERY = 1", EVALUATIONS),
        ("held-out states by another chance", '"held-out actions"', '"evaluation actions"', ATARI),
        ("mean Q-values", "q_values(some).amax(1)", "q_values(some).mean(1)", EVALUATIONS),
    ],
    "evaluation/protocol.py": [
        ("a protocol's zeros are ignored", "if getattr(protocol, key) is not None:", "if getattr(protocol, key):",
         ATARI),
        ("time limits as trained", "for key in played_by(trained)", "for key in ()", EVALUATIONS),
        ("evaluation's lives are games", 'changes: dict[str, Any] = {"terminal_on_life_loss": False, ',
         "changes: dict[str, Any] = {", ATARI),
    ],
    "evaluation/evaluate.py": [
        ("a later evaluation is greedy", "play(player, games, protocol.epsilon,", "play(player, games, 0.0,",
         EVALUATIONS),
        ("later evaluations play alike", "protocol.epsilon, episodes, seed, on_step)",
         "protocol.epsilon, episodes, 0, on_step)", EVALUATIONS),
    ],
    "envs/base.py": [
        ("ends and cuts are one", "np.where(truncated, CUT, ORDINARY)", "np.where(truncated, TERMINAL, ORDINARY)",
         NATURE),
        ("scores go on", "np.where(self._ended, 0, self._scores + rewards)", "self._scores + rewards", NATURE),
    ],
    "envs/atari.py": [
        ("skips 4 frames", "frameskip=env.frame_skip", "frameskip=4", ATARI),
        ("pictures of 84", "img_height=env.screen_size", "img_height=84", ATARI),
        ("no stickiness", "repeat_action_probability=env.repeat_action_probability", "repeat_action_probability=0.0",
         ATARI),
        ("the minimal actions", "full_action_space=env.full_action_space,", "full_action_space=False,", ATARI),
        ("a no-op less", "noop_max=env.noop_max + 1", "noop_max=env.noop_max", ATARI),
        ("lives do not end a state", "life_loss_info=env.terminal_on_life_loss", "life_loss_info=False", ATARI),
        ("rewards clipped by the emulator", "reward_clipping=False", "reward_clipping=True", ATARI),
        ("no FIRE at the start", "use_fire_reset=env.fire_reset", "use_fire_reset=False", ATARI),
        ("no FIRE after a life", "actions = np.where(self._lost, self._fire, actions)", "pass", ATARI),
        ("games of half an hour", "num_envs, env.max_frames\n", "num_envs, 108_000\n", ATARI),
        ("a life is a game", "over = terminated & ((lives == 0) | (lives >= self._lives))", "over = terminated", ATARI),
        ("a cut game's reward goes on",
         "rewards, terminated = np.where(self._cut, 0, rewards), terminated & ~self._cut",
         "terminated = terminated & ~self._cut", CUT_GAME),
        ("FIRE in a game that has just begun", "& ~over & ~self._cut  #", "& ~over  #", CUT_GAME),
    ],
    "envs/gym.py": [
        ("CartPole's games have no limit", "TimeLimit(single, env.max_frames)", "TimeLimit(single, 10**6)", NATURE),
        ("actions count from 0", "actions + self._first_action", "actions", NATURE),
        ("numbers' frames are not skipped", "if env.frame_skip > 1 or on_frame else single", "if on_frame else single",
         NATURE),
        ("lengths in agent steps", "self._scoreboard = Scoreboard(num_envs, env.frame_skip)\n        self._cut_after",
         "self._scoreboard = Scoreboard(num_envs, 1)\n        self._cut_after", NATURE),
    ],
    "envs/journal.py": [
        ("new seeds are never taken", "fresh := self._ended & self._wait", "fresh := self._ended & False", SEEDS),
        ("games are cut off for new seeds", "fresh := self._ended & self._wait", "fresh := self._wait & True", UNCUT),
        ("a new seed is taken again and again", "self._wait &= ~fresh", "pass", SEEDS),
        ("games begin again from their first seeds", "for new, old, is_new in zip(self._next,",
         "for old, new, is_new in zip(self._next,", SEEDS),
        ("a rewound game forgets its new seed", "self._starts, self._wait = starts, waiting", "self._starts = starts",
         BACK),
        ("a rewound game starts a turn late", "(fresh := starts == turn).any()", "(fresh := starts == turn - 1).any()",
         BACK),
    ],
    "envs/wrappers.py": [
        ("vectors are pooled", "else 1  # frames", "else 2  # frames", NATURE),
        ("screens are not pooled", "self._pooled = 2 if", "self._pooled = 1 if", POOLED),
        ("the last frame's reward", "total += float(reward)", "total = float(reward)", NATURE),
    ],
    "training/parts.py": [
        ("another stack in the replay", "self.emulators, self.config.env.frame_stack", "self.emulators, 1", NATURE),
        ("a refilled replay starts at 0", "self.config, self.progress.agent_steps, self._replay_rows",
         "self.config, 0, self._replay_rows", RESUMED),
        ("goals are ignored", "Goals(config.env.goals)", "Goals([])", GOALS),
        ("evaluates the target network", "config, self.agent.online, games.actions",
         "config, self.agent.target, games.actions", EVALUATIONS),
    ],
    "training/run.py": [
        ("new seeds are never due", "self.emulators.renew(game_seeds(config, self.agent_steps))", "pass", SEEDS),
        ("counts begin anew", "self.streams, self.progress, playing", "self.streams, None, playing", RESUMED),
        ("each goal ends the run", "self.progress.over = self.progress.over or goal.stop", "self.progress.over = True",
         GOALS),
        ("no goal ends the run", "self.progress.over = self.progress.over or goal.stop", "pass", GOALS),
        ("no evaluation on the way", "if self.evaluator.is_due(self.agent_steps):\n            self._check_finite()",
         "if False:\n            self._check_finite()", EVALUATIONS),
        ("no checkpoint on the way", "due(config.checkpoint.every_steps,", "due(config.total_steps,", DUE),
    ],
    "checkpoint/network.py": [
        ("scalar head", "num_actions, config.head, config.agent", "num_actions, None, config.agent", FIRST),
        ("plain network", "num_actions, config.head, config.agent", "num_actions, config.head, None", FIRST),
    ],
    "training/evaluations.py": [
        ("best.pt is the last one", 'if row["best"]:', "if True:", EVALUATIONS),
        ("the last one is confirmed", "evaluator.confirm(best.network,", "evaluator.confirm(parts.agent.online,",
         EVALUATIONS),
    ],
    "tracking/goals.py": [
        ("a goal with too few games", "len(last) == goal.games and ", "", TOLD_ONCE),
        ("a goal is to be passed", "and mean >= goal.score", "and mean > goal.score", TOLD_ONCE),
        ("all goals are of 100 games", "last = list(self.recent)[-goal.games :]", "last = list(self.recent)[-100:]",
         GOALS),
    ],
    "training/optimizers.py": [
        ("Adam without arguments", '{"fused": True} | arguments', '{"fused": True}', RAINBOW),
        ("torch's own learning rate", "known[name](params, lr=learning_rate, **arguments)",
         "known[name](params, **arguments)", DOUBLE),
    ],
    "dqn/optimizers.py": [
        ("decay 0.95", 'group["lr"], group["decay"],', 'group["lr"], 0.95,', NATURE),
        ("eps 0.01", 'group["decay"], group["eps"])', 'group["decay"], 0.01)', NATURE),
    ],
    "dqn/exploration.py": [
        ("no Gumbel noise", "q_values / temperature + gumbel", "q_values / temperature", DOUBLE),
        ("repeats at the end of the schedule", "(epsilon > self._end)", "(epsilon >= self._end)", QR),
        ("begins anew while one goes on", "begins = (self.left == 0) & (begin < epsilon)", "begins = begin < epsilon",
         QR),
    ],
    "dqn/bootstrap.py": [
        ("double or not", "if agent.double and not target_is_online", "if not agent.double and not target_is_online",
         DER),
        ("never Munchausen", "if agent.munchausen:", "if False:", MUNCHAUSEN),
        ("Munchausen's alpha 0.9", "return Munchausen(agent.munchausen_alpha,", "return Munchausen(0.9,", MUNCHAUSEN),
        ("Munchausen's temperature 0.03", "agent.munchausen_temperature, agent.munchausen_floor)",
         "0.03, agent.munchausen_floor)", MUNCHAUSEN),
        ("Munchausen's floor -1", "agent.munchausen_temperature, agent.munchausen_floor)",
         "agent.munchausen_temperature, -1.0)", MUNCHAUSEN),
        ("Munchausen's state without noise", "target.q_values(batch.s_tm1.flatten(0, 1), noise)",
         "target.q_values(batch.s_tm1.flatten(0, 1))", MUNCHAUSEN),
        ("chooses without noise", "online.q_values(m.more, m.noise[1:])", "online.q_values(m.more)", RAINBOW),
        ("both networks choose by one noise", "m.noise[1:])", "m.noise[:1])", RAINBOW),
    ],
    "dqn/networks.py": [
        ("sigma 0.5", "noisy = agent.noisy_sigma if", "noisy = 0.5 if", FIRST),
        ("never noisy", "noisy = agent.noisy_sigma if agent.noisy else None", "noisy = None", FIRST),
        ("never dueling", "if agent.dueling else None", "if False else None", FIRST),
        ("initialization is ignored", 'if how == "torch":', "if True:", PADDED),
        ("a hidden layer without its ReLU", "torch.relu(self.shared(x, for_shared))", "self.shared(x, for_shared)",
         DER),
        ("never one hidden layer", "agent.dueling and agent.dueling_shared", "False", FIRST),
        ("streams push hard", "agent.dueling_gradient_scale if agent.dueling", "1.0 if agent.dueling", DOUBLE),
        ("both streams have one noise", "self.value(x, for_value)",
         "self.value(x, for_head[:, : self._noise_sizes[2]])", RAINBOW),
        ("one draw for all groups", "return noise.sign() * noise.abs().sqrt()",
         "return (noise.sign() * noise.abs().sqrt())[:1].expand(groups, -1)", RAINBOW),
        ("plain normal noise", "return noise.sign() * noise.abs().sqrt()", "return noise", RAINBOW),
        ("always Huber's loss", "schema.Head(), agent.loss)", 'schema.Head(), "huber")', DOUBLE),
    ],
    "dqn/features.py": [
        ("padding is ignored", 'if network.padding == "same":', "if False:", PADDED),
    ],
    "dqn/layers.py": [
        ("sigma whatever the width", "sigma / math.sqrt(inputs)", "sigma", FIRST),
        ("all layers have one noise", "noise[:, sum(layer.sizes) :]", "noise", RAINBOW),
    ],
    "dqn/heads.py": [
        ("the divergence is the cross-entropy", "errors = errors - torch.special.xlogy(y, y).sum(-1)", "pass", DER),
        ("support -10 to 10", "(head.v_min, head.v_max, head.atoms)", "(-10.0, 10.0, head.atoms)", RAINBOW),
        ("chooses by all quantiles", "z[..., -self.asked :].mean(-1)", "z.mean(-1)", MUNCHAUSEN),
        ("bootstraps from the policy's quantiles", "return z_t[..., : self._target_samples]", "return z_t", IQN),
        ("as many samples in a target", "self._target_samples if target else self._samples", "self._target_samples",
         IQN),
        ("32 quantiles to choose by", "head.policy_samples, head.samples,", "32, head.samples,", f"{IQN} {MUNCHAUSEN}"),
    ],
    "utils/seeding.py": [
        ("one exploration for all seeds", 'generator(device, seed, "exploration", *more)',
         'generator(device, 1, "exploration", *more)', NATURE),
        ("one stream for both", 'generator(device, seed, "replay", *more)',
         'generator(device, seed, "exploration", *more)', NATURE),
        ("one seed for all", "SeedSequence([seed, key])", "SeedSequence([1, key])", FIRST),
        ("streams are alike", "SeedSequence([seed, key])", "SeedSequence([seed])", FIRST),
    ],
}  # fmt: skip
# Mutants that are the same program in other words, and why.
SAME = {"a turn too many": "a run ends its loop by itself, see Run._see"}
MUTANTS = [Mutant(file, *mutant) for file, mutants in TABLE.items() for mutant in mutants]


class Outcome(NamedTuple):
    name: str
    file: str
    outcome: str  # killed, survived or the same
    seconds: float
    by: str  # the test that noticed


def changed(mutant: Mutant) -> str:
    """Its file's text. Raises SystemExit where what it changes is not there once."""
    text = (ROOT / "atari_dqn" / mutant.file).read_text()
    if (count := text.count(mutant.old)) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.old!r} is found {count} times in {mutant.file}, not once")
    return text.replace(mutant.old, mutant.new)


def in_a_child(folder: str, tests: str) -> None:
    """Run the tests in that folder, with the package that is there instead of the one that was loaded."""
    output = os.open(f"{folder}/output", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(folder)
    sys.path[:] = [folder, *(path for path in sys.path if Path(path).resolve() not in (ROOT, ROOT / "tests"))]
    os.environ["PYTHONPATH"], sys.dont_write_bytecode = folder, True
    for name in [*sys.modules]:
        if name.partition(".")[0] == "atari_dqn":
            del sys.modules[name]
    options = ["-x", "-q", "-rfE", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={folder}/tmp"]
    sys.exit(int(pytest.main([*tests.split(), *options])))


def noticed(mutant: Mutant | None, tests: str) -> str:
    """The first test that fails; nothing where all pass."""
    with tempfile.TemporaryDirectory() as folder:
        for part in ("atari_dqn", "conf", "tests"):
            shutil.copytree(ROOT / part, Path(folder) / part, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        if mutant:
            (Path(folder) / "atari_dqn" / mutant.file).write_text(changed(mutant))
        # A fork has torch and the other libraries already; loading them takes longer than most tests here.
        process = multiprocessing.get_context("fork").Process(target=in_a_child, args=(folder, tests))
        process.start()
        process.join(LONGEST)
        if process.is_alive():
            process.kill()
            process.join()
            return "time limit"
        said = Path(folder, "output").read_text(errors="replace")
    if process.exitcode == 0:
        return ""
    if process.exitcode not in (
        1,
        -signal.SIGABRT,
        -signal.SIGSEGV,
    ):  # nothing was run: a wrong name, or a test that cannot be read
        raise SystemExit(f"{mutant.name if mutant else 'the program itself'}: pytest {tests}\n{said}")
    match = re.search(r"^(?:FAILED|ERROR) tests/(\S+)", said, re.MULTILINE)
    return match[1] if match else "a crash"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="mutants whose file or name has one of these in it")
    parser.add_argument("--list", action="store_true", help="list them and stop")
    parser.add_argument("--csv", type=Path, help="write the outcomes to this file")
    asked = parser.parse_args()
    chosen = [
        mutant
        for mutant in MUTANTS
        if not asked.only or any(word in f"{mutant.file}: {mutant.name}" for word in asked.only)
    ]
    if not chosen:
        raise SystemExit(f"no mutant has {' or '.join(asked.only)} in its name or file")
    if asked.list:
        for mutant in chosen:
            print(f"{mutant.file}: {mutant.name}")
        return
    for mutant in chosen:  # all of them before the first is run
        changed(mutant)
    for name in ("atari_dqn.training.launch", "torch.fx.experimental.proxy_tensor", "torch._dynamo"):
        importlib.import_module(name)  # what forks are to find loaded
    if failed := noticed(None, " ".join({word: None for mutant in chosen for word in mutant.tests.split()})):
        raise SystemExit(f"{failed} fails without any mutant")
    outcomes = []
    for mutant in chosen:
        began = time.time()
        by = noticed(mutant, mutant.tests)
        outcome = "killed" if by else "same" if mutant.name in SAME else "survived"
        outcomes.append(Outcome(mutant.name, mutant.file, outcome, round(time.time() - began, 1), by))
        why = f"by {by}" if by else SAME.get(mutant.name)
        print(f"{outcome:9}{mutant.file}: {mutant.name} {f'({why})' if why else ''}", flush=True)
    if asked.csv:
        with open(asked.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Outcome._fields)
            writer.writerows(outcomes)
    counts = {kind: sum(outcome.outcome == kind for outcome in outcomes) for kind in ("killed", "same", "survived")}
    print(
        f"{len(outcomes)} mutants: {counts['killed']} killed, {counts['same']} the same program, "
        f"{counts['survived']} survived; {sum(outcome.seconds for outcome in outcomes):.0f} s"
    )
    if counts["survived"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
