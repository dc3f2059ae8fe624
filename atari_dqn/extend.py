"""What you derive your own parts from. docs/extending.md shows how.

- `Network`: the interface of a network, for `network=my_package.my_module:Name`.
- `Rule`: the interface of what targets bootstrap from and of the loss, for `rule=my_package.my_module:Name`; derive
  yours from `Greedy`, `Double` or `Munchausen`. `targets` has their equations.
- `Callback`: watches a run, for `callbacks=`, `trackers=` and `atari_dqn.train`.
"""

from atari_dqn.dqn import targets
from atari_dqn.dqn.bootstrap import Double, Greedy, Minibatch, Munchausen, Rule
from atari_dqn.dqn.features import Network
from atari_dqn.dqn.loop import StepInfo
from atari_dqn.dqn.networks import QNetwork
from atari_dqn.dqn.replay import Batch
from atari_dqn.tracking.callback import Callback, Row, Training

__all__ = [
    "Batch", "Callback", "Double", "Greedy", "Minibatch", "Munchausen", "Network", "QNetwork", "Row", "Rule",
    "StepInfo", "Training", "targets",
]  # fmt: skip
