"""What a fit gives back: the fitted object, its tables and its text."""

from lmm.results.fit import Fit
from lmm.results.tables.components import PrincipalComponents
from lmm.results.tables.draws import PosteriorDraws
from lmm.results.tables.varcorr import VarCorr
from lmm.results.tests.comparison import MethodComparison
from lmm.results.text.summary import Summary

__all__ = ["Fit", "MethodComparison", "PosteriorDraws", "PrincipalComponents", "Summary", "VarCorr"]
