"""Families by name: the table of all of them, other spellings, and the family that a user means."""

from __future__ import annotations

from lmm.errors import ArgumentError, nearest
from lmm.families.amounts.gamma import Gamma
from lmm.families.amounts.inverse_gaussian import InverseGaussian
from lmm.families.amounts.log_normal import LogNormal
from lmm.families.amounts.tweedie import Tweedie
from lmm.families.base import Family
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
from lmm.families.custom import CustomFamily as CustomFamily
from lmm.families.ordered.ordinal import Ordinal
from lmm.families.proportions.beta import Beta
from lmm.families.proportions.beta_binomial import BetaBinomial
from lmm.families.proportions.binomial import Binomial
from lmm.families.proportions.ordered_beta import OrderedBeta
from lmm.families.reals.gaussian import Gaussian
from lmm.families.reals.skew_normal import SkewNormal
from lmm.families.reals.student_t import StudentT

#: families by name
FAMILIES: dict[str, type[Family]] = {
    f.name: f
    for f in (
        Gaussian,
        Binomial,
        Poisson,
        Gamma,
        InverseGaussian,
        NegativeBinomial,
        NegativeBinomial1,
        Beta,
        BetaBinomial,
        LogNormal,
        TruncatedPoisson,
        TruncatedNegativeBinomial,
        TruncatedNegativeBinomial1,
        GeneralizedPoisson,
        ConwayMaxwellPoisson,
        StudentT,
        SkewNormal,
        Tweedie,
        OrderedBeta,
        Ordinal,
    )
}
#: other spellings, R's among them
ALIASES = {
    "Gamma": "gamma",
    "inverse.gaussian": "inverse_gaussian",
    "nbinom2": "negative_binomial",
    "negative_binomial2": "negative_binomial",
    "negbinomial": "negative_binomial",
    "nbinom1": "negative_binomial1",
    "bernoulli": "binomial",
    "normal": "gaussian",
    "cumulative": "ordinal",
    "beta_family": "beta",
    "beta_binomial": "betabinomial",
    "log_normal": "lognormal",
    "truncated_nbinom2": "truncated_negative_binomial",
    "truncated_negative_binomial2": "truncated_negative_binomial",
    "truncated_nbinom1": "truncated_negative_binomial1",
    "generalized_poisson": "genpois",
    "student_t": "t",
    "conway_maxwell_poisson": "compois",
    "ordbeta": "ordered_beta",
    "skew_normal": "skewnormal",
    "student": "t",
}


def get(family: str | Family | type[Family]) -> Family:
    """The family of that name with its default link; a Family is returned as it is.

    Raises
    ------
    ArgumentError : for an unknown name; the nearest one is offered.

    Examples
    --------
    >>> from lmm import families
    >>> families.get("nbinom2")
    NegativeBinomial(link='log')
    """
    if isinstance(family, Family):
        return family
    if isinstance(family, type) and issubclass(family, Family):
        return family()
    found = FAMILIES.get(ALIASES.get(family, family)) if isinstance(family, str) else None
    if found is None:
        quasi = isinstance(family, str) and family.startswith("quasi")
        hint = (
            " Quasi families have no likelihood."
            if quasi
            else nearest(str(family), [*FAMILIES, *ALIASES])
        )
        name, _, rest = family.partition("(") if isinstance(family, str) else ("", "", "")
        known = FAMILIES.get(ALIASES.get(name.strip(), name.strip()))
        if known is not None and rest:
            link = "".join(c for c in rest.partition("=")[2] or rest if c.isalnum() or c in "/^_")
            hint = f" A link is given with the family's object: family=lmm.families.{known.__name__}(link={link or known.default_link!r})."
        raise ArgumentError(f"unknown family {family!r}; families are {', '.join(FAMILIES)}.{hint}")
    return found()
