"""Denominator degrees of freedom by name: what a test of fixed effects needs, whichever method gives it.

A method is an object with

    method, message    its name, and what is to be said of it
    cov (p, p)         covariance of the fixed effects (Kenward-Roger's is adjusted)
    t(L (r, p))        standard errors and degrees of freedom (r,) of contrasts
    f(L (q, p), estimate (q,))    the joint test that all are zero, an FTest
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lmm.errors import ArgumentError, nearest
from lmm.estimators.estimator import Estimator
from lmm.inference.tests.distributions import FTest, f_test
from lmm.model.problem_kinds import AnyProblem, MarginalProblem
from lmm.model.records import Estimate

#: names of the methods, and what each prints as
SATTERTHWAITE, KENWARD_ROGER, FULL = "satterthwaite", "kenward_roger", "kenward_roger_full"
RESIDUAL, BETWEEN_WITHIN = "residual", "between_within"
TITLES = {
    SATTERTHWAITE: "Satterthwaite's method",
    KENWARD_ROGER: "Kenward-Roger's method",
    FULL: "Kenward-Roger's method with second derivatives",
    RESIDUAL: "residual degrees of freedom",
    BETWEEN_WITHIN: "between-within degrees of freedom",
}
#: other spellings, lower case without blanks, hyphens, dots and underscores
SPELLINGS: dict[str, str | None] = {
    "satterthwaite": SATTERTHWAITE,
    "kenwardroger": KENWARD_ROGER,
    "kenwardrogerlinear": KENWARD_ROGER,
    "kr": KENWARD_ROGER,
    "kenwardrogerfull": FULL,
    "residual": RESIDUAL,
    "betweenwithin": BETWEEN_WITHIN,
    "asymptotic": None,
    "normal": None,
}


class Ddf(Protocol):
    """A way of giving degrees of freedom; see the module."""

    @property
    def method(self) -> str | None:
        """ "satterthwaite", "kenward_roger", or None for the normal and chi-square distributions."""

    @property
    def cov(self) -> np.ndarray:
        """Covariance (p, p) of the kept coefficients."""

    @property
    def message(self) -> str | None:
        """A sentence for the user, or None."""

    def t(self, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standard errors and degrees of freedom (r,) of contrasts L (r, p)."""

    def f(self, L: np.ndarray, estimate: np.ndarray) -> FTest:
        """The joint test that contrasts L (q, p), estimated as ``estimate`` (q,), are zero."""


@dataclass(frozen=True, eq=False)
class Asymptotic:
    """The normal and the chi-square distribution: variance parameters taken as known."""

    cov: np.ndarray
    method: str | None = None
    message: str | None = None

    def t(self, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standard errors (r,), and inf as degrees of freedom."""
        L = np.asarray(L, dtype=float)
        v = np.einsum("rp,pq,rq->r", L, self.cov, L, optimize=True)
        return np.sqrt(np.maximum(v, 0.0)), np.full(len(L), np.inf)

    def f(self, L: np.ndarray, estimate: np.ndarray) -> FTest:
        """Wald's chi-square over its degrees of freedom."""
        from lmm.inference.tests import satterthwaite

        L = np.asarray(L, dtype=float)
        values, turn = satterthwaite.independent(L, self.cov)
        if not len(values) or np.isnan(values).any():
            return f_test(float("nan"), len(values), float("nan"))
        return f_test(
            float(np.mean((turn @ np.asarray(estimate, dtype=float)) ** 2 / values)),
            len(values),
            np.inf,
        )


def method_name(ddf: str | None) -> str | None:
    """The method that a user's ``ddf=`` means: "satterthwaite", "kenward_roger" or None.

    Examples
    --------
    >>> method_name("Kenward-Roger"), method_name("KR"), method_name(None)
    ('kenward_roger', 'kenward_roger', None)
    """
    if ddf is None:
        return None
    key = "".join(c for c in ddf.lower() if c not in " -._") if isinstance(ddf, str) else ""
    if key not in SPELLINGS:
        raise ArgumentError(
            f"ddf={ddf!r} is not one of {', '.join(map(repr, TITLES))}, None.{nearest(str(ddf).lower(), list(TITLES))}"
        )
    return SPELLINGS[key]


def check(estimate: Estimate, ddf: str | None) -> str | None:
    """The method meant, where this fit can have it.

    Raises
    ------
    ArgumentError : for an unknown name, degrees of freedom of a generalized model, and any test of a posterior.
    """
    estimate.require_likelihood(
        f"ddf={ddf!r}: a posterior has no tests and no degrees of freedom; use ddf=None."
    )
    name = method_name(ddf)
    if name is not None:
        estimate.distribution.require_linear(
            f"ddf={ddf!r}: a generalized model has normal tests, without degrees of freedom; use ddf=None."
        )
    return name


def degrees_of_freedom(
    problem: AnyProblem,
    estimator: Estimator,
    estimate: Estimate,
    beta_cov: np.ndarray,
    method: str | None,
) -> Ddf:
    """Degrees of freedom of a fit's fixed effects.

    Parameters
    ----------
    problem, estimator, estimate : of a linear fit; of a generalized one with ``method=None``.
    beta_cov : (p, p) covariance of the kept coefficients.
    method : "satterthwaite", "kenward_roger" (or another spelling), or None for normal and chi-square tests.

    Raises
    ------
    ArgumentError : see :func:`check`; CapacityError : Kenward-Roger on a model too large for it.

    Examples
    --------
    >>> import lmm
    >>> from lmm.inference.tests.ddf import degrees_of_freedom
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    >>> known = degrees_of_freedom(fit.problem, fit.estimator, fit.estimate, fit.vcov().to_numpy(), "satterthwaite")
    >>> se, df = known.t([[0.0, 1.0]])
    >>> se.round(4).tolist(), df.round(4).tolist()
    ([1.5458], [17.0])
    """
    name = check(estimate, method)
    if name is None:
        return Asymptotic(np.asarray(beta_cov))
    if isinstance(problem, MarginalProblem):
        from lmm.inference.tests import marginal_tests

        if name == SATTERTHWAITE:
            return marginal_tests.marginal_satterthwaite(problem, estimate, beta_cov)
        return marginal_tests.marginal_kenward_roger(
            problem, estimator, estimate, full=name == FULL
        )
    if name == FULL:
        raise ArgumentError(
            "ddf='kenward_roger_full' is for models with residual=; use 'kenward_roger', which is the same where covariances are linear in "
            "their parameters."
        )
    linear = problem.as_linear()
    if name == SATTERTHWAITE:
        from lmm.inference.tests import satterthwaite

        return satterthwaite.satterthwaite(linear, estimator, estimate, beta_cov)
    from lmm.inference.tests import kenward_roger

    return kenward_roger.kenward_roger(linear, estimator, estimate)
