"""Satterthwaite's degrees of freedom of a linear mixed model, from exact derivatives.

The variance v = l'Vl of a contrast, V the covariance of the fixed effects, is an estimate with variance g'Ag: g is its
gradient in the variance parameters (theta, log sigma) and A their asymptotic covariance. As that of a scaled chi-square,

    df = 2 v^2 / (g'A g),     dV / dtheta_i = sigma^2 C (F'dG_i F) C,   dV / dlog sigma = 2 V

(:mod:`lmm.inference.tests.marginal_precision`). A joint test of several contrasts turns them into independent ones, the eigenvectors of
L V L', and takes the degrees of freedom whose F has the mean of the sum of their squared t statistics.

References: Satterthwaite (1946), Biometrics Bull. 2; Fai & Cornelius (1996), J. Stat. Comput. Simul. 54;
Kuznetsova, Brockhoff & Christensen (2017), J. Stat. Softw. 82(13).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmm.covariance.structure import directions
from lmm.estimators.estimator import Estimator
from lmm.inference.tests.distributions import FTest, f_test
from lmm.inference.tests.marginal_precision import Marginal, marginal
from lmm.inference.tests.variance_parameters import variance_parameters
from lmm.linalg import threads
from lmm.model.centred import inward
from lmm.model.problem import Problem
from lmm.model.records import Estimate

#: singular values of contrasts, relative to the largest, that count towards their rank
RANK = 1e-10
#: eigenvalues of the contrasts' covariance, relative to the largest, that count as positive
POSITIVE = 1e-8
#: ratio of eigenvalues from which contrasts are taken per standard error, so that units of measurement cannot hide one
UNITS = 1e-10
#: degrees of freedom that count as equal
EQUAL = 1e-8


@dataclass(frozen=True, eq=False)
class Satterthwaite:
    """Degrees of freedom by Satterthwaite's method.

    Attributes
    ----------
    cov : (p, p) covariance of the fixed effects.
    jacobian : (m + 1, p, p) its derivatives in (theta, log sigma).
    variance : (m + 1, m + 1) asymptotic covariance of (theta, log sigma).
    message : what is rough about ``variance``, else None.
    """

    cov: np.ndarray
    jacobian: np.ndarray
    variance: np.ndarray
    message: str | None = None
    method = "satterthwaite"

    def t(self, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standard errors and degrees of freedom (r,) of contrasts L (r, p)."""
        L = np.asarray(L, dtype=float)
        v = np.einsum("rp,pq,rq->r", L, self.cov, L, optimize=True)
        g = np.einsum("rp,ipq,rq->ri", L, self.jacobian, L, optimize=True)
        spread = np.einsum("ri,ij,rj->r", g, self.variance, g, optimize=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            df = np.where(spread > 0.0, 2.0 * v**2 / spread, np.where(v > 0.0, np.inf, np.nan))
        return np.sqrt(np.maximum(v, 0.0)), df

    def f(self, L: np.ndarray, estimate: np.ndarray) -> FTest:
        """F test that contrasts L (q, p), estimated as ``estimate`` (q,), are zero; dependent rows count once, NaN without a covariance."""
        L, estimate = np.asarray(L, dtype=float), np.asarray(estimate, dtype=float)
        values, turn = independent(L, self.cov)
        if not len(values) or np.isnan(values).any():
            return f_test(float("nan"), len(values), float("nan"))
        _, df = self.t(turn @ L)
        return f_test(float(np.mean((turn @ estimate) ** 2 / values)), len(values), pooled(df))


def independent(L: np.ndarray, V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variances (q,) and combinations (q, r) of r contrasts L (r, p) that are uncorrelated, V (p, p) the coefficients' covariance.

    q is the rank of L, whatever V is: its columns are taken per standard error and its rows of length one, so that units do not
    enter. The combinations are eigenvectors of L V L' as long as that has q positive eigenvalues to working precision, else of an
    orthonormal basis of the rows. NaN as variances where V is no covariance of these contrasts.
    """
    L = np.asarray(L, dtype=float)
    sd = np.sqrt(np.maximum(np.diagonal(V), 0.0))
    sd = np.where(np.isfinite(sd) & (sd > 0.0), sd, 1.0)
    left, size, right, length = decomposed(L * sd)
    q = len(size)
    if not q:
        return np.zeros(0), np.zeros((0, len(L)))
    nothing = np.full(q, np.nan), np.zeros((q, len(L)))
    if not np.isfinite(V).all():
        return nothing
    of = L @ V @ L.T
    scale = np.sqrt(np.maximum(np.diagonal(of), 0.0))
    scale = np.where(scale > 0.0, scale, 1.0)
    values, vectors = np.linalg.eigh(of)
    per_sd = np.linalg.eigvalsh(of / np.outer(scale, scale))
    if per_sd[-q] > POSITIVE * max(1.0, per_sd[-1]):
        if values[-q] <= UNITS * values[-1]:
            values, vectors = np.linalg.eigh(of / np.outer(scale, scale))
            vectors = vectors / scale[:, None]
        turn = vectors.T
    else:
        basis = right / sd
        values, vectors = np.linalg.eigh(basis @ V @ basis.T)
        if not values[0] > 0.0:
            return nothing
        turn = vectors.T @ ((left / size).T / length)
    order = np.argsort(-values, kind="stable")[:q]
    return values[order], turn[order]


def decomposed(L: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """U (r, q), s (q,), W (q, p) and lengths (r,) of the rows with L = diag(lengths) U diag(s) W; q is the rank of L."""
    length = np.linalg.norm(L, axis=1)
    length = np.where(length > 0.0, length, 1.0)
    U, s, W = np.linalg.svd(L / length[:, None], full_matrices=False)
    q = int(np.sum(s > RANK * s.max(initial=0.0)))
    return U[:, :q], s[:q], W[:q], length


def pooled(df: np.ndarray) -> float:
    """Degrees of freedom of the mean of squared t statistics with ``df`` (q,) each: those of the F with the same mean."""
    if len(df) == 1:
        return float(df[0])
    if np.isinf(df).all() or np.all(np.abs(np.diff(df)) < EQUAL):
        return float(np.mean(df))
    if np.any(df <= 2.0):
        return 2.0
    excess = float(
        np.sum(2.0 / (df - 2.0))
    )  # E - q for E = sum df / (df - 2), without its cancellation
    return 2.0 * (excess + len(df)) / excess


def covariance_jacobian(at: Marginal, estimate: Estimate) -> np.ndarray:
    """Derivatives (m + 1, p, p) of the covariance of the fixed effects in (theta, log sigma)."""
    problem, parts = at.problem, []
    half = at.inverse @ at.C
    for t, (structure, own) in enumerate(
        zip(problem.structures, problem.split(estimate.theta), strict=True)
    ):
        dG = directions(structure.jacobian(own), structure.factor(own))
        parts.append(half @ at.between(t, dG) @ half.T)
    parts.append(2.0 * (half @ at.inverse.T)[None])
    return np.asarray(estimate.sigma**2 * np.concatenate(parts))


@threads.limited()
def satterthwaite(
    problem: Problem, estimator: Estimator, estimate: Estimate, cov: np.ndarray
) -> Satterthwaite:
    """Satterthwaite's method at a linear fit whose fixed effects have covariance ``cov`` (p, p)."""
    problem, estimate = inward(problem, estimate)
    known = variance_parameters(problem, estimator, estimate)
    jacobian = covariance_jacobian(marginal(problem, estimate), estimate)
    return Satterthwaite(np.asarray(cov), jacobian, known.cov, known.message)
