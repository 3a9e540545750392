"""Distributions of a response with several linear predictors: of its mean, its dispersion, its excess of zeros."""
