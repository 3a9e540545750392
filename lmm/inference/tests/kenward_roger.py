"""Kenward and Roger's adjusted covariance, degrees of freedom and scaled F of a linear mixed model fitted by REML.

The covariance of the rows is linear in the variances and covariances of the random effects and the residual variance,
V = sum_i phi_i V_i. With Phi = (X'V^-1X)^-1 and

    P_i = -X'V^-1 V_i V^-1 X,   Q_ij = X'V^-1 V_i V^-1 V_j V^-1 X,   W = 2 I^-1,
    I_ij = tr(V^-1 V_i V^-1 V_j) - 2 tr(Phi Q_ij) + tr(Phi P_i Phi P_j)       (expected information of REML),
    Phi_A = Phi + 2 Phi (sum_ij W_ij (Q_ij - P_i Phi P_j)) Phi,

a test of L beta = 0 with q rows uses Phi_A and, from A_1 = sum_ij W_ij tr(B_i) tr(B_j) and A_2 = sum_ij W_ij tr(B_i B_j),
B_i = (L Phi L')^-1 L Phi P_i Phi L', the degrees of freedom and the factor of F that make its first two moments those of an F
distribution, exactly so in the balanced cases where an exact test exists.

Nothing is formed over the rows. Both sides are unchanged when the parameters are exchanged for linear combinations of them,
so V itself takes the place of the residual's V_i = W^-1: then every quantity that involves it is one of the others, as
V^-1 V V^-1 = V^-1. The random effects' part is in Z'V^-1Z (:mod:`lmm.inference.tests.traces`) and Z'V^-1X.

Reference: Kenward & Roger (1997), Biometrics 53, 983-997, with the formulas of Halekoh & Højsgaard (2014), J. Stat. Softw. 59(9).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lmm.estimators import MaximumLikelihood
from lmm.estimators.estimator import Estimator
from lmm.inference.tests.distributions import FTest, f_test
from lmm.inference.tests.marginal_precision import marginal, projected
from lmm.inference.tests.satterthwaite import independent
from lmm.inference.tests.traces import traces
from lmm.linalg import threads
from lmm.model.centred import inward
from lmm.model.problem import Problem
from lmm.model.records import Estimate

#: eigenvalues of the information, its diagonal scaled to one, from which on it is inverted as it is
REGULAR = 1e-10


@dataclass(frozen=True, eq=False)
class KenwardRoger:
    """Kenward and Roger's method.

    Attributes
    ----------
    cov : (p, p) adjusted covariance Phi_A of the fixed effects.
    unadjusted : (p, p) Phi.
    P : (M, p, p) Phi P_i Phi, parameters relative to sigma^2: those of the random effects, then the scale of V.
    W : (M, M) asymptotic covariance of these parameters, from the expected information.
    message : a sentence for the user, or None.
    """

    cov: np.ndarray
    unadjusted: np.ndarray
    P: np.ndarray
    W: np.ndarray
    message: str | None = None
    method = "kenward_roger"

    def t(self, L: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Standard errors and degrees of freedom (r,) of contrasts L (r, p)."""
        L = np.asarray(L, dtype=float)
        v = np.einsum("rp,pq,rq->r", L, self.unadjusted, L, optimize=True)
        adjusted = np.einsum("rp,pq,rq->r", L, self.cov, L, optimize=True)
        with np.errstate(divide="ignore", invalid="ignore"):
            a = np.einsum("rp,ipq,rq->ri", L, self.P, L, optimize=True) / v[:, None]
            A = np.einsum("ri,ij,rj->r", a, self.W, a, optimize=True)
        df = np.array([moments(1, one, one)[0] if np.isfinite(one) else np.nan for one in A])
        return np.sqrt(np.maximum(adjusted, 0.0)), df

    def f(self, L: np.ndarray, estimate: np.ndarray) -> FTest:
        """Scaled F test that contrasts L (q, p), estimated as ``estimate`` (q,), are zero; dependent rows count once."""
        L, estimate = np.asarray(L, dtype=float), np.asarray(estimate, dtype=float)
        values, turn = independent(L, self.unadjusted)
        q = len(values)
        if not q or np.isnan(values).any():
            return f_test(float("nan"), q, float("nan"))
        white = turn / np.sqrt(values)[:, None]  # white L Phi L' white' = I
        B = np.einsum("qp,ips,rs->iqr", white @ L, self.P, white @ L, optimize=True)
        trace = np.einsum("iqq->i", B)
        A1 = float(trace @ self.W @ trace)
        A2 = float(np.einsum("ij,iqr,jrq->", self.W, B, B, optimize=True))
        df, scale = moments(q, A1, A2)
        adjusted = white @ L @ self.cov @ L.T @ white.T
        shift = white @ estimate
        return f_test(scale * float(shift @ np.linalg.solve(adjusted, shift)) / q, q, df, scale)


