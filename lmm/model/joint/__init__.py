"""Models with several linear predictors: the problem, where a fit begins, and the estimate by predictor."""
