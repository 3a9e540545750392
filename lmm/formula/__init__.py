"""Text -> terms -> columns: formulas, and their replay on new data."""

from lmm.formula.columns.given import Given
from lmm.formula.columns.table import Table
from lmm.formula.evaluate import Evaluated, evaluate
from lmm.formula.frame import ModelFrame, NewTerm, TermRecipe
from lmm.formula.text.parse import Bar, Formula, parse
from lmm.formula.text.tokens import quote

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
