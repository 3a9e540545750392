"""Dask and Spark: each partition is summed where it lies."""
