"""Sweeps: many games and seeds, on one machine or a Ray cluster."""
