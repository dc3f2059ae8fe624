"""What everything else leans on: errors, files, text on the terminal, random streams, the machine. Knows no DQN."""
