"""The fixed effects' side of V^-1 at a linear fit, in the space of the random effects.

Relative to sigma^2, V = W^-1 + Z G Z'. With X = QR (Q'WQ = I) one factorisation gives C = (Q'V^-1Q)^-1 and F = Z'V^-1Q,
and with them the derivatives of C along directions dG of one term's G, repeated over its levels:

    dC = C (F'dG F) C.

Nothing here has the rows' dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from lmm.linalg import elimination
from lmm.linalg.elimination import Factor
from lmm.model.gaussian import state
from lmm.model.problem import Problem
from lmm.model.records import Estimate
from lmm.model.system import arrange


@dataclass(frozen=True, eq=False)
class Marginal:
    """V^-1 at an estimate, relative to sigma^2, fixed columns orthonormal.

    Attributes
    ----------
    problem : the sums of the model.
    factor, tail_T : the factorised system, and the relative factors of the tail's terms.
    C : (p, p), (Q'V^-1Q)^-1.
    F : per term (p, k, J), Z'V^-1Q.
    inverse : (p, p), R^-1: coefficients of the user's columns are R^-1 gamma.
    """

    problem: Problem
    factor: Factor
    tail_T: list[np.ndarray]
    C: np.ndarray
    F: list[np.ndarray]
    inverse: np.ndarray

    def between(self, t: int, dG: np.ndarray) -> np.ndarray:
        """F'dG F (m_t, p, p) for directions dG (m_t, k, k) of term t."""
        F = self.F[t]
        p, k, J = F.shape
        out = np.empty((len(dG), p, p))
        flat = F.reshape(p, k * J)
        for i, d in enumerate(dG):
            out[i] = np.einsum("ab,pbj->paj", d, F).reshape(p, k * J) @ flat.T
        return (out + out.swapaxes(1, 2)) / 2.0

    def times(self, t: int, v: np.ndarray) -> list[np.ndarray]:
        """Z'V^-1Z v per term (r, k_s, J_s), for vectors v (r, k, J) of term t."""
        plan = self.problem.arranged
        columns = tuple(
            np.pad(v, [(0, 0), (0, 0), (0, size.J - v.shape[-1])]) if s == t else np.zeros((len(v), size.k, size.J))
            for s, size in enumerate(plan.terms)
        )
        Av = elimination.multiply(np, self.problem.data.system, arrange(plan, columns))
        reduced = elimination.reduce(np, self.factor, plan.layout, self.tail_T, Av)
        _, Qv = elimination.solve(np, self.factor, plan.layout, self.tail_T, reduced, (False,) * len(plan.layout))
        return self.problem.collect(Qv)


def marginal(problem: Problem, estimate: Estimate) -> Marginal:
    """Factor the system at an estimate and carry the fixed columns through it."""
    plan, p = problem.arranged, problem.p
    chain_T, tail_T = ([np.asarray(estimate.factors[t]) for t in which] for which in (plan.chain, plan.tail))
    data = problem.data._replace(degrees=np.asarray(float(problem.n)))  # sigma^2 does not enter
    value, at = state(np, data, chain_T, tail_T, plan.layout, False)
    inverse = solve_triangular(problem.R, np.eye(p)) if p else np.zeros((0, 0))
    return Marginal(problem, at.factor, tail_T, np.asarray(value.cov), [F[:p] for F in problem.collect(at.residuals)], inverse)
