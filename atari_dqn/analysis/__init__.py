"""Analyze runs: reports, a dashboard, comparisons with published curves, statistics over games and seeds."""
