"""N games side by side behind `reset`, `send` and `recv`."""
