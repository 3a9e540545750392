"""The uncertainty of a model with several linear predictors: that of one of them, cut from that of all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from lmm.design.design import Design, Predictor
from lmm.estimators.estimator import Estimator
from lmm.inference.intervals.predictions import PredictionRows
from lmm.model.conditional import prediction_variance
from lmm.model.joint.joint_estimate import ALL, JointEstimate
from lmm.model.joint.joint_problem import JointProblem
from lmm.model.joint.joint_rows import whole_rows
from lmm.results.uncertainty import Covariances, Uncertainty


@dataclass(frozen=True, eq=False)
class JointUncertainty(Uncertainty):
    """What is known of one predictor.

    Attributes
    ----------
    whole : what is known of all predictors, whose covariances are computed once.
    model : the design with all predictors.
    """

    problem: JointProblem
    estimate: JointEstimate
    whole: Uncertainty
    model: Design

    def of_component(self, name: str) -> Uncertainty:
        """What is known of another predictor, or of all."""
        estimate = self.estimate.of_component(name)
        if not isinstance(estimate, JointEstimate):
            return self.whole
        return replace(self, design=self.model.component(name), estimate=estimate)

    @property
    def _places(self) -> np.ndarray:
        """Places of the component's theta and beta among those of all."""
        place = self.estimate.place
        m = len(self.estimate.whole_theta)
        return np.r_[place.theta, m + place.beta.start : m + place.beta.stop].astype(int)

    @cached_property
    def _covariances(self) -> Covariances:
        found, own = self.whole._covariances, self.estimate.place.beta
        joint = None if found.joint is None else found.joint[np.ix_(self._places, self._places)]
        return Covariances(found.beta[own, own], joint, found.message)

    @property
    def message(self) -> str | None:
        return self.whole.message

    def mode_covariances(self) -> tuple[np.ndarray, ...]:
        found = self.whole.mode_covariances()
        places = self.estimate.place.terms
        return tuple(found[own.term][:, own.columns, own.columns] for own in places)

    def dispersion_se(self) -> float:
        """Of a dispersion that is one number, the delta method on its logarithm."""
        density, phi = self.estimate.density, self.estimate.dispersion
        if not density.inner.has_dispersion or not np.isfinite(phi):
            return float("nan")
        known = self.of_component("disp")
        if known.joint is None or len(known.estimate.theta) or len(known.beta) != 1:
            return float("nan")
        return float(phi * abs(density.inner.dispersion_power) * np.sqrt(float(known.beta[0, 0])))

    def single_dispersion(self) -> tuple[str, float, float] | None:
        inner, phi = self.estimate.density.inner, self.estimate.dispersion
        if not inner.has_dispersion or not np.isfinite(phi):
            return None
        plain = inner.dispersion_name == "dispersion"
        name = "Dispersion parameter" if plain else f"Parameter {inner.dispersion_name}"
        return name, phi, self.dispersion_se()

    def intervals(
        self, method: str, level: float, places: list[int], ddf: str | None
    ) -> pd.DataFrame:
        """Those of all parameters at the rows of the component's."""
        from lmm.results.tables import intervals

        if method != "profile":
            return super().intervals(method, level, places, ddf)
        rows = self.whole_rows()
        kept = [i for i in places if rows[i] is not None]
        asked = [row for row in (rows[i] for i in kept) if row is not None]
        order = np.argsort(asked)
        found = intervals.profile_intervals(self.whole, level, sorted(asked))
        out = intervals.empty_rows(self)
        for position, i in enumerate(order):
            out.iloc[kept[i]] = found.iloc[position]
        out = out.iloc[places]
        out.attrs.update(found.attrs)
        return out

    def profiled(self, places: list[int] | None) -> tuple[Uncertainty, list[int] | None]:
        own = [row for row in self.whole_rows() if row is not None]
        return self.whole, own if places is None else [own[i] for i in places]

    def own_rows(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.iloc[[row for row in self.whole_rows() if row is not None]]

    def whole_rows(self) -> list[int | None]:
        """The row of each of the component's parameters in the table of all, None of a dropped coefficient."""
        place, problem = self.estimate.place, self.problem
        starts = np.cumsum([0, *(len(s.quantities()) for s in problem.structures)])
        out: list[int | None] = []
        for term, own in zip(self.design.terms, place.terms, strict=True):
            joint = problem.structures[own.term].quantities()
            for q in term.structure.quantities():
                row, column = q.row + own.columns.start, q.column + own.columns.start
                wanted = (q.kind, row, column)
                which = [(x.kind, x.row, x.column) for x in joint].index(wanted)
                out.append(int(starts[own.term]) + which)
        kept = {name: j for j, name in enumerate(self.design.names)}
        for name in self.design.all_names:
            j = kept.get(name)
            out.append(None if j is None else int(starts[-1]) + place.beta.start + j)
        return out

    def error_variance(self, rows: PredictionRows) -> np.ndarray:
        """By the joint covariance of the fixed effects and modes of all predictors."""
        if not any(mask.any() for mask in rows.keep):
            return super().error_variance(rows)
        one = np.ones(int(rows.complete.sum()))
        X, terms = whole_rows(self.problem, [(self.estimate.place, rows, one)])
        return np.asarray(prediction_variance(self.problem, self.estimate.whole, X, terms))


def joint_uncertainty(
    design: Design, problem: JointProblem, estimator: Estimator, estimate: JointEstimate
) -> JointUncertainty:
    """What a fit with several predictors says of the uncertainty of its default component."""
    everything = whole_design(design, problem)
    whole = Uncertainty(everything, problem, estimator, estimate.whole)
    own = design.component(estimate.component)
    return JointUncertainty(own, problem, estimator, estimate, whole, design)


def whole_design(design: Design, problem: JointProblem) -> Design:
    """Names and terms of all predictors together, without rows of their own."""
    names = problem.names
    none = np.zeros((design.n, 0))
    every = Predictor(ALL, none, names, (), names, problem.terms)
    return replace(design, predictors=(every,))
