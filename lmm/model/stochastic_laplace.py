"""Laplace's approximation where crossed factors are too large for a dense matrix: conjugate gradients and random probes.

J and its derivatives are those of :mod:`lmm.model.laplace`. What is a solve (the mode, directions of the average information)
is done by conjugate gradients. log|H| comes from Lanczos quadrature of m probes of random signs, sum_j Q_jj from the same
probes as in a linear model (:mod:`lmm.model.stochastic`). The leverages l enter the gradient through the mode, and do so linearly:
with N and A of observed weights, moving G by dG moves the predictor by Z a, a = v - N A v, v = dG e, moving gamma moves it
by Q - Z N Z'wQ, and so

    dJ/dG     gains  sum_i l_i dW_i/deta (Z a)_i,
    dJ/dbeta  gains  sum_i l_i dW_i/deta (X - Z N Z'wX)_i,
    dJ/drho   gains  sum_i l_i (dW_i/drho + dW_i/deta (Z N Z'd2log f / deta drho)_i),

in which every solve is one that the average information needs anyway. Each probe gives such sums
(:mod:`lmm.model.probed_rows`), hence a gradient of its own: their spread is the Monte Carlo error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from lmm.linalg import krylov
from lmm.linalg.conjugate import log_quadratics
from lmm.linalg.elimination import Vectors
from lmm.linalg.factorisation import KrylovFactorisation, collect, in_order
from lmm.linalg.plan import Plan
from lmm.model import stochastic
from lmm.model.laplace import FOUND, Laplace, family_parameters, next_scores
from lmm.model.leverage import Tables, tables
from lmm.model.mode import Mode, seek
from lmm.model.passes import Expand, Slope, Slopes, Source, Task
from lmm.model.penalized import system_of
from lmm.model.probed_rows import Levels, Move, Moved, Near, near


@dataclass(frozen=True, eq=False)
class ProbedLaplace(Laplace):
    """:class:`~lmm.model.laplace.Laplace` with what each of m probes says.

    ``D_each`` per term (m, k, k), ``d_gamma_each`` (m, p), ``own_each`` (m, r); ``quadratic`` v'Qv (K, K) in the directions of
    :func:`symmetric`; ``logdet_error`` of log|H|; ``steps`` of the conjugate gradients: probes.
    """

    D_each: list[np.ndarray]
    d_gamma_each: np.ndarray
    own_each: np.ndarray
    quadratic: np.ndarray
    logdet_error: float
    steps: tuple[int, ...]


class Probing(NamedTuple):
    """Probes z (m, q) of random signs, the relative residual of their systems, and eigenvalues above which traces divide by T."""

    signs: np.ndarray
    tolerance: float
    apart: float


def symmetric(k: int) -> np.ndarray:
    """A basis (k (k + 1) / 2, k, k) of the symmetric matrices: ones at (a, b) and (b, a)."""
    pairs = [(a, b) for a in range(k) for b in range(a + 1)]
    out = np.zeros((len(pairs), k, k))
    for i, (a, b) in enumerate(pairs):
        out[i, a, b] = out[i, b, a] = 1.0
    return out


def from_symmetric(values: np.ndarray, k: int) -> np.ndarray:
    """The symmetric D (..., k, k) with <D, S_i> = values (..., i) for the basis S of :func:`symmetric`."""
    basis = symmetric(k)
    return np.asarray(np.tensordot(values, basis / np.sum(basis**2, axis=(1, 2))[:, None, None], 1))


def expand(
    family: Any,
    source: Source,
    T: list[np.ndarray],
    gamma: np.ndarray,
    phi: Any,
    u: list[np.ndarray],
    b: list[np.ndarray] | None,
    observed: bool,
    free: bool,
    constant: float | None,
    tolerance: float,
    probing: Probing,
) -> Task[ProbedLaplace]:
    """J with its gradient, as :func:`lmm.model.laplace.expand`."""
    same = observed or family.is_canonical
    b = [t @ own for t, own in zip(T, u, strict=True)] if b is None else b
    mode: Mode = yield from seek(family, source, T, gamma, phi, b, u, free, tolerance)
    working, at = mode.sums.observed, mode.factorisation
    if not same:
        working = (yield Expand(family, mode.gamma, mode.b, phi, False, True)).expected
        assert working is not None
        at = system_of(source, working).factorize(T)
    assert working is not None
    assert isinstance(at, KrylovFactorisation)
    slopes: Slopes = yield Slope(family, mode.gamma, mode.b, phi, _no_tables(at.plan), observed, constant is None)
    Z_wQ = slopes.fixed if slopes.fixed_observed is None else slopes.fixed_observed
    Q_wQ = slopes.gram if slopes.gram_observed is None else slopes.gram_observed

    p, r = len(mode.gamma), family.n_parameters
    e, fixed_score = next_scores(mode, Z_wQ, Q_wQ)

    # how the predictor moves: along G, along gamma, along rho, and by what is left of the search for the mode
    v = _directions(e)
    K = len(v[0])
    Av = mode.factorisation.system.multiply(v)
    mixed = slopes.mixed if r else [np.zeros((0, *own.shape)) for own in e]
    solved, residual, inner = mode.factorisation.solve([np.concatenate(each) for each in zip(Z_wQ, Av, mixed, strict=True)])
    NF, a, Nm = ([own[part] for own in solved] for part in (slice(0, p), slice(p, p + K), slice(p + K, None)))
    a = [own - N for own, N in zip(v, a, strict=True)]
    along = [np.concatenate([x, -F, m, d[None]]) for x, F, m, d in zip(a, NF, Nm, mode.db, strict=True)]
    fixed = np.concatenate([np.zeros((K, p)), np.eye(p), np.zeros((r, p)), mode.d_gamma[None]])
    if free:  # gamma moves along
        information = Q_wQ - inner[:p, :p]
        for part, target in ((slice(0, K), np.zeros((K, p))), (slice(K + p, K + p + r), slopes.fixed_mixed.T)):
            g = np.linalg.solve(information, (target - _products([own[part] for own in along], Z_wQ)).T).T
            for own, F in zip(along, NF, strict=True):
                own[part] -= np.tensordot(g, F, 1)
            fixed[part] += g
    order = [*range(K), *range(K, K + p), K + p + r, *range(K + p, K + p + r)]  # the family's own come last
    quadratic = _products(v, Av) - inner[p : p + K, p : p + K]
    information = slopes.gram - inner[:p, :p]
    solved_fixed, residual_fixed = NF, [own[:p] for own in residual]
    if not same:
        Av = at.system.multiply(v)
        both, residual, inner = at.solve([np.concatenate(each) for each in zip(slopes.fixed, Av, strict=True)])
        quadratic = _products(v, Av) - inner[p:, p:]
        information = slopes.gram - inner[:p, :p]
        solved_fixed, residual_fixed = [own[:p] for own in both], [own[:p] for own in residual]

    listed = {key: (own.rows, own.cols, working.pairs[key]) for key, own in source.pattern.pairs.items()}
    found = _probe(at, listed, probing)
    count = len(order)
    totals: Moved = yield Move(
        family,
        mode.gamma,
        mode.b,
        phi,
        observed,
        found.tables,
        Levels.of([own[order] for own in along]),
        fixed[order],
        found.y,
        found.x,
        found.close,
        found.near,
    )
    each = stochastic.controlled(np, totals.probed.T, totals.control.T - totals.mean) + totals.exact  # (m, K + p + 1 + r)
    of_G, of_gamma, of_step, of_rho = np.split(each, [K, K + p, K + p + 1], axis=1)
    assert count == each.shape[1]

    D_each, place = [], 0
    for trace, own in zip(found.traces, e, strict=True):
        k = len(own)
        size = k * (k + 1) // 2
        D_each.append(trace - own @ own.T + from_symmetric(of_G[:, place : place + size], k))
        place += size
    d_gamma_each = -2.0 * fixed_score + of_gamma
    nothing = [np.zeros_like(own) for own in e]
    of_own = family_parameters(family, source, at, slopes, nothing, np.zeros(p), solved_fixed)
    own_each = of_own.gradient + of_rho
    of_own = replace(of_own, gradient=own_each.mean(axis=0))

    constant = slopes.constant if constant is None else constant
    penalty = float(sum(np.sum(u * u) for u in mode.u))
    logdet = at.logdet + float(found.logdets.mean())
    objective = -2.0 * (mode.sums.kernel + constant) + penalty - max(mode.decrement, 0.0) + logdet + float(of_step.mean())
    if not mode.decrement <= max(FOUND, tolerance):
        objective = np.inf
    return ProbedLaplace(
        objective,
        mode,
        [each.mean(axis=0) for each in D_each],
        d_gamma_each.mean(axis=0),
        of_own,
        e,
        residual_fixed,
        information,
        working,
        at,
        slopes,
        D_each,
        d_gamma_each,
        own_each,
        quadratic,
        float(found.logdets.std(ddof=1) / np.sqrt(len(found.logdets))),
        (mode.steps, found.steps),
    )


class Probed(NamedTuple):
    """What the probes say at a factorised system: sum_j Q_jj per term in the design's order (m, k, k), log|H| (m,), and effects to
    find leverages from."""

    traces: list[np.ndarray]
    logdets: np.ndarray
    y: Levels
    x: Levels
    close: Levels | None
    tables: Tables
    near: Near
    steps: int


def _probe(
    factorisation: KrylovFactorisation, pairs: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]], probing: Probing
) -> Probed:
    """``pairs`` : rows, columns and blocks of the pairs of levels in Z'WZ."""
    plan, at = factorisation.plan, factorisation.at
    coupled, z = at.coupled, probing.signs
    own_T = [factorisation.T[t] for t in plan.iterative]
    bases = [stochastic.basis_for(T, own.mean(axis=-1), probing.apart) for T, own in zip(own_T, coupled.own, strict=True)]
    less, of_iterative, solved = stochastic.trace_probes(np, at, bases, z, None, probing.tolerance)
    of_exact = factorisation.exact.planned_traces()
    traces = in_order(plan, [own[None] - part for own, part in zip(of_exact, less, strict=True)] + of_iterative)

    y, x = (krylov.scale(np, at.R, krylov.split(coupled, each)) for each in (z, solved.x))
    y_in, x_in = krylov.beside(np, at, y), krylov.beside(np, at, x)
    control = np.sum(z * (krylov.near_multiply(np, at, z, y_in.chain[0]) - z), axis=1)
    logdets = stochastic.controlled(np, log_quadratics(solved.alpha, solved.beta, np.sum(z * z, axis=1)), control)

    def everywhere(inside: Vectors, parts: list[np.ndarray]) -> Levels:
        return Levels.of(collect(plan, Vectors(tuple(-own for own in inside.chain), -inside.tail), parts))

    full_y, full_x = (everywhere(krylov.exact_solve(np, at, own), parts) for own, parts in ((y_in, y), (x_in, x)))
    W, close = at.exact.chain[0].W, None
    if not at.inside.simple:
        alone: list[Any] = [np.zeros((0, 0, 0)) for _ in plan.order]
        alone[plan.chain[0]] = -krylov.small.apply(W, y_in.chain[0])
        for t, part in zip(plan.iterative, y, strict=True):
            alone[t] = part
        close = Levels.of(alone)
    sums = sum(krylov.weighted_squares(np, joint, N0, len(W), transpose=False) for joint, N0 in zip(coupled.first, at.N0, strict=True))
    close_to = near(plan, pairs, W, sums, at.N0)
    return Probed(traces, logdets, full_y, full_x, close, tables(factorisation.exact), close_to, int(solved.steps))


def _no_tables(plan: Plan) -> Tables:
    """Tables by which every leverage is zero: what leverages move is added by probes."""
    return Tables(replace(plan, chain=(), tail=(), layout=()), [], [], [], np.zeros((0, 0)))


def _directions(e: list[np.ndarray]) -> list[np.ndarray]:
    """S_i e of the symmetric basis, terms side by side: per term (K, k, J)."""
    own = [np.einsum("iab,bj->iaj", symmetric(len(each)), each) for each in e]
    K = sum(len(each) for each in own)
    out, place = [], 0
    for each in own:
        block = np.zeros((K, *each.shape[1:]))
        block[place : place + len(each)] = each
        out.append(block)
        place += len(each)
    return out


def _products(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    """Sums over terms of a_i'b_j, (K, p), for a (K, k, J) and b (p, k, J) per term."""
    total = np.zeros((len(a[0]), len(b[0])))
    for x, y in zip(a, b, strict=True):
        size = x.shape[1] * x.shape[2]
        total += x.reshape(len(x), size) @ y.reshape(len(y), size).T
    return total
