"""The generalized linear mixed model: rows, conditional modes, Laplace's approximation and quadrature."""
