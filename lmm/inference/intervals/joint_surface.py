"""-2 log-likelihood on the coordinates of a profile where the levels of some terms are related.

The coordinates and the chain rule are those of :mod:`lmm.inference.intervals.surface`; what is evaluated comes from the factorisation of
:mod:`lmm.linalg.joint_elimination`, with the average information in place of exact second derivatives.
"""

from __future__ import annotations

import numpy as np

from lmm.estimators.likelihood.joint_criterion import JointEvaluator
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.inference.intervals.surface import Held, LinearSurface


class JointSurface(LinearSurface):
    """f on the coordinates that hold one parameter, as in :class:`lmm.inference.intervals.surface.LinearSurface`."""

    def __init__(self, base: JointEvaluator, held: Held, sigma_known: bool = False):
        super().__init__(base, held, sigma_known)
        self.joint = base

    def _evaluate(
        self, z: np.ndarray, T: list[np.ndarray], dG: list[np.ndarray], variance: float
    ) -> tuple[float, float, np.ndarray, list[np.ndarray], np.ndarray, np.ndarray]:
        """f, r2, beta, D per term, second derivatives along the directions and rho."""
        data, rhs = self.problem.data, self.problem.right_hand_sides()
        if self.coefficient:
            M = self._shift(z)
            rhs = [np.tensordot(M, own, 1) for own in rhs]
            data = data._replace(gram=M @ data.gram @ M.T)
        data = data._replace(variance=np.asarray(variance))
        found = self.joint.solved(T, data, rhs, known=True)
        at = self.joint.along(found, dG, variance, known=True)
        value = found.value
        return (
            float(value.objective),
            float(value.r2),
            np.asarray(value.beta),
            at.D,
            at.AI,
            at.rho,
        )

    def _free_coefficients(self, T: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """beta and (Q'V^-1Q)^-1 with none held."""
        rhs = self.problem.right_hand_sides()
        value = self.joint.solved(T, self.problem.data, rhs, known=False).value
        return np.asarray(value.beta), np.asarray(value.cov)


def linear_surface(base: Evaluator, held: Held, sigma_known: bool) -> LinearSurface:
    """The surface of a linear model, by how its criterion is evaluated."""
    if isinstance(base, JointEvaluator):
        return JointSurface(base, held, sigma_known)
    return LinearSurface(base, held, sigma_known)
