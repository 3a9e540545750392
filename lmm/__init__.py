"""Mixed-effects models from a formula.

>>> import lmm
>>> radon = lmm.datasets.load("radon")
>>> fit = lmm.lmer("log_radon ~ floor + (1|county)", radon)
>>> print(fit.summary())                                        # doctest: +SKIP

Names are resolved on first use, so that ``import lmm`` costs nothing and a small fit
imports only what it needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lmm import covariance, datasets, estimators, families, priors
    from lmm.api.batches import glmer_batch, lmer_batch
    from lmm.api.glmer import glmer
    from lmm.api.lmer import lmer
    from lmm.api.loading import load
    from lmm.api.mmrm import mmrm
    from lmm.api.solve import solve
    from lmm.errors import (
        ArgumentError,
        CapacityError,
        ComparisonWarning,
        ConvergenceWarning,
        DataError,
        DegreesOfFreedomWarning,
        FormulaError,
        GroupingError,
        LmmError,
        LmmWarning,
        MissingPackageError,
        PredictionError,
        PriorWarning,
        RankWarning,
        ResponseError,
        SingularFitWarning,
    )
    from lmm.estimators.control import Control
    from lmm.estimators.em import ExpectationMaximization
    from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
    from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood
    from lmm.estimators.mackay import MacKay
    from lmm.estimators.monte_carlo.monte_carlo_em import MonteCarloEM
    from lmm.estimators.monte_carlo.nuts import NUTS
    from lmm.estimators.pql import PenalizedQuasiLikelihood
    from lmm.estimators.variational.variational_bayes import VariationalBayes
    from lmm.inference.session import options
    from lmm.known.given_covariance import Factor, KnownCovariance, Precision
    from lmm.known.newick import Tree
    from lmm.known.pedigree import Pedigree
    from lmm.linalg.devices.backend import enable_compile_cache
    from lmm.results import Fit
    from lmm.results.batch_fit import BatchFit
    from lmm.results.tests.model_comparison import anova
    from lmm.results.tests.power import power
    from lmm.stream.sources import Source
    from lmm.versions import show_versions

__all__ = [
    "NUTS",
    "ArgumentError",
    "BatchFit",
    "CapacityError",
    "ComparisonWarning",
    "Control",
    "ConvergenceWarning",
    "DataError",
    "DegreesOfFreedomWarning",
    "ExpectationMaximization",
    "Factor",
    "Fit",
    "FormulaError",
    "GroupingError",
    "KnownCovariance",
    "LaplaceLikelihood",
    "LmmError",
    "LmmWarning",
    "MacKay",
    "MaximumLikelihood",
    "MissingPackageError",
    "MonteCarloEM",
    "PenalizedQuasiLikelihood",
    "Pedigree",
    "Precision",
    "PredictionError",
    "PriorWarning",
    "RankWarning",
    "ResponseError",
    "SingularFitWarning",
    "Source",
    "Tree",
    "VariationalBayes",
    "__version__",
    "anova",
    "covariance",
    "datasets",
    "enable_compile_cache",
    "estimators",
    "families",
    "glmer",
    "glmer_batch",
    "lmer",
    "lmer_batch",
    "load",
    "mmrm",
    "options",
    "power",
    "priors",
    "show_versions",
    "solve",
]

_MODULES = frozenset({"covariance", "datasets", "estimators", "families", "priors"})
_HOMES = {
    "NUTS": "lmm.estimators.monte_carlo.nuts",
    "lmer": "lmm.api.lmer",
    "glmer": "lmm.api.glmer",
    "mmrm": "lmm.api.mmrm",
    "solve": "lmm.api.solve",
    "load": "lmm.api.loading",
    "Control": "lmm.estimators.control",
    "ExpectationMaximization": "lmm.estimators.em",
    "LaplaceLikelihood": "lmm.estimators.laplace.laplace_likelihood",
    "MaximumLikelihood": "lmm.estimators.likelihood.maximum_likelihood",
    "MonteCarloEM": "lmm.estimators.monte_carlo.monte_carlo_em",
    "MacKay": "lmm.estimators.mackay",
    "PenalizedQuasiLikelihood": "lmm.estimators.pql",
    "enable_compile_cache": "lmm.linalg.devices.backend",
    "VariationalBayes": "lmm.estimators.variational.variational_bayes",
    "Fit": "lmm.results",
    "BatchFit": "lmm.results.batch_fit",
    "lmer_batch": "lmm.api.batches",
    "glmer_batch": "lmm.api.batches",
    "Factor": "lmm.known.given_covariance",
    "KnownCovariance": "lmm.known.given_covariance",
    "Pedigree": "lmm.known.pedigree",
    "Precision": "lmm.known.given_covariance",
    "Tree": "lmm.known.newick",
    "Source": "lmm.stream.sources",
    "power": "lmm.results.tests.power",
    "anova": "lmm.results.tests.model_comparison",
    "options": "lmm.inference.session",
    "show_versions": "lmm.versions",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return importlib.import_module(f"lmm.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'lmm' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "lmm.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
