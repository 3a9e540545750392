"""Tests, contrasts, marginal means and comparisons of models, with the user's names."""
