"""Formulas of several linear predictors, and the problem that they make with a family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lmm.design.design import Design
from lmm.errors import ArgumentError, FormulaError
from lmm.estimators.estimator import Estimator
from lmm.families import Family
from lmm.families.joint.joint_density import JointDensity
from lmm.families.joint.seen_family import SeenFamily
from lmm.formula import Formula, parse
from lmm.formula.text.predictor_formula import with_predictor
from lmm.model.joint.joint_problem import JointProblem, build_joint

#: the predictor that a dispersion has where nothing else is asked
ONE = parse("~ 1", one_sided=True)


def with_predictors(formula: str | Formula, given: dict[str, object]) -> str | Formula:
    """The formula with those of further predictors, by argument; ``"~ 0"`` takes one away, None leaves it.

    Raises
    ------
    FormulaError : for one that cannot be read.
    """
    for argument, text in given.items():
        if text is not None:
            formula = with_predictor(formula, argument, text)
    return formula


def joint_model(formula: str | Formula, family: Family) -> tuple[str | Formula, Family]:
    """The formula with a predictor for each part of the family, and the family with its zeros and dispersion.

    Where nothing but the mean has predictors both are as they were, without a dispersion that is ``~ 1``.

    Raises
    ------
    ArgumentError : for a family that has not what has a predictor.
    """
    if not isinstance(formula, Formula):
        return formula, family
    components = dict(formula.components)
    if "disp" in components and _is_one(components["disp"]):
        del components["disp"]
    if not components:
        return replace(formula, components=()), family
    if "disp" in components and not family.has_dispersion:
        what = "has no dispersion"
        if family.n_parameters > 1:
            what = f"has {' and '.join(family.own_names)}, of which each is one number for all rows"
        raise ArgumentError(
            f"dispformula=: the {family.name} family {what}; leave it out, or take a family with a dispersion, such as gaussian, gamma, "
            "beta or negative_binomial."
        )
    density = JointDensity(family, "zi" in components)
    density.check()
    every = tuple((name, components.get(name, ONE)) for name in density.names[1:])
    return replace(formula, components=every), SeenFamily(density)


def _is_one(formula: Formula) -> bool:
    return formula.fixed == "1" and not formula.bars and not formula.offsets


def joint_problem(design: Design, estimator: Estimator) -> JointProblem | None:
    """The problem of a design with several predictors; None for another one.

    Raises
    ------
    ArgumentError : for a way of estimating, or a setting, that takes one predictor alone.
    """
    if not isinstance(design.family, SeenFamily):
        return None
    check_estimator(estimator)
    terms = [term for predictor in design.predictors for term in predictor.terms]
    if not terms:
        raise FormulaError("no predictor has a random term; add one such as (1|group).")
    if any(term.relation is not None or np.ndim(term.codes) > 1 for term in terms):
        raise ArgumentError(
            "covariance= and mm(...) take one linear predictor; leave them out of a model with ziformula= or dispformula=."
        )
    return build_joint(design, design.family.density)


def check_estimator(estimator: Estimator) -> None:
    """ArgumentError where an estimator or its settings take one linear predictor alone."""
    control = estimator.control
    if not estimator.takes_predictors:
        raise ArgumentError(
            f"ziformula= and dispformula= are for nAGQ=1 (Laplace) or more, not for {estimator.label}."
        )
    if estimator.nagq == 0 or estimator.second_order:
        asked = "'laplace2'" if estimator.second_order else 0
        raise ArgumentError(
            f"nAGQ={asked} takes one linear predictor; a model with ziformula= or dispformula= takes nAGQ=1 or more."
        )
    unlike = (
        ("REML", estimator.reml, bool(estimator.reml)),
        ("curvature", control.curvature, control.curvature != "observed"),
        ("backend", control.backend, control.backend == "jax"),
        ("devices", control.devices, (control.devices or 1) > 1),
        ("factorization", control.factorization, control.factorization == "iterative"),
    )
    for name, value, wrong in unlike:
        if wrong:
            raise ArgumentError(
                f"{name}={value!r} takes one linear predictor; leave it out for a model with ziformula= or dispformula=."
            )
