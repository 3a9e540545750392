"""The sums of all rows -> the design and the problem of an ordinary fit.

Levels are put into the order that a fit in memory gives them, dependent fixed columns are found from their centred and scaled
cross-products, and the response is replaced by its least-squares residual: with r = y - X beta_pilot summed by chunks,
y0 = r - X delta, delta = (X'WX)^-1 X'Wr, needs sums only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from lmm.design.checks import check_effects, check_levels
from lmm.design.random import RandomPart
from lmm.design.rank import TOLERANCE
from lmm.design.records import Design, RowSource
from lmm.design.terms import RandomTerm
from lmm.errors import RankWarning, ResponseError, warn
from lmm.formula import TermRecipe
from lmm.model.crossproducts import CrossProducts, Pairs
from lmm.model.problem import PERFECT, Problem, assemble
from lmm.stream.absent import ABSENT, Witnesses
from lmm.stream.levels import unkey
from lmm.stream.pairs import PairSums
from lmm.stream.partial import RESIDUAL, PartialSums, TermSums, products_of
from lmm.stream.recipe import Recipe, TermColumns, refuse_empty

#: cross-products know the square of a length to this relative precision, whatever the rule of the rows is
PRECISION = 1e-13


def finish(
    recipe: Recipe, sums: PartialSums, backend: str | Callable[[Design], str] = "numpy", factorization: str = "auto"
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
    refuse_empty(sums.n, sums)
    if sums.least == sums.most:
        raise ResponseError(f"the response {recipe.response!r} is constant ({sums.least:g}); there is nothing to model.")
    orders = [_ordered(term) for term in sums.terms]
    by_size = sorted(range(len(orders)), key=lambda t: -len(orders[t]))
    labels = [sums.terms[t].levels.values(orders[t]) for t in by_size]
    ranks = [_ranks(sums.terms[t], orders[t]) for t in range(len(orders))]
    written = [recipe.terms[t] for t in by_size]
    for term, index in zip(written, labels, strict=True):
        part = RandomPart(term.factors, term.columns, index, ABSENT, ABSENT, term.parts, term.blocks, term.sources, term.bars)
        check_levels(part)
        check_effects(part, sums.n)
    kept, R, delta, gram = _fixed(recipe, sums)
    design = _design(recipe, sums, written, labels, kept, R)
    _check_residual(gram[-1, -1], sums, recipe)
    columns = [recipe.fixed[j] for j in kept]
    diag, rhs = [], []
    for t, order in ((t, orders[t]) for t in by_size):
        own = _term(recipe, recipe.terms[t], sums.terms[t], order, columns, delta)
        diag.append(own[0])
        rhs.append(own[1])
    pairs = {}
    for i, t in enumerate(by_size):
        for j, s in list(enumerate(by_size))[i + 1 :]:
            first, second = min(t, s), max(t, s)
            shape = (len(recipe.terms[first].pool), len(recipe.terms[second].pool))
            pairs[i, j] = _pairs(sums.pairs.pop((first, second)), ranks[first], ranks[second], shape, first != t, len(orders[s]))
    design = with_grams(design, diag)
    cross = CrossProducts(tuple(diag), tuple(rhs), pairs, gram, sums.n, sums.sum_log_weights)
    moments = (sums.total, float(np.sqrt(sums.spread / sums.n)))
    beta0 = recipe.pilot[kept] + delta
    engine = backend if isinstance(backend, str) else backend(design)
    seconds = {"cross-products": perf_counter() - start}
    return design, assemble(cross, design.terms, R, beta0, design.names, moments, seconds, engine, factorization)


def _ordered(term: TermSums) -> np.ndarray:
    """Ids of the levels that occur, in the order of a fit in memory."""
    ids = term.ids()
    return ids[term.levels.order(ids)]


def _ranks(term: TermSums, order: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What turns ids into places in the order."""
    place = np.zeros(term.seen.size, dtype=np.int32)
    place[order - term.low] = np.arange(len(order), dtype=np.int32)
    low = term.low
    return lambda ids: place[ids - low]


