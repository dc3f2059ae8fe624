"""What is told of a run while it trains: the terminal, CSV files, W&B, TensorBoard."""
