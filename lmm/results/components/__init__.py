"""What tables say of one linear predictor of a linear model."""
