"""The sums of all rows -> the design and the problem of an ordinary fit.

Levels are put into the order that a fit in memory gives them, dependent fixed columns are found from their centred and scaled
cross-products, and the response is replaced by its least-squares residual: with r = y - X beta_pilot summed by chunks,
y0 = r - X delta, delta = (X'WX)^-1 X'Wr, needs sums only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from time import perf_counter

import numpy as np
from scipy.linalg import solve_triangular

from lmm.design.build_design import dependent_columns, names_kept
from lmm.design.design import Design, Predictor, RowSource
from lmm.design.level_checks import check_effects, check_levels
from lmm.design.rank import TOLERANCE
from lmm.design.terms import RandomTerm
from lmm.errors import ResponseError
from lmm.formula import TermRecipe
from lmm.model.gaussian.crossproducts import CrossProducts, Pairs
from lmm.model.problem import PERFECT, Problem, assemble
from lmm.stream.absent import ABSENT, Witnesses
from lmm.stream.levels.found_levels import unkey
from lmm.stream.levels.pairs import PairSums
from lmm.stream.partial import RESIDUAL, Numbered, PartialSums, TermSums, products_of
from lmm.stream.recipe import Recipe, TermColumns

#: cross-products know the square of a length to this relative precision, whatever the rule of the rows is
PRECISION = 1e-13


def finish(
    recipe: Recipe,
    sums: PartialSums,
    backend: str | Callable[[Design], str] = "numpy",
    factorization: str = "auto",
) -> tuple[Design, Problem]:
    """Design and problem of a linear model; the sums are used up.

    Parameters
    ----------
    recipe, sums : what was summed, and its sums over all rows.
    backend : "numpy" or "jax", or what chooses it for a design.
    factorization : as in :class:`lmm.Control`.

    Raises
    ------
    DataError, ResponseError, GroupingError : the rows cannot carry the model.
    """
    start = perf_counter()
    sums.counts.refuse_empty(sums.n)
    if sums.least == sums.most:
        raise ResponseError(
            f"the response {recipe.response!r} is constant ({sums.least:g}); there is nothing to model."
        )
    ordered = ordered_terms(recipe, sums)
    for own in ordered:
        check_effects(own.term, recipe.formula.bars_of(own.recipe.factors), sums.n)
    kept, R, delta, gram = _fixed(recipe, sums)
    design = streamed_design(recipe, sums, ordered, kept, R)
    _check_residual(gram[-1, -1], sums, recipe)
    diag, rhs, pairs = by_level(recipe, sums, ordered, [recipe.fixed[j] for j in kept], delta)
    design = with_grams(design, diag)
    cross = CrossProducts(diag, rhs, pairs, gram, sums.n, sums.sum_log_weights)
    moments = (sums.total, float(np.sqrt(sums.spread / sums.n)))
    beta0 = recipe.pilot[kept] + delta
    engine = backend if isinstance(backend, str) else backend(design)
    seconds = {"cross-products": perf_counter() - start}
    return design, assemble(
        cross, design.terms, R, beta0, design.names, moments, seconds, engine, factorization
    )


@dataclass(frozen=True, eq=False)
class OrderedTerm:
    """One random term when its levels are known.

    Attributes
    ----------
    place : its number as written.
    term, recipe : of the design, and what replays it.
    order : ids of its levels in their order; ``numbered`` finds the places of rows in it.
    """

    place: int
    term: RandomTerm
    recipe: TermRecipe
    order: np.ndarray
    numbered: Numbered


def ordered_terms(recipe: Recipe, sums: PartialSums) -> list[OrderedTerm]:
    """The random terms of all rows, most levels first.

    Raises
    ------
    GroupingError : a grouping factor with a single level.
    """
    out = []
    for place, (written, own) in enumerate(zip(recipe.terms, sums.terms, strict=True)):
        order, numbered = own.numbered()
        replay = replace(written.recipe, levels=own.levels.values(order))
        term = RandomTerm(
            ABSENT, ABSENT, replay.group, replay.columns, replay.levels, written.structure
        )
        out.append(OrderedTerm(place, term, replay, order, numbered))
    out.sort(key=lambda one: -len(one.order))
    for one in out:
        check_levels(one.term)
    return out


def by_level(
    recipe: Recipe,
    sums: PartialSums,
    ordered: Sequence[OrderedTerm],
    fixed: list[int],
    delta: np.ndarray,
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], dict[tuple[int, int], Pairs]]:
    """``diag``, ``rhs`` and ``pairs`` of :class:`lmm.model.gaussian.crossproducts.CrossProducts`; the sums are let go.

    Parameters
    ----------
    fixed : places in the pool of the fixed columns.
    delta : the step from the pilot's coefficients of these to the final ones.
    """
    diag, rhs = [], []
    for one in ordered:
        A, right = _term(
            recipe, recipe.terms[one.place], sums.terms[one.place], one.order, fixed, delta
        )
        diag.append(A)
        rhs.append(right)
    pairs = {}
    for (i, one), (j, other) in combinations(enumerate(ordered), 2):
        first, second = sorted((one, other), key=lambda own: own.place)
        shape = (first.term.k, second.term.k)
        found = sums.pairs.pop((first.place, second.place))
        pairs[i, j] = _pairs(
            found, first.numbered, second.numbered, shape, first is not one, other.term.J
        )
    return tuple(diag), tuple(rhs), pairs


def _fixed(
    recipe: Recipe, sums: PartialSums
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Columns kept, their triangle R, the step from the pilot to least squares, and [X y0]'W[X y0].

    With X = C M, C the centred columns and M the identity with the centres in its first row (the column of ones comes first),
    all that cancels is done with C.
    """
    p = len(recipe.fixed)
    gram, centre = _of_fixed(recipe, sums.gram), recipe.centre[list(recipe.fixed)]
    M = np.eye(p)
    if centre.any():
        M[0] += centre
    length = np.sqrt(np.maximum(np.diagonal(M.T @ gram[:p, :p] @ M), 0.0))
    kept, triangle = independent_in_gram(gram[:p, :p], length)
    M = M[np.ix_(kept, kept)]
    right = gram[kept, p]
    half = solve_triangular(triangle, right, trans="T") if len(kept) else right
    step = solve_triangular(triangle, half) if len(kept) else right
    R = triangle @ M
    out = np.empty((len(kept) + 1, len(kept) + 1))
    out[:-1, :-1] = R.T @ R
    out[-1, :-1] = out[:-1, -1] = M.T @ (right - gram[np.ix_(kept, kept)] @ step)
    out[-1, -1] = gram[p, p] - half @ half
    return kept, R, np.linalg.solve(M, step) if len(kept) else step, out


