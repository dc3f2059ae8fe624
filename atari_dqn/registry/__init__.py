"""Environments by name: Gymnasium's and your own."""
