"""Variational Bayes: the Gaussian with the largest evidence lower bound."""