def _of_fixed(recipe: Recipe, gram: np.ndarray) -> np.ndarray:
    """The part of the fixed columns and the residual, symmetric."""
    own = [*(1 + c for c in recipe.fixed), len(gram) - 1]
    return np.asarray((gram + gram.T)[np.ix_(own, own)] / 2)


def raw_moments(recipe: Recipe, gram: np.ndarray) -> np.ndarray:
    """(m + 1, m + 1), [1, U]'[1, U] from the centred cross-products."""
    C = (gram + gram.T)[:-1, :-1] / 2
    M = np.eye(len(C))
    M[0, 1:] += recipe.centre
    return np.asarray(M.T @ C @ M)


def independent_in_gram(gram: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Independent columns from their cross-products, in order, and the triangle of those (Cholesky of columns of length one).

    The rule is that of the rows: a column depends on those before it when what is left of it is shorter than 1e-7 of its
    ``length``, the length that it had before it was centred; and not less than what rounding leaves of a square. What is left is
    d'Gd with d = (-c, 1), c the coefficients of the column on those kept, so that rounding in G enters |d|_1^2 times (Higham,
    Accuracy and Stability of Numerical Algorithms, 2nd ed., section 10.1).
    """
    scale = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    scale = np.where(scale > 0, scale, 1.0)
    scaled = gram / np.outer(scale, scale)
    kept: list[int] = []
    L = np.zeros((0, 0))
    for j in range(len(gram)):
        row = solve_triangular(L, scaled[kept, j], lower=True) if kept else np.zeros(0)
        left = scaled[j, j] - row @ row
        known = (
            1.0 + float(np.abs(solve_triangular(L, row, lower=True, trans="T")).sum())
            if kept
            else 1.0
        )
        if (
            gram[j, j] > 0
            and left > PRECISION * known**2
            and left * scale[j] ** 2 > (TOLERANCE * length[j]) ** 2
        ):
            grown = np.zeros((len(kept) + 1, len(kept) + 1))
            grown[:-1, :-1], grown[-1, :-1], grown[-1, -1] = L, row, np.sqrt(left)
            kept.append(j)
            L = grown
    return np.array(kept, dtype=int), L.T * scale[kept]


def streamed_design(
    recipe: Recipe,
    sums: PartialSums,
    ordered: Sequence[OrderedTerm],
    kept: np.ndarray,
    R: np.ndarray,
) -> Design:
    """The design of all rows, without the rows."""
    all_names = tuple(recipe.pool[c] for c in recipe.fixed)
    names, dropped = names_kept(all_names, kept)
    messages = dependent_columns(dropped)
    frame = replace(
        recipe.frame,
        table=Witnesses(recipe.frame.table.native),
        terms=tuple(one.recipe for one in ordered),
    )
    source = RowSource(
        n=sums.n,
        asked=sums.counts.asked,
        recipe=recipe,
        columns=kept,
        moments=raw_moments(recipe, sums.gram if sums.plain is None else sums.plain),
        response=np.array(
            [sums.total, sums.spread, sums.least, sums.most, sums.offset_sum, sums.sum_log_weights]
        ),
        offset_mean=sums.offset_sum / sums.n,
        covariates={
            name: (covariate.total / sums.n, covariate.distinct)
            for name, covariate in sums.covariates.items()
        },
    )
    terms = tuple(one.term for one in ordered)
    offset = ABSENT if recipe.offset_texts() else None
    mean = Predictor("mean", ABSENT, names, dropped, all_names, terms, offset, R)
    return Design(
        formula=recipe.formula,
        frame=frame,
        y=ABSENT,
        predictors=(mean,),
        weights=ABSENT if recipe.weights else None,
        index=ABSENT,
        kept=ABSENT,
        full_index=ABSENT,
        na_action=recipe.na_action,
        response=recipe.response,
        messages=messages,
        family=recipe.family,
        source=source,
    )


def with_grams(design: Design, diag: Sequence[np.ndarray]) -> Design:
    """The design with the mean of z z' of each term, from the sums (k, k, J) of its levels."""
    grams = {
        term.group: A.sum(axis=-1) / design.n for term, A in zip(design.terms, diag, strict=True)
    }
    return replace(design, source=replace(design.chunks, grams=grams))


