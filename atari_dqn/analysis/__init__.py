"""What runs' folders tell afterwards: reports, comparisons, statistics over games and seeds."""
