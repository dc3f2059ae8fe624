"""Trackers report a run while it trains: terminal, CSV files, W&B, TensorBoard."""
