"""Columns -> matrices: X, random terms, and the names that belong to them."""

from lmm.design.build_design import build_design
from lmm.design.design import Design
from lmm.design.terms import RandomTerm

__all__ = ["Design", "RandomTerm", "build_design"]
