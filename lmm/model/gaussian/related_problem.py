"""A linear model in which the levels of some terms are related: all random effects eliminated together by sparse Cholesky."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import NoReturn

import numpy as np

from lmm.design.design import Design
from lmm.linalg.elimination import System, Vectors
from lmm.linalg.factorisation import PenalizedSystem
from lmm.linalg.joint_elimination import JointPattern
from lmm.model.gaussian.crossproducts import CrossProducts
from lmm.model.gaussian.deviance import Data
from lmm.model.gaussian.rotated_problem import rotated
from lmm.model.gaussian.system import orthonormal
from lmm.model.joint_system import joint_pattern, joint_plan, joint_system
from lmm.model.problem import Problem, gram_of

#: columns of other terms beside which the rows' directions of a dense covariance are taken
BESIDE = 4_000


@dataclass(frozen=True, eq=False)
class JointProblem(Problem):
    """A linear mixed model in sums, whose Z'WZ is factored by sparse Cholesky.

    ``pattern`` says where the entries stand in the factor; ``data`` holds [Q y]'W[Q y] alone.
    """

    pattern: JointPattern | None = None
    related = True

    def penalized_system(self) -> PenalizedSystem:
        """Z'WZ."""
        return joint_system(self.plan, self.cross, pattern=self.pattern)

    def right_hand_sides(self) -> list[np.ndarray]:
        """Z'W[Q y0] (p + 1, k, J) per term."""
        p = self.p
        return [np.concatenate([orthonormal(own[:p], self.R), own[p:]]) for own in self.cross.rhs]

    def sheared(self, H: Sequence[np.ndarray]) -> Problem:
        """The problem with the columns H'z of every term."""
        return replace(self, cross=self.cross.sheared(H))

    def arranged_sums(self, cross: CrossProducts) -> Data:
        """The sums for the deviance, of another response."""
        return joint_data(cross, self.R)

    def collect(self, vectors: Vectors, parts: Sequence[np.ndarray] = ()) -> NoReturn:
        """TypeError: nothing is arranged for block elimination."""
        raise TypeError("a model with related levels is not arranged for block elimination")


def related_problem(
    design: Design,
    cross: CrossProducts,
    R: np.ndarray,
    beta0: np.ndarray,
    moments: tuple[float, float],
) -> Problem:
    """The problem of a design in which some levels are related, from its sums on the levels."""
    beside = sum(term.k * term.J for term in design.terms if term.relation is None)
    found = rotated(design, cross, R, beta0, moments) if beside <= BESIDE else None
    if found is not None:
        return found
    start = perf_counter()
    plan = joint_plan(design.terms)
    pattern = joint_pattern(plan, cross)
    seconds = {"order of elimination": perf_counter() - start}
    return JointProblem(
        structures=tuple(term.structure for term in design.terms),
        plan=plan,
        arranged=plan,
        cross=cross,
        data=joint_data(cross, R),
        R=R,
        beta0=beta0,
        n=cross.n,
        sum_log_weights=cross.sum_log_weights,
        names=design.names,
        labels=tuple((term.group, term.columns) for term in design.terms),
        location=moments[0],
        scale=moments[1],
        seconds=seconds,
        pattern=pattern,
    )


def joint_data(cross: CrossProducts, R: np.ndarray) -> Data:
    """Sums for the deviance without those of the random effects."""
    return Data(
        System((), np.zeros((0, 0))),
        Vectors((), np.zeros((len(R) + 1, 0))),
        gram_of(cross, R),
        degrees=np.asarray(float(cross.n)),
        constant=np.asarray(-cross.sum_log_weights),
    )