def moments(q: int, A1: float, A2: float) -> tuple[float, float]:
    """Denominator degrees of freedom and the factor of F whose mean and variance match, from A_1 and A_2 of q contrasts."""
    if A2 == 0.0:
        return np.inf, 1.0
    B = (A1 + 6.0 * A2) / (2.0 * q)
    g = ((q + 1) * A1 - (q + 4) * A2) / ((q + 2) * A2)
    common = 3.0 * q + 2.0 * (1.0 - g)
    c1, c2, c3 = g / common, (q - g) / common, (q + 2.0 - g) / common
    V0, V1, V2 = 1.0 + c1 * B, 1.0 - c2 * B, 1.0 - c3 * B
    V0 = 0.0 if abs(V0) < 1e-10 else V0
    top = 1.0 - A2 / q
    ratio = 1.0 if abs(top) < 1e-14 and abs(V1) < 1e-14 else top / V1
    rho = ratio**2 * V0 / V2 / q
    df = 4.0 + (q + 2.0) / (q * rho - 1.0)
    return df, (1.0 if abs(df - 2.0) < 0.01 else df * (1.0 - A2 / q) / (df - 2.0))


@threads.limited()
def kenward_roger(problem: Problem, estimator: Estimator, estimate: Estimate) -> KenwardRoger:
    """Kenward and Roger's method at a linear fit; one by maximum likelihood is fitted again by REML first.

    Raises
    ------
    CapacityError : crossed grouping factors with too many levels.
    """
    problem, estimate = inward(problem, estimate)
    problem.plan.require_levels("Kenward and Roger's method")
    message = None
    if not estimate.reml:
        sigma = float(estimate.sigma) if estimate.knows_sigma else None
        again = MaximumLikelihood(
            reml=True, sigma=sigma, control=replace(estimator.control, evaluate_only=False)
        )
        estimate = again.fit(problem, np.asarray(estimate.theta))
        message = "Kenward-Roger is for REML: covariances and degrees of freedom are those of the model fitted again by REML."
    at = marginal(problem, estimate)
    dG = [
        s.directions(own)
        for s, own in zip(
            problem.structures, problem.split(np.asarray(estimate.theta)), strict=True
        )
    ]
    products, single = traces(
        problem.cross, list(estimate.factors), dG, tuple(size.group for size in problem.plan.terms)
    )
    P, Q = at.derivatives(dG)
    if not estimate.knows_sigma:  # V itself, the scale
        products = np.block(
            [[products, single[:, None]], [single[None], np.array([[float(problem.n)]])]]
        )
        own = np.linalg.inv(at.C) if problem.p else np.zeros((0, 0))
        Q = np.concatenate(
            [np.concatenate([Q, -P[:, None]], axis=1), np.concatenate([-P, own[None]])[None]]
        )
        P = np.concatenate([P, -own[None]])
    information = projected(products, at.C, P, Q)
    W = 2.0 * _inverse(information)
    inner = np.einsum("ij,ijpq->pq", W, Q) - np.einsum(
        "ij,ipq,qr,jrs->ps", W, P, at.C, P, optimize=True
    )
    half, s2 = at.inverse @ at.C, float(estimate.sigma) ** 2
    unadjusted = s2 * half @ at.inverse.T
    cov = unadjusted + 2.0 * s2 * half @ ((inner + inner.T) / 2.0) @ half.T
    return KenwardRoger(cov, unadjusted, s2 * half @ P @ half.T, W, message)


def _inverse(information: np.ndarray) -> np.ndarray:
    """Inverse of a symmetric matrix, on its regular directions where it is singular."""
    scale = np.sqrt(np.abs(np.diagonal(information)))
    scale = np.where(scale > 0.0, scale, 1.0)
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    use = np.abs(values) > REGULAR
    basis = vectors[:, use] / scale[:, None]
    return np.asarray((basis / values[use]) @ basis.T)
