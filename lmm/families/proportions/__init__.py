"""Shares of one: successes among trials, and proportions without any."""
