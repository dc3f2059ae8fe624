"""The algorithm: deep Q-learning with experience replay, and its variants.

Read in this order: `loop`, `agent`, `bootstrap` with `targets`, `replay`, `networks`, `heads`. Then `envs/atari.py`.

Where to look:

- A target is computed in `bootstrap`, by `Greedy.target` and its subclasses; its equation is in `targets`, and
  `Agent.learn` in `agent` makes the gradient step.
- The target network is copied by `Agent.copy_target`, which `loop` calls every `update.target_period_steps`.
- What a lost life means is decided in `envs/atari.py`, `AtariEmulators.recv`: it flags the new state as terminal and
  lets the game go on. `Replay` in `replay` never starts a transition at a flagged state, nor bootstraps from a
  terminal one.
- Epsilon's schedule is `epsilon_at`; stacks of frames are built by `Replay.stack`, n-step returns by `Replay.sample`.
"""
