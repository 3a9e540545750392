"""Tables of a fit: coefficients, covariances, intervals, information criteria."""
