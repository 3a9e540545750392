"""Columns -> matrices: X, random terms, and the names that belong to them."""

from lmm.design.build import build_design
from lmm.design.records import Design, RandomTerm

__all__ = ["Design", "RandomTerm", "build_design"]
