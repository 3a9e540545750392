"""Responses anywhere on the real line."""
