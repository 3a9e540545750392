"""Counts 0, 1, 2, ... with a mean."""
