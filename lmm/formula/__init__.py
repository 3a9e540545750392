"""Text -> terms -> columns: formulas, and their replay on new data."""

from lmm.formula.evaluate import Evaluated, evaluate
from lmm.formula.frame import ModelFrame, NewTerm, TermRecipe
from lmm.formula.given import Given
from lmm.formula.parse import Bar, Formula, parse
from lmm.formula.scan import quote
from lmm.formula.table import Table

__all__ = [
    "Bar",
    "Evaluated",
    "Formula",
    "Given",
    "ModelFrame",
    "NewTerm",
    "Table",
    "TermRecipe",
    "evaluate",
    "parse",
    "quote",
]
