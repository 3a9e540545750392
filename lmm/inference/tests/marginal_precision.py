"""The fixed effects' side of V^-1 at a linear fit, in the space of the random effects.

Relative to sigma^2, V = W^-1 + Z G Z'. With X = QR (Q'WQ = I) one factorisation gives C = (Q'V^-1Q)^-1 and F = Z'V^-1Q,
and with them the derivatives of C along directions dG of one term's G, repeated over its levels:

    dC = C (F'dG F) C.

Nothing here has the rows' dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lmm.design.rank import triangle_inverse
from lmm.linalg.factorisation import Factorisation
from lmm.model.gaussian.deviance import profile
from lmm.model.problem import Problem
from lmm.model.records import Estimate


@dataclass(frozen=True, eq=False)
class Marginal:
    """V^-1 at an estimate, relative to sigma^2, fixed columns orthonormal.

    Attributes
    ----------
    problem : the sums of the model.
    factorisation : of Z'WZ + G^-1.
    C : (p, p), (Q'V^-1Q)^-1.
    F : per term (p, k, J), Z'V^-1Q.
    e : per term (k, J), Z'V^-1(y - X beta), beta the generalized least-squares estimate.
    inverse : (p, p), R^-1: coefficients of the user's columns are R^-1 gamma.
    """

    problem: Problem
    factorisation: Factorisation
    C: np.ndarray
    F: list[np.ndarray]
    e: list[np.ndarray]
    inverse: np.ndarray

    @cached_property
    def FK(self) -> list[np.ndarray]:
        """Per term (p, k, J), F with the levels' covariance: F where they are independent."""
        return [self.factorisation.related(t, F) for t, F in enumerate(self.F)]

    def between(self, t: int, dG: np.ndarray) -> np.ndarray:
        """F'(dG (x) K) F (m_t, p, p) for directions dG (m_t, k, k) of term t."""
        F = self.F[t]
        p, k, J = F.shape
        out = np.empty((len(dG), p, p))
        flat = self.FK[t].reshape(p, k * J)
        for i, d in enumerate(dG):
            out[i] = np.einsum("ab,pbj->paj", d, F).reshape(p, k * J) @ flat.T
        return (out + out.swapaxes(1, 2)) / 2.0

    def derivatives(self, dG: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """P_i = -F'E_i F (m, p, p) and Q_ij = F'E_i Z'V^-1Z E_j F (m, m, p, p) for directions dG (m_t, k, k) of all terms."""
        p = self.problem.p
        P = -np.concatenate([self.between(t, d) for t, d in enumerate(dG)])
        Q = np.empty((len(P), len(P), p, p))
        flat = [F.reshape(p * F.shape[1], F.shape[2]) for F in self.FK]
        i = 0
        for t, own in enumerate(dG):
            for d in own:
                e = self.times(t, np.einsum("ab,pbj->paj", d, self.FK[t]))
                j = 0
                for s, others in enumerate(dG):
                    k = len(others[0])
                    both = (e[s].reshape(flat[s].shape) @ flat[s].T).reshape(p, k, p, k)
                    Q[i, j : j + len(others)] = np.einsum(
                        "paqb,jab->jpq", both, others, optimize=True
                    )
                    j += len(others)
                i += 1
        return P, Q

    def residual_quadratics(self, dG: list[np.ndarray]) -> np.ndarray:
        """v_i'Z'PZ v_j (m, m) with v_i = E_i e, P the projection of REML."""
        v = [
            np.einsum("iab,bj->iaj", d, self.factorisation.related(t, e))
            for t, (d, e) in enumerate(zip(dG, self.e, strict=True))
        ]
        onto = np.concatenate(
            [
                np.einsum("pbj,ibj->ip", F, own, optimize=True)
                for F, own in zip(self.F, v, strict=True)
            ]
        )
        rows = []
        for t, own in enumerate(v):
            Qv = self.times(t, own)
            rows.append(
                np.concatenate(
                    [
                        np.einsum("iaj,laj->il", Qv[s], other, optimize=True)
                        for s, other in enumerate(v)
                    ],
                    axis=1,
                )
            )
        return np.asarray(np.concatenate(rows) - onto @ self.C @ onto.T)

    def times(self, t: int, v: np.ndarray) -> list[np.ndarray]:
        """Z'V^-1Z v per term (r, k_s, J_s), for vectors v (r, k, J) of term t."""
        at = self.factorisation
        at.plan.require_exact("Kenward and Roger's method")
        columns = [
            v if s == t else np.zeros((len(v), size.k, size.J))
            for s, size in enumerate(at.plan.terms)
        ]
        return at.solve(at.system.multiply(columns)).residual


def projected(products: np.ndarray, C: np.ndarray, P: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """tr(P V_i P V_j) of REML's projection P from tr(V^-1 V_i V^-1 V_j), P_i and Q_ij."""
    corrected = products - 2.0 * np.einsum("pq,ijqp->ij", C, Q)
    return np.asarray(corrected + np.einsum("pq,iqr,rs,jsp->ij", C, P, C, P, optimize=True))


def marginal(problem: Problem, estimate: Estimate) -> Marginal:
    """Factor the system at an estimate and carry the fixed columns through it."""
    p, at = problem.p, problem.penalized_system().factorize(list(estimate.factors))
    _, residual, inner = at.solve(problem.right_hand_sides())
    value, _ = profile(np, problem.data, np.asarray(at.logdet), inner, False, False)
    inverse = triangle_inverse(problem.R)
    F = [c[:p] for c in residual]
    e = [c[p] - np.tensordot(np.asarray(value.beta), c[:p], 1) for c in residual]
    return Marginal(problem, at, np.asarray(value.cov), F, e, inverse)
