"""Small real data sets, as the mixed-model literature uses them.

>>> import lmm
>>> lmm.datasets.load("sleepstudy").shape
(180, 3)
>>> lmm.datasets.describe("sleepstudy").columns["Reaction"].unit
'ms'
"""

from lmm.datasets.catalogue import Column, Description, describe
from lmm.datasets.files import read
from lmm.datasets.store import load, names

__all__ = ["Column", "Description", "describe", "load", "names", "read"]