def _check_residual(left: float, sums: PartialSums, recipe: Recipe) -> None:
    if left <= PERFECT * max(sums.square, 1e-300):
        raise ResponseError(
            f"The fixed effects explain the response {recipe.response!r} exactly, so there is nothing left for random effects "
            "or a residual variance. Check for a predictor that is a copy of the response."
        )


def _term(
    recipe: Recipe,
    term: TermColumns,
    sums: TermSums,
    order: np.ndarray,
    fixed: list[int],
    delta: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Z'WZ (k, k, J) and Z'W[X y0] (p + 1, k, J) in the order of the levels; the sums by position are let go."""
    place = {product: i for i, product in enumerate(products_of(recipe, term))}
    at = order - sums.low
    k, J = len(term.pool), len(order)

    def row(a: int, b: int) -> np.ndarray:
        return sums.sums[place[(a, b) if a == RESIDUAL else (min(a, b), max(a, b))]][at]

    diag, rhs = np.empty((k, k, J)), np.empty((len(fixed) + 1, k, J))
    for i, a in enumerate(term.pool):
        for j, b in enumerate(term.pool[: i + 1]):
            diag[i, j] = row(a, b)
            diag[j, i] = diag[i, j]
        for c, column in enumerate(fixed):
            rhs[c, i] = row(column, a)
        rhs[-1, i] = row(RESIDUAL, a)
        for c, step in enumerate(delta):
            rhs[-1, i] -= step * rhs[c, i]
    sums.sums = np.zeros((0, 0))
    return diag, rhs


def _pairs(
    sums: PairSums,
    first: Numbered,
    second: Numbered,
    shape: tuple[int, int],
    swapped: bool,
    width: int,
) -> Pairs:
    """Z_t'WZ_s by place of the levels, sorted by row, then column."""
    sums.settle()
    ids = unkey(sums.keys)
    blocks = sums.sums.reshape(*shape, -1)
    rows, cols = first.places(ids[0]), second.places(ids[1])
    if swapped:
        rows, cols, blocks = cols, rows, np.swapaxes(blocks, 0, 1)
    order = np.argsort(rows.astype(np.int64) * width + cols)
    return Pairs(rows[order], cols[order], np.ascontiguousarray(blocks[..., order]))
