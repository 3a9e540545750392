"""Solves with (Z'WZ + G^-1) at an estimate of a linear model with iterative terms, under NumPy; what follows a fit is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmm.design.terms import Incidence
from lmm.linalg import krylov
from lmm.linalg.elimination import Vectors
from lmm.linalg.krylov import Coupled, Exact, IterativeFactor
from lmm.linalg.plan import Plan
from lmm.model.gaussian import Value, profile, slots
from lmm.model.problem import Problem, criterion_data
from lmm.model.records import Estimate
from lmm.model.stochastic import PRECISE, split_rhs
from lmm.model.system import arrange, make_coupled


@dataclass(frozen=True, eq=False)
class Solves:
    """The factorised system at an estimate, relative to sigma^2, fixed columns orthonormal.

    Attributes
    ----------
    value : beta and (Q'V^-1Q)^-1; its objective lacks log|H|.
    modes, residuals : per term (p + 1, k, J), N Z'W[Q y] and Z'V^-1[Q y], N = (Z'WZ + G^-1)^-1.
    """

    plan: Plan
    exact: Exact
    coupled: Coupled
    factor: IterativeFactor
    value: Value
    modes: list[np.ndarray]
    residuals: list[np.ndarray]

    def quadratic(self, known: Sequence[Incidence]) -> np.ndarray:
        """z'N z (m,) of rows that meet the levels ``known`` of each term."""
        rhs = [own.dense(size.J) for size, own in zip(self.plan.terms, known, strict=True)]
        own = [rhs[t] for t in self.plan.iterative]
        found = krylov.solve(np, self.exact, self.coupled, self.factor, arrange(self.plan, tuple(rhs)), own, PRECISE)
        return np.asarray(np.diagonal(found.inner))


def solves(problem: Problem, estimate: Estimate) -> Solves:
    """Factorise at an estimate and solve for the fixed columns and the response."""
    assert problem.coupled is not None
    plan, data, coupled = problem.plan, problem.data, problem.coupled
    if plan.backend != "numpy":
        plan = replace(plan, backend="numpy")
        data, coupled = criterion_data(problem.cross, plan, problem.R, None)[0], make_coupled(problem.cross, plan)
    data = data._replace(degrees=np.asarray(float(problem.n)))  # sigma^2 does not enter
    chain_T, tail_T, own_T = ([np.asarray(estimate.factors[t]) for t in which] for which in (plan.chain, plan.tail, plan.iterative))
    exact = Exact(data.system, chain_T, tail_T, plan.layout)
    at = krylov.factorize(np, exact, coupled, own_T)
    found = krylov.solve(np, exact, coupled, at, data.rhs, split_rhs(data, coupled), PRECISE)
    value, _ = profile(np, data, at.logdet, found.inner, False, False)

    def in_order(inside: Vectors, parts: list[np.ndarray]) -> list[np.ndarray]:
        each = [*inside.chain, *slots(inside.tail, plan.layout), *parts]
        return [each[i] for i in np.argsort(plan.order)]

    return Solves(plan, exact, coupled, at, value, in_order(found.exact, found.parts), in_order(found.exact_residual, found.residual))
