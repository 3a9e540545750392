"""Responses of ordered categories: cumulative link models."""
