"""glmer(): the generalized counterpart of lmer()."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np

from lmm import families
from lmm.api.lmer import (
    check_control,
    check_related,
    choose_factorization,
    fit_problem,
    kept_arguments,
    rows_bar,
)
from lmm.api.several_predictors import joint_model, joint_problem, with_predictors
from lmm.arguments import caller, checked
from lmm.design import build_design
from lmm.design.design import Call
from lmm.design.terms import RandomTerm
from lmm.errors import ArgumentError
from lmm.estimators import Control, registry
from lmm.estimators.estimator import Estimator
from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
from lmm.families import Family
from lmm.families.joint.seen_family import SeenFamily
from lmm.formula import Formula, Given
from lmm.linalg import threads
from lmm.linalg.devices import backend
from lmm.model.problem import build_generalized
from lmm.results import Fit
from lmm.stream.reducers import reducer_for

#: quadrature points per random effect at the most, and random effects per level that quadrature takes
MAX_POINTS, MAX_DIMENSIONS = 100, 3
#: rows from which an accelerator, where there is one, takes the passes over them
ACCELERATE = 100_000


def check_quadrature(terms: Sequence[RandomTerm], points: int, second_order: bool = False) -> None:
    """ArgumentError where more than one point is asked for and the model does not factor into small integrals."""
    if points <= 1 and not second_order:
        return
    asked = "'laplace2'" if second_order else points
    if len(terms) > 1:
        groups = ", ".join(term.group for term in terms)
        raise ArgumentError(
            f"nAGQ={asked} needs a single grouping factor; this model has {groups}. Use nAGQ=1."
        )
    if terms[0].several:
        raise ArgumentError(
            f"nAGQ={asked} needs levels whose rows are their own; rows belong to several levels of {terms[0].group}. Use nAGQ=1."
        )
    if terms[0].k > MAX_DIMENSIONS:
        one = terms[0]
        raise ArgumentError(
            f"nAGQ={asked} takes up to {MAX_DIMENSIONS} random effects per level; {one.group} has {one.k}. Use nAGQ=1."
        )


@checked
def glmer(
    formula: str,
    data: object,
    *,
    family: str | Family | type[Family],
    nAGQ: int | str = 1,
    REML: bool = False,
    ziformula: str | None = None,
    dispformula: str | None = None,
    weights: object = None,
    offset: object = None,
    subset: object = None,
    na_action: str = "omit",
    contrasts: Mapping[str, object] | None = None,
    covariance: Mapping[str, object] | None = None,
    start: object = None,
    method: object = None,
    control: Control | None = None,
) -> Fit:
    """Fit a generalized linear mixed model from an lme4 formula.

    Parameters
    ----------
    formula : ``"y ~ x + (x|g)"``; ``"cbind(successes, failures) ~ ..."`` for binomial counts.
    data : pandas, polars or pyarrow table, or a mapping of arrays; N rows. Never modified. Also rows that are not in memory, as for
        :func:`lmm.lmer`: a Parquet path, a pyarrow Dataset, a DuckDB table, a Dask or Spark data frame (nAGQ 0 or 1).
    family : name ("binomial", "poisson", "ordinal", ...) or object, ``lmm.families.Binomial(link="probit")``.
    nAGQ : 1 for the Laplace approximation; more for adaptive Gauss-Hermite quadrature with that many points per
        random effect, for a single grouping factor with up to three. All share one log-likelihood scale.
        "laplace2" adds the next term of Laplace's expansion, for a single grouping factor.
        0 finds the fixed effects with the random ones in the inner loop: fast and biased.
    REML : restricted maximum likelihood, with the fixed effects integrated out by Laplace's approximation too (nAGQ 1): variances
        are less biased where fixed effects are many for the data. Maximum likelihood is the default, as in lme4.
    ziformula : ``"~ x + (1|g)"``, a linear predictor of zeros beyond those of the family, by the logit of their probability; with a
        family that has no zeros, such as Gamma, of all zeros (a hurdle). Fixed and random terms, offsets, structures. None for none.
    dispformula : ``"~ x"``, a linear predictor of the logarithm of the family's dispersion, as glmmTMB has it: the size of a negative
        binomial, the shape of a gamma distribution, the standard deviation of a Gaussian one. None for a single dispersion.
    weights : trials of a binomial proportion, frequencies of an ordinal response, else prior weights: column name, expression,
        or array (N,).
    offset : known component of the linear predictor: column name, expression, or array (N,).
    subset, na_action, contrasts, covariance : as in :func:`lmm.lmer`.
    start : theta, or ``{"theta": ..., "beta": ..., "phi": ...}`` to begin from.
    method : a way of estimating by name ("laplace", "agq", "pql", "vi", "mcem", "nuts") or an estimator with settings of
        its own, in place of the one that ``nAGQ`` asks for.
    control : :class:`lmm.Control`, tolerances and limits.

    Returns
    -------
    Fit

    Raises
    ------
    LmmError : a kind for each thing that can be wrong, naming the column or the place in the formula.

    Notes
    -----
    -2 log-likelihood by Laplace's method, all constants included, minimised over covariances, fixed effects
    and dispersion with its exact gradient. Standard errors come from the Hessian over all of them.

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.glmer("cbind(incidence, size - incidence) ~ period + (1|herd)", lmm.datasets.load("cbpp"), family="binomial")
    >>> round(fit.llf, 4)
    -92.0263
    """
    given = Given(weights, offset, subset, na_action, contrasts, caller(), covariance)
    return run_generalized(
        with_predictors(formula, {"ziformula": ziformula, "dispformula": dispformula}),
        data,
        family=family,
        nAGQ=nAGQ,
        REML=REML,
        given=given,
        start=start,
        method=method,
        control=control,
    )


def run_generalized(
    formula: str | Formula,
    data: object,
    *,
    family: str | Family | type[Family],
    nAGQ: int | str = 1,
    REML: bool = False,
    given: Given,
    start: object = None,
    method: object = None,
    control: Control | None = None,
) -> Fit:
    """:func:`glmer` with its arguments for the rows in one record; the call is kept for :meth:`Fit.update`."""
    from lmm.model.laplace import device_rows
    from lmm.stream import generalized_rows as stream_generalized

    family = families.get(family)
    formula, joint = joint_model(formula, family)
    second_order = nAGQ == "laplace2"
    nAGQ = 1 if second_order else nAGQ
    if (
        isinstance(nAGQ, bool)
        or not isinstance(nAGQ, int | np.integer)
        or not 0 <= nAGQ <= MAX_POINTS
    ):
        choices = f"0 (fixed effects in the inner loop), 1 (Laplace), or up to {MAX_POINTS} quadrature points, or 'laplace2'"
        raise ArgumentError(f"nAGQ={nAGQ!r} must be a whole number: {choices}.")
    if not isinstance(REML, bool | np.bool_):
        raise ArgumentError(f"REML={REML!r} must be True or False.")
    estimator = choose_generalized(int(nAGQ), second_order, method, control, bool(REML))
    begin = perf_counter()
    reducer = reducer_for(data, rows_bar if estimator.control.progress else None)
    check_related(given, estimator, reducer is not None)
    if given.covariance and isinstance(formula, Formula) and formula.components:
        raise ArgumentError(
            "ziformula= or dispformula= and covariance= together are not fitted; leave out the one that matters less."
        )
    problem = None
    with threads.limited():
        if reducer is None:
            design = build_design(formula, data, given, joint)
            joint.check(design.y, design.weights, design.response)
        else:
            check_streamed(estimator, joint)
            design, problem = stream_generalized.build_generalized(
                formula, data, reducer, given, family
            )
        call: dict[str, object] = {"family": family, "nAGQ": "laplace2" if second_order else nAGQ}
        call["REML"] = bool(estimator.reml)
        call |= {**kept_arguments(design, given, start), "method": method, "control": control}
        problem = joint_problem(design, estimator) or problem
        check_quadrature((problem or design).terms, estimator.nagq, second_order)
        if problem is None:
            settings = estimator.control
            problem = build_generalized(
                design, design.family, choose_factorization(estimator, settings)
            )
            here = isinstance(estimator, LaplaceLikelihood) and not (
                problem.plan.iterative or problem.plan.joint
            )
            if here and choose_passes(problem.n, settings, bool(estimator.reml)) == "jax":
                problem = device_rows.on_devices(problem, settings.devices)
    plan = replace(problem.plan, passes=getattr(problem.source, "where", ""))
    design = replace(design, call=Call(run_generalized, call), plan=plan)
    problem.seconds["design"] = perf_counter() - begin - sum(problem.seconds.values())
    return fit_problem(design, problem, estimator, start)


def choose_passes(n: int, control: Control, reml: bool = False) -> str:
    """NumPy on a CPU; JAX for many rows where it has an accelerator, or where it is asked for; REML takes NumPy."""
    if reml and (control.backend == "jax" or (control.devices or 1) > 1):
        raise ArgumentError(
            "REML=True of a generalized model runs on NumPy; leave out backend= and devices=."
        )
    if reml:
        return "numpy"
    if control.backend != "auto":
        return control.backend
    asked = (control.devices or 1) > 1
    return "jax" if asked or (n >= ACCELERATE and backend.has_accelerator()) else "numpy"


def check_streamed(estimator: Estimator, family: Family) -> None:
    """ArgumentError where an estimator, or a family with several predictors, needs rows one by one, and they are not in memory."""
    if isinstance(family, SeenFamily):
        raise ArgumentError(
            "ziformula= and dispformula= need the rows in memory; read the data into a table first."
        )
    if estimator.control.factorization == "iterative":
        raise ArgumentError(
            "factorization='iterative' needs the rows of a generalized model in memory; data read in chunks takes 'exact'."
        )
    if not estimator.takes_chunks:
        raise ArgumentError(
            f"method {estimator.name!r} needs its rows in memory; data read in chunks takes nAGQ=1 (Laplace) or nAGQ=0."
        )
    if estimator.nagq > 1 or estimator.second_order:
        asked = "'laplace2'" if estimator.second_order else estimator.nagq
        raise ArgumentError(
            f"nAGQ={asked} needs its rows in memory; data read in chunks takes nAGQ=1 (Laplace) or nAGQ=0."
        )


def choose_generalized(
    nAGQ: int, second_order: bool, method: object, control: Control | None, REML: bool = False
) -> Estimator:
    """The estimator that ``nAGQ=``, ``REML=`` and ``method=`` ask for."""
    if REML and (nAGQ != 1 or second_order):
        raise ArgumentError(
            "REML=True takes Laplace's approximation of the integral over fixed and random effects, nAGQ=1; give one of the two."
        )
    if REML and method is None:
        method = "laplace_reml"
    if method is None:
        return LaplaceLikelihood(check_control(control), nAGQ, second_order)
    if isinstance(method, str):
        return registry.by_name(
            method, registry.GENERALIZED, nagq=nAGQ, control=check_control(control)
        )
    return registry.adopt(
        method, registry.GENERALIZED, None if control is None else check_control(control)
    )
