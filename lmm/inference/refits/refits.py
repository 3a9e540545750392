"""One model fitted again and again: to other responses, without some rows, to levels drawn again.

A linear model by ML or REML goes through :mod:`lmm.estimators.likelihood.many_linear`, all refits side by side, and other responses of a
generalized model with one grouping factor through :mod:`lmm.estimators.laplace.many_generalized`; every other model is fitted one refit
after another by its own estimator, from the estimates of the first. Either way the answers are those of single fits, and what
goes wrong is kept with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeGuard, TypeVar, cast

import numpy as np
import pandas as pd

from lmm.design.design import Design, Predictor
from lmm.design.rank import independent_columns
from lmm.errors import DataError, LmmError
from lmm.estimators.estimator import Estimator
from lmm.estimators.laplace import many_generalized
from lmm.estimators.laplace.laplace_likelihood import LaplaceLikelihood
from lmm.estimators.likelihood import many_linear
from lmm.estimators.likelihood.many_linear import Batch
from lmm.estimators.likelihood.maximum_likelihood import MaximumLikelihood
from lmm.linalg import threads
from lmm.model.gaussian import batch_sums
from lmm.model.gaussian.batched import Levels, Stacked
from lmm.model.gaussian.determined import determined
from lmm.model.problem_kinds import AnyProblem, GeneralizedProblem, Problem
from lmm.model.records import Convergence, Estimate

Progress = Callable[[int], None]
#: builds a problem when it is its turn
Make = Callable[[], AnyProblem]
P = TypeVar("P", bound=AnyProblem)

#: numbers of responses held at a time
HELD = 20_000_000
#: numbers of one refit's sums up to which refits without some rows are held side by side
SUMS_LIMIT = 200_000


def is_batched(problem: Any, estimator: Estimator) -> TypeGuard[Problem]:
    """Whether refits can be made side by side."""
    plain = (
        type(estimator) is MaximumLikelihood
        and estimator.sigma is None
        and not estimator.control.evaluate_only
    )
    if problem.plan is None:
        return False
    if not (plain and problem.centred is None and many_linear.takes(problem)):
        return False
    return determined(problem, bool(estimator.reml)).all


def is_laplace(problem: AnyProblem, estimator: Estimator) -> TypeGuard[GeneralizedProblem]:
    """Whether refits of a generalized model can be made side by side."""
    plain = (
        type(estimator) is LaplaceLikelihood and estimator.nagq == 1 and not estimator.second_order
    )
    return plain and not estimator.control.evaluate_only and many_generalized.takes(problem)


def _laplace(
    design: Design,
    problem: GeneralizedProblem,
    estimator: Estimator,
    estimate: Estimate,
    Y: np.ndarray,
    modes: bool,
    progress: Progress | None,
    first: bool,
) -> Batch:
    """Fits of a generalized model to responses (n, R), NaN where one is missing."""

    def finish(r: int, begin: np.ndarray | None) -> tuple[Estimate | None, str | None]:
        return finished(partial(of_present, design, problem, Y[:, r]), estimator, begin)

    point = None if first else (estimate.beta, estimate.phi)
    return many_generalized.fit_responses(
        problem, estimator, estimate.theta, Y, finish, point, modes, progress
    )


def of_responses(
    design: Design,
    problem: AnyProblem,
    estimator: Estimator,
    estimate: Estimate,
    slabs: Iterable[np.ndarray],
    modes: bool = False,
    progress: Progress | None = None,
    first: bool = False,
) -> Batch:
    """Refits to responses (n, R), given in ``slabs`` of as many columns as are to be held at a time.

    ``first`` says that they are no refits: each is looked for as a single fit without starting values looks for it.
    """
    if is_laplace(problem, estimator):
        return many_linear.join(
            [
                _laplace(design, problem, estimator, estimate, slab, modes, progress, first)
                for slab in slabs
            ]
        )
    if not is_batched(problem, estimator):
        columns = (column for slab in slabs for column in slab.T)
        return one_by_one(
            (_other_response(design, problem, y) for y in columns),
            estimator,
            estimate,
            modes,
            progress,
            first,
        )
    size = many_linear.block_size(problem)
    parts = []
    for slab in slabs:
        parts.append(
            _side_by_side(design, problem, estimator, estimate, slab, size, modes, progress, first)
        )
    return many_linear.join(parts)


def _side_by_side(
    design: Design,
    problem: Problem,
    estimator: Estimator,
    estimate: Estimate,
    Y: np.ndarray,
    size: int,
    modes: bool,
    progress: Progress | None,
    first: bool,
) -> Batch:
    R = Y.shape[1]
    cuts = [
        c
        for c in np.array_split(np.arange(R), max(-(-R // size), min(R // 64, threads.cores()), 1))
        if len(c)
    ]
    offsets = np.zeros((R, problem.p))
    rows = batch_sums.Rows(problem, design)

    def block(columns: np.ndarray) -> Callable[[], Levels | Stacked]:
        def make() -> Levels | Stacked:
            data, offsets[columns] = batch_sums.responses(
                rows, Y[:, columns[0] : columns[-1] + 1], bool(estimator.reml)
            )
            return data

        return make

    def finish(r: int, theta: np.ndarray | None) -> tuple[Estimate | None, str | None]:
        return finished(lambda: _other_response(design, problem, Y[:, r]), estimator, theta)

    blocks, counts = [block(columns) for columns in cuts], [len(columns) for columns in cuts]
    limit, theta = estimator.control.max_evaluations, estimate.theta
    return many_linear.fit_blocks(
        problem,
        bool(estimator.reml),
        theta,
        blocks,
        counts,
        finish,
        offsets,
        modes,
        progress,
        first,
        limit,
    )


def _other_response(design: Design, problem: AnyProblem, y: np.ndarray) -> AnyProblem:
    return problem.with_response(replace(design, y=np.ascontiguousarray(y)))


def attempt(
    make: Make, estimator: Estimator, start: np.ndarray | None
) -> tuple[Estimate | None, str | None]:
    """An estimate, or None, and what is wrong with it."""
    try:
        found: Estimate = estimator.fit(make(), start)
    except (LmmError, np.linalg.LinAlgError, FloatingPointError) as error:
        return None, f"{type(error).__name__}: {error}"
    if not found.convergence.converged:
        return found, f"did not converge: {found.convergence.message}"
    return found, None


def finished(
    make: Make, estimator: Estimator, start: np.ndarray | None
) -> tuple[Estimate | None, str | None]:
    """The same; where a start beside the optimum leaves nothing to gain, and so no convergence, from starting values of its own."""
    found, why = attempt(make, estimator, start)
    if start is not None and why is not None:
        other, reason = attempt(make, estimator, None)
        if reason is None:
            return other, None
    return found, why


def one_by_one(
    problems: Iterable[Make | AnyProblem],
    estimator: Estimator,
    estimate: Estimate,
    modes: bool,
    progress: Progress | None,
    first: bool = False,
) -> Batch:
    """Refits one after another, each from the estimates of the first fit; an item may be a problem or what makes one.

    With ``first`` each finds starting values of its own.
    """
    start = None if first else estimate.parameters
    found: list[Estimate | None] = []
    failures: dict[int, str] = {}
    with threads.limited():
        for i, item in enumerate(problems):
            own, why = attempt(partial(_made, item), estimator, start)
            found.append(own)
            if why is not None:
                failures[i] = why
            if progress is not None:
                progress(1)
    return stack(found, estimate, failures, modes)


def _mode(t: int, estimate: Estimate) -> np.ndarray:
    return estimate.modes[t]


def _made(item: Make | AnyProblem) -> AnyProblem:
    return item() if callable(item) else item


def stack(
    found: Sequence[Estimate | None], like: Estimate, failures: dict[int, str], modes: bool
) -> Batch:
    """Single estimates as a batch; NaN for those that are not there."""
    R = len(found)

    def gather(get: Callable[[Estimate], float | np.ndarray]) -> np.ndarray:
        shape = np.shape(get(like))
        out = np.full((R, *shape), np.nan)
        for i, own in enumerate(found):
            if own is not None and np.shape(get(own)) == shape:
                out[i] = get(own)
        return out

    own_modes = tuple(gather(partial(_mode, t)) for t in range(len(like.modes))) if modes else ()
    return Batch(
        gather(lambda e: e.theta),
        gather(lambda e: e.beta),
        gather(lambda e: e.beta_cov_unscaled),
        gather(lambda e: e.sigma),
        gather(lambda e: e.objective),
        own_modes,
        np.array([0 if own is None else own.convergence.evaluations for own in found]),
        failures,
        gather(lambda e: np.atleast_1d(e.phi)),
    )


def estimate_of(design: Design, like: Estimate, refits: Batch, r: int) -> Estimate:
    """The estimate of refit r, the others of which are alike; the inverse of :func:`stack`."""
    sizes = [term.structure.n_theta for term in design.varying]
    split = np.split(refits.theta[r], np.cumsum(sizes)[:-1])
    factors = tuple(
        term.structure.factor(theta) for term, theta in zip(design.varying, split, strict=True)
    )
    phi, message = like.phi, refits.failures.get(r)
    if refits.phi is not None:
        phi = refits.phi[r] if np.ndim(like.phi) else float(refits.phi[r, 0])
    return replace(
        like,
        beta=refits.beta[r],
        beta_cov_unscaled=refits.beta_cov_unscaled[r],
        theta=refits.theta[r],
        factors=factors[: len(design.terms)],
        residual=factors[len(design.terms) :],
        sigma=float(refits.sigma[r]),
        phi=phi,
        modes=tuple(np.array(modes[r]) for modes in refits.modes),
        objective=float(refits.objective[r]),
        convergence=Convergence(
            not message, message or "refitted", 0, int(refits.evaluations[r]), 0, float("nan")
        ),
        trace=(),
        messages=(),
        eta=None,
    )


def without(
    design: Design,
    problem: AnyProblem,
    estimator: Estimator,
    estimate: Estimate,
    rows: Sequence[np.ndarray],
    progress: Progress | None = None,
) -> Batch:
    """Refits that leave out rows[i], each from the estimates of the whole."""
    few = is_batched(problem, estimator) and _sums(problem) <= SUMS_LIMIT
    if problem.related or not (is_batched(problem, estimator) and few):
        return one_by_one(_subsets(design, problem, rows), estimator, estimate, False, progress)

    def data(which: np.ndarray, reml: bool) -> Levels | Stacked:
        return batch_sums.without(problem, design, [rows[i] for i in which], reml)

    def single(r: int) -> Make:
        return next(_subsets(design, problem, [rows[r]]))

    return _changed(problem, estimator, estimate, len(rows), data, single, progress)


def _sums(problem: Problem) -> int:
    """Numbers in the sums of one problem that shares none of them."""
    sizes = problem.plan.terms
    return (
        sizes[0].J * sizes[0].k * (sizes[0].k + problem.p)
        if problem.plan.by_level
        else sum(s.k * s.J for s in sizes) ** 2
    )


def _changed(
    problem: Problem,
    estimator: Estimator,
    estimate: Estimate,
    R: int,
    data: Callable[[np.ndarray, bool], Levels | Stacked],
    single: Callable[[int], Make],
    progress: Progress | None,
    first: bool = False,
    offsets: np.ndarray | None = None,
) -> Batch:
    """R refits side by side of problems with sums of their own.

    ``data(which, reml)`` gives the sums of some; ``single(r)`` what makes one by itself.
    ``offsets`` (R, p) are the coefficients that their residuals are taken from, which ``data`` may fill in.
    """
    size = max(16, min(many_linear.block_size(problem), HELD // max(_sums(problem), 1)))
    cuts = [c for c in np.array_split(np.arange(R), max(-(-R // size), 1)) if len(c)]

    def finish(r: int, theta: np.ndarray | None) -> tuple[Estimate | None, str | None]:
        return finished(single(r), estimator, theta)

    blocks = [partial(data, which, bool(estimator.reml)) for which in cuts]
    counts = [len(which) for which in cuts]
    offsets = np.repeat(problem.beta0[None], R, axis=0) if offsets is None else offsets
    limit, theta = estimator.control.max_evaluations, estimate.theta
    return many_linear.fit_blocks(
        problem,
        bool(estimator.reml),
        theta,
        blocks,
        counts,
        finish,
        offsets,
        False,
        progress,
        first,
        limit,
    )


def of_observed(
    design: Design,
    problem: AnyProblem,
    estimator: Estimator,
    estimate: Estimate,
    Y: np.ndarray,
    progress: Progress | None = None,
) -> Batch:
    """Fits to responses (n, R) of which each lacks rows of its own (NaN), one grouping factor; each as if it were the first."""
    if isinstance(problem, GeneralizedProblem):
        return _laplace(design, problem, estimator, estimate, Y, False, progress, True)
    problem = problem.as_linear()
    rows = batch_sums.Rows(problem, design)
    offsets = np.zeros((Y.shape[1], problem.p))

    def data(which: np.ndarray, reml: bool) -> Levels:
        sums, offsets[which] = batch_sums.observed(rows, Y[:, which], reml)
        return sums

    def single(r: int) -> Make:
        return partial(of_present, design, problem, Y[:, r])

    return _changed(problem, estimator, estimate, Y.shape[1], data, single, progress, True, offsets)


def of_present(design: Design, problem: P, y: np.ndarray) -> P:
    """The problem of one response in the rows that it has."""
    design, which = replace(design, y=np.ascontiguousarray(y)), np.flatnonzero(~np.isnan(y))
    if len(which) == design.n:
        return cast(P, problem.with_response(design))
    own = design_of_rows(design, which, {})
    return cast(P, problem.of(own))


def _subsets(design: Design, problem: AnyProblem, rows: Sequence[np.ndarray]) -> Iterator[Make]:
    """What makes the problem without rows[i], i by i."""
    for out in rows:
        keep = np.ones(design.n, dtype=bool)
        keep[out] = False
        which = np.flatnonzero(keep)
        yield partial(of_rows, design, problem, which, {})


def of_rows(design: Design, problem: P, which: np.ndarray, codes: dict[int, np.ndarray]) -> P:
    """The problem of some rows, repeated ones among them."""
    return cast(P, problem.of(design_of_rows(design, which, codes)))


def design_of_rows(design: Design, which: np.ndarray, codes: dict[int, np.ndarray]) -> Design:
    """The design of some rows, repeated ones among them; ``codes`` gives a term others in these rows. Levels without a row are dropped.

    Raises
    ------
    DataError : where the rows leave the fixed columns dependent.
    """
    own = some_rows(design, which, codes)
    kept, R = independent_columns(own.X, own.weights)
    if len(kept) < design.p:
        lost = [name for i, name in enumerate(design.names) if i not in kept]
        raise DataError(f"these rows say nothing of {', '.join(lost)}")
    return own.with_mean(R=R)


def some_rows(design: Design, which: np.ndarray, codes: dict[int, np.ndarray]) -> Design:
    """The same, to be looked at and not to be fitted: the fixed columns may be dependent."""
    others = [_predictor_of_rows(predictor, which, {}) for predictor in design.predictors[1:]]
    return replace(
        design,
        predictors=(_predictor_of_rows(design.mean, which, codes), *others),
        residual=tuple(part.of_rows(which) for part in design.residual),
        y=design.y[which],
        weights=None if design.weights is None else design.weights[which],
        index=pd.RangeIndex(len(which)),
        kept=np.ones(len(which), dtype=bool),
        full_index=pd.RangeIndex(len(which)),
        subset=None,
        family=None,
        call=None,
        plan=None,
    )


def _predictor_of_rows(
    predictor: Predictor, which: np.ndarray, codes: dict[int, np.ndarray]
) -> Predictor:
    terms = []
    for t, term in enumerate(predictor.terms):
        terms.append(term.of_rows(which, codes.get(t)))
    offset = None if predictor.offset is None else predictor.offset[which]
    return replace(predictor, X=predictor.X[which], terms=tuple(terms), offset=offset, R=None)


def of_levels(
    design: Design,
    problem: AnyProblem,
    estimator: Estimator,
    estimate: Estimate,
    t: int,
    levels: np.ndarray,
    progress: Progress | None = None,
) -> Batch:
    """Refits to levels of term t drawn again: ``levels`` (R, J), each with all of its rows, a repeated one as another level.

    Levels of other terms that lie within one level of t become levels of their own in every copy; crossed ones stay what they are.
    """
    if problem.related or not (is_batched(problem, estimator) and problem.plan.by_level):
        return one_by_one(_copies(design, problem, t, levels), estimator, estimate, False, progress)

    def data(which: np.ndarray, reml: bool) -> Levels:
        return batch_sums.drawn(problem, design, levels[which], reml)

    def single(r: int) -> Make:
        return next(_copies(design, problem, t, levels[r : r + 1]))

    return _changed(problem, estimator, estimate, len(levels), data, single, progress)


def _copies(design: Design, problem: AnyProblem, t: int, levels: np.ndarray) -> Iterator[Make]:
    for own in levels:
        yield partial(of_rows, design, problem, *copies(design, t, own))


def copies(design: Design, t: int, levels: np.ndarray) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Rows of the given levels of term t, each time as another level, and the codes of t and of what lies within it."""
    term = design.terms[t]
    order, starts = term.sorted_rows()
    which = np.concatenate([order[starts[j] : starts[j + 1]] for j in levels])
    copy = np.repeat(np.arange(len(levels)), np.diff(starts)[levels])
    inside = [s for s in range(len(design.terms)) if s != t and design.terms[s].within(term)]
    return which, {t: copy} | {
        s: copy * design.terms[s].J + design.terms[s].codes[which] for s in inside
    }
