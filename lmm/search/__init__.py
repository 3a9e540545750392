"""The search for a minimum: a trust region, and variances on the boundary."""
