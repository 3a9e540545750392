"""What a fit gives back: the fitted object, its tables and its text."""

from lmm.results.comparison import MethodComparison
from lmm.results.components import PrincipalComponents
from lmm.results.draws import PosteriorDraws
from lmm.results.fit import Fit
from lmm.results.summary import Summary
from lmm.results.varcorr import VarCorr

__all__ = ["Fit", "MethodComparison", "PosteriorDraws", "PrincipalComponents", "Summary", "VarCorr"]
