"""Profiles of the parameters of a fit: what to hold, where to begin, and what to do where a lower deviance turns up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmm.covariance import Covariance
from lmm.errors import ArgumentError
from lmm.estimators.control import Control
from lmm.estimators.estimator import Estimator
from lmm.estimators.laplace.laplace_criterion import Objective
from lmm.estimators.laplace.laplace_likelihood import maximum_likelihood
from lmm.estimators.likelihood.probed_criterion import evaluator
from lmm.inference.intervals.generalized_surface import GeneralizedSurface
from lmm.inference.intervals.joint_surface import linear_surface
from lmm.inference.intervals.marginal_surface import MarginalSurface
from lmm.inference.intervals.profiling import LowerPoint, ProfilePath, follow, polished
from lmm.inference.intervals.surface import Held, LinearSurface, Place
from lmm.linalg import threads
from lmm.model.problem_kinds import AnyProblem, GeneralizedProblem, MarginalProblem
from lmm.model.records import Estimate

AnySurface = LinearSurface | GeneralizedSurface | MarginalSurface
#: how often a lower deviance may turn up before the search is given up
RESTARTS = 4


@dataclass(frozen=True, eq=False)
class Profiles:
    """Paths of several parameters.

    Attributes
    ----------
    deviance : -2 log-likelihood at its maximum.
    paths, surfaces : per parameter that was held.
    place : the parameters at the maximum.
    messages : what a reader should know: another fit than the one asked about was profiled.
    """

    deviance: float
    paths: tuple[ProfilePath, ...]
    surfaces: tuple[AnySurface, ...]
    place: Place
    messages: tuple[str, ...]


def parameters_held(
    structures: Sequence[Covariance], sigma: bool, p: int, own: Sequence[str] = ()
) -> list[Held]:
    """Everything that can be held, in the order of ``confint``: per term standard deviations and correlations, ``sigma``, coefficients,
    then ``own`` ("threshold", "spacing")."""
    out = []
    for t, structure in enumerate(structures):
        out += [
            Held(q.kind, q.row, None if q.kind == "sd" else q.column, t)
            for q in structure.quantities()
        ]
    out += [Held("sigma")] if sigma else []
    out += [Held("coefficient", j) for j in range(p)]
    return [*out, *(Held(kind, j) for j, kind in enumerate(own))]


def maximum(
    problem: AnyProblem, estimator: Estimator, estimate: Estimate
) -> tuple[Estimator, Estimate, tuple[str, ...]]:
    """The maximum likelihood fit whose deviance is profiled, its estimator, and what to say where it is not the fit itself.

    Raises
    ------
    ArgumentError : for a posterior, given variances and quasi-likelihood, which have no likelihood to maximise.
    """
    estimate.require_likelihood(
        "profile: there is no likelihood to go by; a posterior's draws show its shape, confint(method='posterior')."
    )
    if estimate.n_parameters == len(estimate.beta):
        raise ArgumentError(
            "profile: the variances of this fit were given, not estimated; fit the model by maximum likelihood."
        )
    control = replace(estimator.control, evaluate_only=False, verbose=False, progress=False)
    if estimate.quasi:
        raise ArgumentError(
            "profile: a quasi-likelihood, with a dispersion that its family does not have, has no deviance to profile."
        )
    kind = maximum_likelihood(
        problem,
        control,
        sigma=estimate.sigma if estimate.knows_sigma and not estimate.residual else None,
        nagq=max(estimator.nagq, 1),
        second_order=estimator.second_order,
    )
    if _is_same(estimator, kind) and estimate.convergence.converged:
        return kind, estimate, ()
    refitted = kind.fit(problem, None if estimate.distribution.linear else estimate.parameters)
    return (
        kind,
        refitted,
        (
            f"Profiles are of the likelihood: the fit by {_label(estimate)} was refitted by {_label(refitted)}.",
        ),
    )


def _is_same(estimator: Estimator, kind: Estimator) -> bool:
    """Whether an estimate by ``estimator`` is the maximum that ``kind`` looks for."""
    if type(estimator) is not type(kind) or estimator.control.evaluate_only:
        return False
    return estimator.with_control(Control()) == kind.with_control(Control())


def _label(estimate: Estimate) -> str:
    return {"reml": "REML", "ml": "maximum likelihood", "laplace": "Laplace's method"}.get(
        estimate.method, repr(estimate.method)
    )


def _named(problem: AnyProblem, held: Held) -> str:
    """The coefficient or threshold that is held; nothing for another parameter."""
    if held.kind == "coefficient":
        return problem.names[held.first]
    if held.kind in ("threshold", "spacing"):
        return str(problem.family.threshold_names[1 if held.kind == "spacing" else held.first])
    return ""


@threads.limited()
def profiles(
    problem: AnyProblem,
    estimator: Estimator,
    estimate: Estimate,
    held: Sequence[Held],
    cutoff: float,
) -> Profiles:
    """Profile each parameter of ``held`` to zeta = -+``cutoff``.

    Parameters
    ----------
    problem, estimator, estimate : those of a fit; of another than maximum likelihood the model is refitted first.
    held : what to hold, of :func:`parameters_held`.
    cutoff : how far, in standard normal deviates.
    """
    if problem.plan is not None:
        problem.plan.require_exact("A profile")
    kind, best, messages = maximum(problem, estimator, estimate)
    surfaces: Sequence[AnySurface] = []
    if isinstance(problem, GeneralizedProblem):
        objective = Objective(problem, kind.control.curvature, kind.nagq, kind.second_order)
        place = Place(
            list(best.factors), objective.pack(best.theta, best.beta, best.phi)[problem.n_theta :]
        )
        surfaces = [GeneralizedSurface(problem, objective, own) for own in held]
        some: AnySurface = GeneralizedSurface(problem, objective, Held("sd", 0, None, 0))
    elif isinstance(problem, MarginalProblem):
        place = Place(
            [best.sigma * T for T in (*best.factors, *best.residual)],
            np.concatenate([[0.0], best.beta]),
        )
        surfaces = [MarginalSurface(problem, own) for own in held]
        some = MarginalSurface(problem, Held("sd", 0, None, len(problem.structures) - 1))
    else:
        if problem.centred is not None:
            text = "random slopes are far from their origin: their profiles hold few digits. Centre the covariate, I(x - mean(x))."
            messages = (*messages, text)
        base = evaluator(problem, False, 1.0)
        place = Place(
            [best.sigma * T for T in best.factors],
            np.concatenate([[np.log(best.sigma)], best.beta]),
        )
        surfaces = [linear_surface(base, own, kind.sigma is not None) for own in held]
        some = linear_surface(base, Held("sd", 0, None, 0), kind.sigma is not None)
    endless = [best.unbounded.get(_named(problem, own), (False, False)) for own in held]
    for _ in range(RESTARTS):
        try:
            paths = [
                follow(surface, surface.enter(place), cutoff, ends)
                for surface, ends in zip(surfaces, endless, strict=True)
            ]
        except LowerPoint as lower:
            found = polished(some, some.enter(lower.place))
            before = some.at(some.enter(place)).objective
            place = lower.place if found is None else found
            now = some.at(some.enter(place)).objective
            text = f"A profile found a deviance lower by {before - now:.3g} than that of the fit; profiles are around that better optimum."
            messages = (*(m for m in messages if "better optimum" not in m), text)
            continue
        except ArithmeticError as error:
            raise ArgumentError(f"profile: {error}, so there is nothing to go on from.") from None
        return Profiles(
            some.at(some.enter(place)).objective, tuple(paths), tuple(surfaces), place, messages
        )
    raise ArgumentError(
        "profile: lower deviances turned up again and again; the likelihood has several maxima. Use method='boot'."
    )
