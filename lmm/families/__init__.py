"""Families of responses and their links: small frozen objects, found by name.

>>> import lmm
>>> lmm.families.get("binomial")
Binomial(link='logit')
>>> lmm.families.Gamma(link="log")
Gamma(link='log')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lmm.families import links
from lmm.families.base import (
    Derivatives,
    DispersionDerivatives,
    Family,
    Information,
    ParameterDerivatives,
)
from lmm.families.links import Link

if TYPE_CHECKING:
    from lmm.families.amounts.gamma import Gamma
    from lmm.families.amounts.inverse_gaussian import InverseGaussian
    from lmm.families.amounts.log_normal import LogNormal
    from lmm.families.amounts.tweedie import Tweedie
    from lmm.families.by_name import ALIASES, FAMILIES, get
    from lmm.families.counts.conway_maxwell import ConwayMaxwellPoisson
    from lmm.families.counts.generalized_poisson import GeneralizedPoisson
    from lmm.families.counts.negative_binomial import NegativeBinomial
    from lmm.families.counts.negative_binomial1 import NegativeBinomial1
    from lmm.families.counts.poisson import Poisson
    from lmm.families.counts.zero_truncated import (
        TruncatedNegativeBinomial,
        TruncatedNegativeBinomial1,
        TruncatedPoisson,
    )
    from lmm.families.custom import CustomFamily
    from lmm.families.ordered.ordinal import Ordinal
    from lmm.families.proportions.beta import Beta
    from lmm.families.proportions.beta_binomial import BetaBinomial
    from lmm.families.proportions.binomial import Binomial
    from lmm.families.proportions.ordered_beta import OrderedBeta
    from lmm.families.reals.gaussian import Gaussian
    from lmm.families.reals.skew_normal import SkewNormal
    from lmm.families.reals.student_t import StudentT

__all__ = [
    "ALIASES",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "ConwayMaxwellPoisson",
    "CustomFamily",
    "Derivatives",
    "DispersionDerivatives",
    "FAMILIES",
    "Family",
    "Gamma",
    "Gaussian",
    "GeneralizedPoisson",
    "Information",
    "InverseGaussian",
    "Link",
    "LogNormal",
    "NegativeBinomial",
    "NegativeBinomial1",
    "OrderedBeta",
    "Ordinal",
    "ParameterDerivatives",
    "Poisson",
    "SkewNormal",
    "StudentT",
    "TruncatedNegativeBinomial",
    "TruncatedNegativeBinomial1",
    "TruncatedPoisson",
    "Tweedie",
    "get",
    "links",
]


def __getattr__(name: str) -> object:
    """Families are imported when one is asked for: a linear model needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'lmm.families' has no attribute {name!r}")
    return getattr(importlib.import_module("lmm.families.by_name"), name)
