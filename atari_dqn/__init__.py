"""DQN from pixels on Atari: one loop over one replay memory."""

__version__ = "0.1.0"
