"""lmer_batch() and glmer_batch(): one model, many responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lmm import families
from lmm.api.glmer import run_generalized
from lmm.api.lmer import (
    check_control,
    choose_estimator,
    problem_of,
    run,
    with_dispersion,
    with_residuals,
)
from lmm.arguments import caller, checked
from lmm.design import build_design
from lmm.design.build_design import other_columns
from lmm.design.design import Design
from lmm.design.response_table import Responses, read_responses
from lmm.errors import ArgumentError, ConvergenceWarning, DataError, FormulaError, warn
from lmm.estimators import Control
from lmm.estimators.estimator import Estimator
from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
from lmm.families import Family
from lmm.formula import Formula, Given, Table, parse
from lmm.formula.text.names import names_in
from lmm.formula.text.tokens import quote, scan
from lmm.inference.refits import response_batches as many
from lmm.linalg import threads
from lmm.model.problem import build_generalized
from lmm.model.problem_kinds import AnyProblem
from lmm.results import Fit
from lmm.results.batch_fit import BatchFit
from lmm.results.text.progress_bar import bar


@checked
def lmer_batch(
    formula: str,
    data: object,
    responses: object,
    *,
    REML: bool = True,
    weights: object = None,
    offset: object = None,
    subset: object = None,
    na_action: str = "omit",
    contrasts: Mapping[str, object] | None = None,
    covariance: Mapping[str, object] | None = None,
    residual: str | None = None,
    dispformula: str | None = None,
    control: Control | None = None,
    progress: bool | None = None,
) -> BatchFit:
    """Fit one linear mixed model to many responses: genes, voxels, simulations.

    The responses share the model matrices; after one pass over them all fits run side by side as arrays. Each equals
    :func:`lmm.lmer` of that response.

    Parameters
    ----------
    formula : ``"~ x + (x|g)"``; a name left of ``~`` stands for each response in turn and is not looked up.
    data : pandas, polars or pyarrow table, or a mapping of arrays, with the predictors; N rows. Never modified.
    responses : table (its columns name the responses), array (N, R), mapping of names to arrays (N,), or a list of names of columns of
        ``data``. Rows are matched by position. NaN is a missing value: that response is fitted to the rows that it has.
    REML, weights, offset, contrasts, covariance, residual, dispformula : as in :func:`lmm.lmer`, for all responses; with one of the last
        two one fit follows another.
    subset : rows to use, as in :func:`lmm.lmer`.
    na_action : "omit" leaves out rows with a missing predictor, and of each response the rows that it lacks; "fail" refuses both.
    control : :class:`lmm.Control`, tolerances and limits of fits that are finished one by one.
    progress : True shows a progress bar, False none; None one where the work takes more than two seconds in a terminal or notebook.

    Returns
    -------
    :class:`lmm.BatchFit`: ``.beta``, ``.se``, ``.theta``, ... as arrays, ``.tidy()`` as one table, ``batch[name]`` an ordinary fit.

    Raises
    ------
    LmmError : where the model cannot be fitted to any response. One that cannot be fitted by itself (constant, infinite, all missing, too
        few rows) is NaN in the arrays, with the reason in ``.failures``, and warned of once for all.

    Notes
    -----
    Columns that depend on the whole data, ``scale(x)`` or ``poly(x, 2)``, are computed once, from all rows used.

    Examples
    --------
    >>> import numpy as np, lmm
    >>> sleep = lmm.datasets.load("sleepstudy")
    >>> Y = sleep[["Reaction"]].assign(log=np.log(sleep["Reaction"]))
    >>> lmm.lmer_batch("~ Days + (Days|Subject)", sleep, Y).fixef().round(3)
              Intercept    Days
    Reaction    251.405  10.467
    log           5.530   0.034
    """
    given = Given(weights, offset, subset, na_action, contrasts, caller(), covariance)
    estimator = choose_estimator(REML, None, control)
    single = partial(run, REML=REML, residual=residual, control=control)
    model = with_dispersion(_one_sided(formula), dispformula)
    model = with_residuals(model, residual, estimator, covariance)
    assert isinstance(model, Formula)
    return _fit(model, data, responses, given, estimator, single, None, progress)


@checked
def glmer_batch(
    formula: str,
    data: object,
    responses: object,
    *,
    family: str | Family | type[Family],
    weights: object = None,
    offset: object = None,
    subset: object = None,
    na_action: str = "omit",
    contrasts: Mapping[str, object] | None = None,
    covariance: Mapping[str, object] | None = None,
    control: Control | None = None,
    progress: bool | None = None,
) -> BatchFit:
    """Fit one generalized linear mixed model to many responses, by Laplace's method.

    With one grouping factor of up to three effects per level all fits run side by side as arrays; other models are fitted one response
    after another. Each equals :func:`lmm.glmer` of that response.

    Parameters
    ----------
    formula, data, responses, subset, na_action, contrasts, covariance, control, progress : as in :func:`lmm.lmer_batch`.
    family : name or object, as in :func:`lmm.glmer`; not an ordinal one. A dispersion is estimated for each response.
    weights : trials of binomial proportions, else prior weights, for all responses.
    offset : known component of the linear predictor.

    Returns
    -------
    :class:`lmm.BatchFit`. Standard errors, from the Hessian over all parameters, are computed when first asked for.

    Raises
    ------
    LmmError : as in :func:`lmm.lmer_batch`.

    Examples
    --------
    >>> import lmm
    >>> grouse = lmm.datasets.load("grouseticks")
    >>> fit = lmm.glmer("TICKS ~ YEAR + (1|BROOD)", grouse, family="poisson")
    >>> batch = lmm.glmer_batch("~ YEAR + (1|BROOD)", grouse, fit.simulate(20, rng=1), family="poisson")
    >>> bool(batch.converged.all()), batch.beta.shape
    (True, (20, 3))
    """
    given = Given(weights, offset, subset, na_action, contrasts, caller(), covariance)
    found = families.get(family)
    found.require_mean(
        f"glmer_batch: family {found.name!r} has thresholds, which differ in number; use glmer() for each response."
    )
    single = partial(run_generalized, family=found, control=control)
    estimator = LaplaceLikelihood(check_control(control))
    model = _one_sided(formula)
    return _fit(model, data, responses, given, estimator, single, found, progress)


class _Unread:
    """A stand-in for the family while a design without a response is built."""

    has_intercept, scales_rows = True, False

    @staticmethod
    def response(values: object, name: str) -> tuple[np.ndarray, None]:
        return np.asarray(values), None


def _fit(
    parsed: Formula,
    data: object,
    responses: object,
    given: Given,
    estimator: Estimator,
    single: Callable[..., Fit],
    family: Family | None,
    progress: bool | None,
) -> BatchFit:
    if estimator.control.evaluate_only:
        raise ArgumentError(
            "control=lmm.Control(evaluate_only=True) evaluates at parameters of one response; use lmer() or glmer()."
        )
    if estimator.control.checkpoint is not None:
        raise ArgumentError(
            "checkpoint= holds the last iterate of one fit, not of a batch; use lmer() or glmer()."
        )
    table = Table(data)
    Y = read_responses(responses, table)
    with threads.limited():
        design, problem = _model(parsed, table, Y, given, family)
        values = design.aligned(Y.values)
        if given.na_action == "fail" and np.isnan(values).any():
            first = int(np.flatnonzero(np.isnan(values).any(axis=0))[0])
            lost = int(np.isnan(values[:, first]).sum())
            raise DataError(
                f"the response {Y.names[first]!r} is missing in {lost} rows, and na_action='fail'; use na_action='omit'."
            )
        with bar(values.shape[1], "responses", progress) as told:
            found = many.fit_responses(design, problem, estimator, values, told)
    rows = design.subset if callable(given.subset) else given.subset  # a function need not pickle
    given = replace(given, subset=rows, context=_used(design, given))
    batch = found.batch
    failures = {r: f"{why}." for r, why in batch.failures.items()}
    messages = {r: said[0] for r, said in found.messages.items()}
    for texts, what, where in (
        (failures, "could not be fitted or did not converge", ".failures"),
        (messages, "do not bound their estimates", ".messages"),
    ):
        if texts:
            first = min(texts)
            head = f"{len(texts)} of {batch.size} responses {what}; the first is {Y.names[first]!r}"
            warn(f"{head}: {texts[first]} {where} has all of them.", ConvergenceWarning)
    return BatchFit(
        responses=Y.names,
        design=design,
        problem=problem,
        estimator=estimator,
        batch=batch,
        nobs=found.n,
        like=found.like,
        values=values,
        said=found.messages,
        one=_One(design.formula, table, Y, given, single, found),
    )


def _one_sided(formula: object) -> Formula:
    """The formula without what is left of ``~``, which may be a name."""
    if not isinstance(formula, str):
        raise FormulaError(
            f"a formula is a string such as '~ x + (1|g)', not {type(formula).__name__}."
        )
    if not formula.partition("~")[0].strip():
        return parse(formula, one_sided=True)
    parsed = parse(formula)
    if len(scan(parsed.response)) > 1:
        span = (formula.index("~") - len(formula.partition("~")[0].lstrip()), formula.index("~"))
        what = "left of '~' stands nothing, or a name for each response in turn; transform the responses themselves."
        raise FormulaError(what, formula, span)
    return replace(parsed, response="")


def _model(
    parsed: Formula, table: Table, Y: Responses, given: Given, family: Family | None
) -> tuple[Design, AnyProblem]:
    """Design and problem that all responses share, with a response that stands for none of them."""
    if parsed.has_dot:
        taken = {str(name) for name in Y.names}
        parsed = parsed.with_dot(
            tuple(name for name in other_columns(parsed, table) if name not in taken)
        )
    name = "response"
    while name in table:
        name += "_"
    noise = np.random.default_rng().normal(
        size=table.n
    )  # from the system's entropy: no column of the user's is equal to it
    given = replace(given, context={**given.context, name: noise})
    design = build_design(replace(parsed, response=name), table.native, given, family and _Unread())
    design = replace(design, formula=parsed, response="response")
    problem = problem_of(design) if family is None else build_generalized(design, family)
    return replace(design, plan=problem.plan, family=family), problem


def _used(design: Design, given: Given) -> dict[str, object]:
    """The caller's variables that the formula and a condition on the rows use."""
    names = [*design.frame.context, *design.frame.arrays]
    if isinstance(given.subset, str):
        names += [name.split(".")[0] for name, _, _ in names_in(given.subset)]
    return {name: given.context[name] for name in names if name in given.context}


