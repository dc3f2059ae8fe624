"""The project's own tests, for your network, rule or environment: see `checks`."""

from atari_dqn.testing.checks import CheckFailed, check_env, check_network, check_rule

__all__ = ["CheckFailed", "check_env", "check_network", "check_rule"]
