"""Columns -> matrices: X, random terms, and the names that belong to them."""

from lmm.design.build import build_design
from lmm.design.records import Design
from lmm.design.terms import RandomTerm

__all__ = ["Design", "RandomTerm", "build_design"]
