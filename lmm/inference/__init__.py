"""What is inferred from an estimate beyond its numbers: convergence of chains."""
