"""Many runs: games times seeds, on one machine or a Ray cluster."""
