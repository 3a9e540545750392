"""What is inferred from an estimate: tests, intervals, refits, and whether the model fits its data."""
