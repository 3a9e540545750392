"""Amounts: responses that are positive, or zero."""