def _fixed(recipe: Recipe, sums: PartialSums) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
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
        known = 1.0 + float(np.abs(solve_triangular(L, row, lower=True, trans="T")).sum()) if kept else 1.0
        if gram[j, j] > 0 and left > PRECISION * known**2 and left * scale[j] ** 2 > (TOLERANCE * length[j]) ** 2:
            grown = np.zeros((len(kept) + 1, len(kept) + 1))
            grown[:-1, :-1], grown[-1, :-1], grown[-1, -1] = L, row, np.sqrt(left)
            kept.append(j)
            L = grown
    return np.array(kept, dtype=int), L.T * scale[kept]


def _design(recipe: Recipe, sums: PartialSums, terms: list[TermColumns], labels: list[Any], kept: np.ndarray, R: np.ndarray) -> Design:
    all_names = tuple(recipe.pool[c] for c in recipe.fixed)
    chosen = {int(j) for j in kept}
    dropped = tuple(name for j, name in enumerate(all_names) if j not in chosen)
    messages: tuple[str, ...] = ()
    if dropped:
        what = "1 column that depends" if len(dropped) == 1 else f"{len(dropped)} columns that depend"
        messages = (f"the fixed-effects matrix is rank deficient; dropped {what} on others: {', '.join(dropped)}.",)
        warn(messages[0], RankWarning)
    frame = replace(
        recipe.frame,
        table=Witnesses(recipe.frame.table.native),
        terms=tuple(TermRecipe(t.factors, index, t.blocks, t.columns, _sources(recipe, t)) for t, index in zip(terms, labels, strict=True)),
    )
    source = RowSource(
        n=sums.n,
        asked=sums.asked,
        recipe=recipe,
        columns=kept,
        moments=raw_moments(recipe, sums.gram if sums.plain is None else sums.plain),
        response=np.array([sums.total, sums.spread, sums.least, sums.most, sums.offset_sum, sums.sum_log_weights]),
        offset_mean=sums.offset_sum / sums.n,
        covariates={name: (covariate.total / sums.n, covariate.distinct) for name, covariate in sums.covariates.items()},
    )
    has_offset = bool(recipe.offset_texts())
    return Design(
        formula=recipe.formula,
        frame=frame,
        y=ABSENT,
        X=ABSENT,
        names=tuple(all_names[j] for j in kept),
        dropped=dropped,
        all_names=all_names,
        terms=tuple(RandomTerm(ABSENT, ABSENT, t.group, t.columns, index, t.structure) for t, index in zip(terms, labels, strict=True)),
        weights=ABSENT if recipe.weights else None,
        offset=ABSENT if has_offset else None,
        index=ABSENT,
        kept=ABSENT,
        full_index=ABSENT,
        na_action=recipe.na_action,
        response=recipe.response,
        messages=messages,
        R=R,
        family=recipe.family,
        source=source,
    )


def with_grams(design: Design, diag: Sequence[np.ndarray]) -> Design:
    """The design with the mean of z z' of each term, from the sums (k, k, J) of its levels."""
    grams = {term.group: A.sum(axis=-1) / design.n for term, A in zip(design.terms, diag, strict=True)}
    return replace(design, source=replace(design.rows, grams=grams))


def _sources(recipe: Recipe, term: TermColumns) -> tuple[str, ...]:
    """The Wilkinson term of each column, readable: as the recipe's own frame has it."""
    return next(own.sources for own in recipe.frame.terms if own.factors == term.factors)


def _check_residual(left: float, sums: PartialSums, recipe: Recipe) -> None:
    if left <= PERFECT * max(sums.square, 1e-300):
        raise ResponseError(
            f"The fixed effects explain the response {recipe.response!r} exactly, so there is nothing left for random effects "
            "or a residual variance. Check for a predictor that is a copy of the response."
        )


def _term(
    recipe: Recipe, term: TermColumns, sums: TermSums, order: np.ndarray, fixed: list[int], delta: np.ndarray
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


def _pairs(sums: PairSums, first: Any, second: Any, shape: tuple[int, int], swapped: bool, width: int) -> Pairs:
    """Z_t'WZ_s by place of the levels, sorted by row, then column."""
    sums.settle()
    ids = unkey(sums.keys)
    blocks = sums.sums.reshape(*shape, -1)
    rows, cols = first(ids[0]), second(ids[1])
    if swapped:
        rows, cols, blocks = cols, rows, np.swapaxes(blocks, 0, 1)
    order = np.argsort(rows.astype(np.int64) * width + cols)
    return Pairs(rows[order], cols[order], np.ascontiguousarray(blocks[..., order]))
