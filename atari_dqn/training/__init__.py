"""A run: the loop with all that hangs off it, from a config to its end, and its resumption."""
