"""Products with sparse matrices of small blocks."""
