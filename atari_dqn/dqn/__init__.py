"""The algorithm. Read `loop`, then `agent`, `bootstrap`, `replay`, `networks`, `heads`."""
