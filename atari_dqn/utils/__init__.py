"""Utilities without any DQN in them: errors, files, terminal output, random streams, the machine."""
