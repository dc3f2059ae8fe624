"""The algorithm: deep Q-learning with experience replay, and its variants.

Read in this order: `loop`, `agent`, `bootstrap` with `targets`, `replay`, `networks`, `heads`. Then `envs/atari.py`.

Where to look:

- Targets are computed in `bootstrap`, by `Greedy.target` and its subclasses, with the equations in `targets`.
  `Agent.loss` in `agent` compares them with the predictions; `Agent.learn` makes the gradient step.
- The target network is copied by `Agent.copy_target`, which `loop` calls every `update.target_period_steps`.
- What a lost life means is decided in `envs/atari.py`, `AtariEmulators._lives_and_games`: the new state is flagged as
  terminal, and the game continues. `Replay` in `replay` starts no transition at a flagged state and bootstraps from no
  terminal one.
- Epsilon follows `epsilon_at`. `Replay.stack` stacks frames; `Replay.sample` draws n-step transitions.
"""