@dataclass(frozen=True, eq=False)
class _One:
    """The ordinary fit of one response, from its estimates where there are such."""

    parsed: Formula
    table: Table
    Y: Responses
    given: Given
    single: Callable[..., Fit]
    found: many.Many

    def __call__(self, r: int) -> Fit:
        """The fit of the response at position r."""
        frame = self.table.to_pandas()
        values, name = self.Y.values[:, r], self.Y.names[r]
        name = name if isinstance(name, str) else f"y{name}"
        while name in frame and not _same(frame[name], values):
            name += "_"
        formula = replace(self.parsed, response=quote(name))
        formula = replace(formula, text=str(formula))
        return self.single(
            formula, frame.assign(**{name: values}), given=self.given, start=self._start(r)
        )

    def _start(self, r: int) -> dict[str, object] | None:
        """Parameters to begin from: the estimates of the batch, where it has them."""
        batch, family = self.found.batch, self.found.like.family
        if (
            r in batch.failures
            or not np.isfinite(batch.beta[r]).all()
            or not np.isfinite(batch.objective[r])
        ):
            return None
        start: dict[str, object] = {"theta": batch.theta[r]}
        if family is not None:
            start["beta"] = batch.beta[r]
            if family.has_dispersion and batch.phi is not None:
                start["phi"] = batch.phi[r]
        return start


def _same(column: object, values: np.ndarray) -> bool:
    try:
        return bool(np.array_equal(np.asarray(column, dtype=float), values, equal_nan=True))
    except (TypeError, ValueError):
        return False
