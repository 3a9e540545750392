"""Levels of grouping factors that are met chunk by chunk."""
