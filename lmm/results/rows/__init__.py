"""What a fit says row by row: predictions, residuals, simulations, influence."""
