"""Tests of fixed effects, their degrees of freedom, and hypotheses in words."""
