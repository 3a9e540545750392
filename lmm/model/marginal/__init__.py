"""Linear models whose residuals are correlated within subjects: dense covariances of clusters of rows, pooled by pattern."""
