"""The problem of a model with several linear predictors: that of one predictor on stacked rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import NoReturn

import numpy as np

from lmm.design.design import Design
from lmm.design.predictors.stacked_design import Place, stack
from lmm.errors import ArgumentError
from lmm.families.joint.joint_density import JointDensity
from lmm.families.joint.stacked_family import StackedFamily
from lmm.model.joint import joint_start
from lmm.model.joint.joint_estimate import JointEstimate, seen
from lmm.model.joint.zero_limits import with_limits
from lmm.model.laplace.passes import weighted
from lmm.model.laplace.rows import make_rows
from lmm.model.penalized import WorkingModel
from lmm.model.problem import GeneralizedProblem
from lmm.model.records import Estimate


@dataclass(frozen=True, eq=False, kw_only=True)
class JointProblem(GeneralizedProblem):
    """A generalized problem whose rows are blocks of the user's rows.

    Attributes
    ----------
    density : of the response given all predictors.
    places : where each predictor's parameters are.
    """

    family: StackedFamily
    density: JointDensity
    places: tuple[Place, ...]

    def first_coefficients(self) -> np.ndarray:
        """gamma of the model without random effects."""
        slices = [place.beta for place in self.places]
        return joint_start.coefficients(self.family, self.rows, self.rows.R, slices)

    def named(self, estimate: Estimate) -> JointEstimate:
        """The part of the mean, which knows the whole."""
        if estimate.eta is None:
            estimate = replace(estimate, eta=self.predictor(estimate.beta, estimate.modes))
        estimate = with_limits(estimate, self.density, self.places, self.names)
        return seen(estimate, self.density, self.places, "cond")

    def of(self, design: Design) -> NoReturn:
        """ArgumentError: rows and levels are not left out one after another."""
        raise ArgumentError(
            "leaving out rows or levels, or drawing them again, is not available for a model with several linear predictors; "
            "fit it anew with update(subset=...)."
        )

    def with_response(self, design: Design) -> JointProblem:
        """The same rows with the response of ``design``."""
        rows = replace(self.rows, y=np.tile(design.y, self.family.blocks))
        return replace(self, rows=rows, seconds={})

    def working_model(self, estimate: Estimate) -> WorkingModel:
        """The working linear model at the modes with the observed weights."""
        rows = self.rows
        with np.errstate(all="ignore"):
            at = self.family.derivatives(rows.y, np.asarray(estimate.eta), rows.weights)
        return WorkingModel.of(rows, weighted(rows, -at.d2, True))


def build_joint(design: Design, density: JointDensity) -> JointProblem:
    """The rows of a design with the predictors of a density, in its order."""
    start = perf_counter()
    family = StackedFamily(density)
    stacked = stack(design, family.directions)
    rows = make_rows(stacked.design)
    made = stacked.design
    return JointProblem(
        structures=tuple(term.structure for term in made.terms),
        terms=made.terms,
        rows=rows,
        family=family,
        names=made.names,
        seconds={"cross-products": perf_counter() - start},
        density=density,
        places=stacked.places,
    )
