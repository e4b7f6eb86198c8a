"""Observers of a run's events. Knows no numerics."""
