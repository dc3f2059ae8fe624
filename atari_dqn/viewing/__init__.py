"""Games to look at: films, a window, what the network sees, and playing yourself."""
