"""The linear mixed model: cross-products, profiled deviance, its derivatives, many problems at once."""
