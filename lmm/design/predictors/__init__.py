"""Several linear predictors in one design: their terms, and the rows that they make together."""
