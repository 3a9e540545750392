"""Profiles of the likelihood, and quantiles of predictions."""
