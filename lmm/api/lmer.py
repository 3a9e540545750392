"""lmer(): check the arguments, call the stages in order, warn of what the user must know."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from lmm.arguments import caller, checked
from lmm.design import build_design
from lmm.design.design import Call, Design
from lmm.design.dispersion_part import check_dispersion
from lmm.errors import ArgumentError
from lmm.estimators import Control, registry
from lmm.estimators.estimator import Callback, Estimator
from lmm.estimators.given_start import check_start
from lmm.formula import Formula, parse
from lmm.formula.columns.given import Given, own
from lmm.formula.columns.subset import Chosen
from lmm.formula.text.predictor_formula import with_predictor
from lmm.formula.text.residual_formula import parse_residual
from lmm.linalg import tail, threads
from lmm.linalg.devices import backend, sharded
from lmm.model.problem import GeneralizedProblem, Problem, build_problem
from lmm.model.records import Estimate
from lmm.results import Fit
from lmm.results.text.notes import warned
from lmm.stream.reducers import reducer_for
from lmm.stream.row_progress import rows_bar, tqdm_bar

#: random effects from which an accelerator, where there is one, is worth its start-up
ACCELERATE = 20_000


@checked
def lmer(
    formula: str,
    data: object,
    *,
    REML: bool = True,
    weights: object = None,
    offset: object = None,
    subset: object = None,
    na_action: str = "omit",
    contrasts: Mapping[str, object] | None = None,
    residual: str | None = None,
    dispformula: str | None = None,
    covariance: Mapping[str, object] | None = None,
    start: object = None,
    method: object = None,
    control: Control | None = None,
) -> Fit:
    """Fit a linear mixed model from an lme4 formula.

    Parameters
    ----------
    formula : ``"y ~ x + (x|g)"``, Wilkinson notation with random terms in bars.
    data : pandas, polars or pyarrow table, or a mapping of arrays; N rows. Never modified. Data that is read in chunks and need not
        fit in memory: Parquet files (a path, glob, list or folder), a pyarrow Dataset or RecordBatchReader, a DuckDB relation, a
        table of a DuckDB file (:class:`lmm.Source`, ``"file.duckdb::table"``). Or a Dask or Spark DataFrame, summed where it lies.
    REML : restricted maximum likelihood (default) or maximum likelihood.
    weights : positive prior weights, Var(e_i) = sigma^2 / w_i: column name, expression, or array (N,).
    offset : known component of the mean: column name, expression, or array (N,).
    subset : rows to use: boolean mask (N,), expression, or function of the DataFrame.
    na_action : "omit" drops incomplete rows, "exclude" also pads fitted values and residuals, "fail" refuses them.
    contrasts : coding of categorical columns, ``{"period": "sum"}``.
    residual : how residuals vary and are correlated: ``"us(visit | id)"``, unstructured over the visits of each id;
        ``"ar1(visit | arm/id)"``, parameters by arm; ``"diag(sex)"``, one variance for each sex; ``"ou(week | id) + nugget"``. No random
        term is needed then; independent and of one variance otherwise.
    covariance : known covariances between the levels of grouping factors, ``{"id": K}``: the effects of ``(1|id)`` have the covariance
        s^2 K, those of ``(x|id)`` K (x) G. K is a DataFrame whose index and columns are the levels, or a :class:`lmm.KnownCovariance`,
        :class:`lmm.Precision`, :class:`lmm.Factor`, :class:`lmm.Pedigree` or :class:`lmm.Tree`. Levels are independent otherwise.
    dispformula : what the residual standard deviation depends on: ``"~ Days"``, fixed effects on its logarithm. No random term is
        needed then.
    start : relative covariance parameters theta to begin from, in the order of ``fit.theta``.
    method : a way of estimating by name ("reml", "ml", "em", "vi", "mcem", "nuts", "mackay", "pql") or an estimator with
        settings of its own, ``lmm.VariationalBayes(rng=1)``; "reml" and "ml" override ``REML``.
    control : :class:`lmm.Control`, tolerances and limits.

    Returns
    -------
    Fit

    Raises
    ------
    LmmError : a kind for each thing that can be wrong, naming the column or the place in the formula.

    Notes
    -----
    The profiled criterion of Bates, Maechler, Bolker & Walker (2015, J. Stat. Softw. 67(1)), minimised
    with its exact gradient and average information.

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    >>> fit.fixef().round(2).to_dict()
    {'Intercept': 251.41, 'Days': 10.47}
    """
    given = Given(weights, offset, subset, na_action, contrasts, caller(), covariance)
    return run(
        with_dispersion(formula, dispformula),
        data,
        REML=REML,
        given=given,
        residual=residual,
        start=start,
        method=method,
        control=control,
    )


def run(
    formula: str | Formula,
    data: object,
    *,
    REML: bool = True,
    given: Given,
    residual: str | None = None,
    start: object = None,
    method: object = None,
    control: Control | None = None,
) -> Fit:
    """:func:`lmer` with its arguments for the rows in one record; the call is kept for :meth:`Fit.update`."""
    estimator = choose_estimator(REML, method, control)
    settings = estimator.control
    begin = perf_counter()
    problem: Any = None
    model = with_residuals(formula, residual, estimator, given.covariance)
    reducer = reducer_for(data, rows_bar if settings.progress else None)
    check_related(given, estimator, reducer is not None)
    with threads.limited():
        if reducer is not None and isinstance(model, Formula) and model.varies:
            from lmm.stream.whole_rows import whole_rows

            data, reducer = whole_rows(reducer, model, given), None
        if reducer is None:
            design = build_design(model, data, given)
        else:
            from lmm.stream import linear_rows

            design, problem = linear_rows.build(
                formula,
                data,
                reducer,
                given,
                choose_backend=lambda design: choose_backend(design, settings),
                factorization=choose_factorization(estimator, settings),
            )
    call = {
        "REML": estimator.reml,
        **kept_arguments(design, given, start),
        "residual": residual,
        "method": method,
        "control": control,
    }
    with threads.limited():
        if problem is None:
            problem = problem_of(
                design, choose_backend(design, settings), choose_factorization(estimator, settings)
            )
        if problem.backend == "jax":
            devices = sharded.count_for(settings.devices, tail.size(problem.arranged.layout))
            problem = replace(problem, plan=replace(problem.plan, devices=devices))
    design = replace(design, call=Call(run, call), plan=problem.plan)
    problem.seconds["design"] = perf_counter() - begin - sum(problem.seconds.values())
    return fit_problem(design, problem, estimator, start)


def check_related(given: Given, estimator: Estimator, chunks: bool) -> None:
    """ArgumentError where ``covariance=`` meets a method, or data, that have no place for it."""
    if not given.covariance:
        return
    if not estimator.takes_related:
        raise ArgumentError(
            f"covariance= is for maximum likelihood, restricted or not, and Laplace's method, not for {estimator.label}."
        )
    if chunks:
        raise ArgumentError(
            "covariance= needs the rows in memory; read the data into a table first."
        )
    if estimator.nagq > 1 or estimator.second_order:
        raise ArgumentError(
            "covariance= relates the levels of a grouping factor, so that the likelihood has no small integrals for quadrature; use nAGQ=1."
        )


def with_dispersion(formula: str | Formula, dispformula: object) -> str | Formula:
    """The formula with a predictor of the logarithm of the residual standard deviation; itself without one.

    Raises
    ------
    FormulaError : what cannot be read; ArgumentError : a predictor without columns.
    """
    if dispformula is None:
        return formula
    out = with_predictor(formula, "dispformula", dispformula)
    if not out.components:
        raise ArgumentError(
            f"dispformula={dispformula!r} has no intercept and no columns: a linear model needs a residual variance. residual= gives "
            "residuals a structure."
        )
    return out


def with_residuals(
    formula: str | Formula, residual: object, estimator: Estimator, covariance: object = None
) -> str | Formula:
    """The formula with the structure of the residuals that it is to have; it may have a predictor of their standard deviation.

    Raises
    ------
    FormulaError : what cannot be read; ArgumentError : a method that has none, predictors of other models, and both together.
    """
    if residual is None and not isinstance(formula, Formula):
        return formula
    parsed = formula if isinstance(formula, Formula) else parse(formula)
    structure = None if residual is None else parse_residual(residual)
    parsed = replace(parsed, residual=structure)
    check_dispersion(parsed)
    for asked, given in (("residual=", structure), ("dispformula=", parsed.components)):
        if given and covariance:
            raise ArgumentError(
                f"{asked} and covariance= together are not fitted; leave out the one that matters less."
            )
        if given and not estimator.takes_residual:
            raise ArgumentError(
                f"{asked} is for maximum likelihood, restricted or not, not for {estimator.label}."
            )
    return parsed


def problem_of(design: Design, backend: str = "numpy", factorization: str = "auto") -> Any:
    """The problem of a linear design, by whether its residuals are independent."""
    if design.residual:
        from lmm.model.marginal.marginal_problem import build_marginal_problem

        return build_marginal_problem(design)
    return build_problem(design, backend, factorization)


def kept_arguments(design: Design, given: Given, start: object) -> dict[str, object]:
    """Arguments of a call as :meth:`Fit.update` repeats them: what the user does to arrays afterwards does not change them."""
    chosen = (
        Chosen(given.subset, np.asarray(design.subset)) if callable(given.subset) else given.subset
    )
    arguments = {
        "weights": given.weights,
        "offset": given.offset,
        "subset": chosen,
        "contrasts": given.contrasts,
        "covariance": given.covariance,
        "start": start,
    }
    return {"na_action": given.na_action, **{name: own(value) for name, value in arguments.items()}}


def fit_problem(
    design: Design,
    problem: Problem | GeneralizedProblem,
    estimator: Estimator,
    start: object = None,
) -> Fit:
    """Run an estimator on a problem, warn of a singular or unconverged fit, and put the names back."""
    control = estimator.control
    if control.checkpoint is not None and not estimator.takes_checkpoint:
        raise ArgumentError(
            f"checkpoint= is for maximum likelihood, restricted or not, and EM, not for {estimator.label}."
        )
    for term in design.terms:
        if not estimator.takes_members:
            term.require_own_rows(estimator.label)
    theta = check_start(start, design, problem, required=control.evaluate_only)
    with _watching(control) as callback, threads.limited():
        estimate: Estimate = problem.named(estimator.fit(problem, theta, callback))
    if control.checkpoint is not None:  # what refits this model later is another fit
        estimator = estimator.with_control(replace(control, checkpoint=None))
    return Fit(design.formula, design, problem, estimator.given, warned(design, estimate))


def choose_estimator(REML: bool, method: object, control: Control | None) -> Estimator:
    """The estimator that ``REML=`` and ``method=`` ask for."""
    if not isinstance(REML, bool | np.bool_):
        raise ArgumentError(f"REML={REML!r} must be True or False.")
    if method is None:
        method = "reml" if REML else "ml"
    if isinstance(method, str):
        return registry.by_name(
            method, registry.LINEAR, reml=bool(REML), control=check_control(control)
        )
    estimator = registry.adopt(
        method, registry.LINEAR, None if control is None else check_control(control)
    )
    if not REML and estimator.reml:
        kind = estimator.label
        raise ArgumentError(
            f"REML=False, but method={kind}(...) has reml=True; give method=lmm.{kind}(reml=False)."
        )
    return estimator


def choose_backend(design: Design, control: Control) -> str:
    """NumPy on a CPU, whose blocks of levels stay in cache; JAX for large problems where it has an accelerator."""
    if control.backend != "auto":
        return control.backend
    if (control.devices or 1) > 1:
        return "jax"
    effects = sum(term.k * term.J for term in design.terms)
    return "jax" if effects >= ACCELERATE and backend.has_accelerator() else "numpy"


def choose_factorization(estimator: Estimator, control: Control) -> str:
    """What ``control`` asks for; exact for methods that have no other way."""
    if estimator.takes_iterative:
        return control.factorization
    if control.factorization == "iterative":
        raise ArgumentError(
            f"factorization='iterative' is for method='reml', 'ml' and 'laplace', not for {estimator.label}."
        )
    return "exact"


def check_control(control: Control | None) -> Control:
    """The settings given, or the defaults."""
    if control is None:
        return Control()
    if not isinstance(control, Control):
        raise ArgumentError(f"control must be an lmm.Control(...), not {type(control).__name__}.")
    return control


@contextmanager
def _watching(control: Control) -> Iterator[Callback | None]:
    """What is shown while the optimiser runs: a line per evaluation, a progress bar, or nothing."""
    if control.progress:
        with tqdm_bar()(desc="lmer", unit=" evaluations") as bar:

            def show(line: dict[str, Any]) -> None:
                bar.update()
                bar.set_postfix_str(
                    line["text"] if "text" in line else f"deviance {line['objective']:.6f}"
                )

            yield show
    elif control.verbose:

        def write(line: dict[str, Any]) -> None:
            if "text" in line:
                sys.stdout.write(line["text"] + "\n")
                return
            theta = ", ".join(f"{value:.6g}" for value in line["theta"])
            sys.stdout.write(
                f"{line['objective']:.8f}  theta = ({theta})  promised {line['decrease']:.2e}\n"
            )

        yield write
    else:
        yield None
