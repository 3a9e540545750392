"""Traces and leverages by random probes, where factors are too large for a dense matrix."""
