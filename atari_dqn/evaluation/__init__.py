"""Whole games by a protocol, and what they scored."""
