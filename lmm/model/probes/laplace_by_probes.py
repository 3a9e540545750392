"""Laplace's approximation where crossed factors are too large for a dense matrix: conjugate gradients and random probes.

J and its derivatives are those of :mod:`lmm.model.laplace.laplace`. What is a solve (the mode, directions of the average information)
is done by conjugate gradients. log|H| comes from Lanczos quadrature of m probes of random signs, sum_j Q_jj from the same
probes as in a linear model (:mod:`lmm.model.probes.score_by_probes`). The leverages l enter the gradient through the mode, and do so
linearly: with N and A of observed weights, moving G by dG moves the predictor by Z a, a = v - N A v, v = dG e, moving gamma moves it
by Q - Z N Z'wQ, and so

    dJ/dG     gains  sum_i l_i dW_i/deta (Z a)_i,
    dJ/dbeta  gains  sum_i l_i dW_i/deta (X - Z N Z'wX)_i,
    dJ/drho   gains  sum_i l_i (dW_i/drho + dW_i/deta (Z N Z'd2log f / deta drho)_i),

in which every solve is one that the average information needs anyway. Each probe gives such sums
(:mod:`lmm.model.probes.probed_rows`), hence a gradient of its own: their spread is the Monte Carlo error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from lmm.linalg import krylov
from lmm.linalg.conjugate import log_quadratics
from lmm.linalg.elimination import Vectors
from lmm.linalg.factorisation import KrylovFactorisation, collect, in_order
from lmm.linalg.plan import Plan
from lmm.model.laplace.laplace import AtMode, Determinant, symmetric
from lmm.model.laplace.leverage import Tables, tables
from lmm.model.laplace.modes import products
from lmm.model.laplace.passes import LeverageSums, Slopes, Task
from lmm.model.probes import score_by_probes
from lmm.model.probes.probed_rows import Levels, Move, Moved, Near, near


class Probing(NamedTuple):
    """Probes z (m, q) of random signs, the relative residual of their systems, and eigenvalues above which traces divide by T."""

    signs: np.ndarray
    tolerance: float
    apart: float


class Directions(NamedTuple):
    """Directions in which the predictor moves: of the random effects (K, k, J) per term and of the fixed effects (K, p)."""

    random: list[np.ndarray]
    fixed: np.ndarray


def by_probes(here: AtMode, probing: Probing) -> Task[tuple[Slopes, Determinant]]:
    """The determinant and its derivatives by probes, as :func:`lmm.model.laplace.laplace.by_leverages`."""
    mode, at = here.mode, here.factorisation
    assert isinstance(at, KrylovFactorisation)
    slopes: Slopes = yield LeverageSums(
        here.family, mode.gamma, mode.b, here.phi, _no_tables(at.plan), here.observed, here.constant
    )
    scores = here.scores(slopes)
    p, v = len(mode.gamma), _in_symmetric(scores.random)
    K, r = len(v[0]), here.family.n_parameters
    of_fixed, of_G, of_rho = slice(0, p), slice(p, p + K), slice(p + K, None)

    Av = mode.factorisation.system.multiply(v)
    mixed = slopes.mixed if r else [np.zeros((0, *own.shape[1:])) for own in v]
    solved, residual, inner = mode.factorisation.solve(
        [np.concatenate(each) for each in zip(slopes.ZwQ, Av, mixed, strict=True)]
    )
    NF = [own[of_fixed] for own in solved]
    along_G = Directions(
        [own - N[of_G] for own, N in zip(v, solved, strict=True)], np.zeros((K, p))
    )
    along_gamma = Directions([-F for F in NF], np.eye(p))
    along_rho = Directions([own[of_rho] for own in solved], np.zeros((r, p)))
    step = Directions([own[None] for own in mode.db], mode.d_gamma[None])
    if here.free:
        information = slopes.QwQ - inner[of_fixed, of_fixed]
        along_G = _with_fixed(along_G, np.zeros((K, p)), slopes.ZwQ, NF, information)
        along_rho = _with_fixed(along_rho, slopes.fixed_mixed.T, slopes.ZwQ, NF, information)
    if not here.same:  # the mode moved by observed weights; the working model has the determinant's
        Av = at.system.multiply(v)
        solved, residual, inner = at.solve(
            [np.concatenate(each) for each in zip(slopes.fixed, Av, strict=True)]
        )

    listed = {
        key: (own.rows, own.cols, here.working.pairs[key])
        for key, own in here.source.pattern.pairs.items()
    }
    found = _probe(at, listed, probing)
    along = [along_G, along_gamma, step, along_rho]  # the family's own come last
    totals: Moved = yield Move(
        here.family,
        mode.gamma,
        mode.b,
        here.phi,
        here.observed,
        found.tables,
        Levels.of(
            [np.concatenate(each) for each in zip(*(own.random for own in along), strict=True)]
        ),
        np.concatenate([own.fixed for own in along]),
        found.y,
        found.x,
        found.close,
        found.near,
    )
    each = (
        score_by_probes.controlled(np, totals.probed.T, totals.control.T - totals.mean)
        + totals.exact
    )  # (m, K + p + 1 + r)
    in_G, in_gamma, in_step, in_rho = np.split(each, np.cumsum([K, p, 1]), axis=1)
    return slopes, Determinant(
        scores=scores,
        logdet=found.logdets,
        G=[
            trace + own
            for trace, own in zip(
                found.traces, _from_symmetric(in_G, [len(own[0]) for own in v]), strict=True
            )
        ],
        gamma=in_gamma,
        rho=in_rho,
        step=in_step[:, 0],
        fixed=[own[of_fixed] for own in residual],
        solved=[own[of_fixed] for own in solved],
        information=slopes.gram - inner[of_fixed, of_fixed],
        quadratics=products(v, Av) - inner[of_G, of_G],
        steps=found.steps,
    )


def _with_fixed(
    along: Directions,
    target: np.ndarray,
    ZwQ: list[np.ndarray],
    NF: list[np.ndarray],
    information: np.ndarray,
) -> Directions:
    """The directions where the fixed effects move with the mode; ``target`` (K, p) is what their score gains by itself."""
    g = np.linalg.solve(information, (target - products(along.random, ZwQ)).T).T
    return Directions(
        [own - np.tensordot(g, F, 1) for own, F in zip(along.random, NF, strict=True)],
        along.fixed + g,
    )


def _in_symmetric(e: list[np.ndarray]) -> list[np.ndarray]:
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


def _from_symmetric(values: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    """Per term of k columns the symmetric D (m, k, k) with <D, S_i> = values (m, i) for the basis S of :func:`symmetric`."""
    out, place = [], 0
    for k in sizes:
        basis = symmetric(k)
        own = values[:, place : place + len(basis)]
        out.append(
            np.asarray(np.tensordot(own, basis / np.sum(basis**2, axis=(1, 2))[:, None, None], 1))
        )
        place += len(basis)
    return out


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
    factorisation: KrylovFactorisation,
    pairs: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]],
    probing: Probing,
) -> Probed:
    """``pairs`` : rows, columns and blocks of the pairs of levels in Z'WZ."""
    plan, at = factorisation.plan, factorisation.at
    coupled, z = at.coupled, probing.signs
    own_T = [factorisation.T[t] for t in plan.iterative]
    bases = [
        score_by_probes.basis_for(T, own.mean(axis=-1), probing.apart)
        for T, own in zip(own_T, coupled.own, strict=True)
    ]
    less, of_iterative, solved = score_by_probes.trace_probes(
        np, at, bases, z, None, probing.tolerance
    )
    of_exact = factorisation.exact.planned_traces()
    traces = in_order(
        plan, [own[None] - part for own, part in zip(of_exact, less, strict=True)] + of_iterative
    )

    y, x = (krylov.scale(np, at.R, krylov.split(coupled, each)) for each in (z, solved.x))
    y_in, x_in = krylov.beside(np, at, y), krylov.beside(np, at, x)
    control = np.sum(z * (krylov.near_multiply(np, at, z, y_in.chain[0]) - z), axis=1)
    logdets = score_by_probes.controlled(
        np, log_quadratics(solved.alpha, solved.beta, np.sum(z * z, axis=1)), control
    )

    def everywhere(inside: Vectors, parts: list[np.ndarray]) -> Levels:
        return Levels.of(
            collect(plan, Vectors(tuple(-own for own in inside.chain), -inside.tail), parts)
        )

    full_y, full_x = (
        everywhere(krylov.exact_solve(np, at, own), parts) for own, parts in ((y_in, y), (x_in, x))
    )
    W, close = at.exact.chain[0].W, None
    if not at.inside.simple:
        alone: list[Any] = [np.zeros((0, 0, 0)) for _ in plan.order]
        alone[plan.chain[0]] = -krylov.small.apply(W, y_in.chain[0])
        for t, part in zip(plan.iterative, y, strict=True):
            alone[t] = part
        close = Levels.of(alone)
    sums = sum(
        krylov.weighted_squares(np, joint, N0, len(W), transpose=False)
        for joint, N0 in zip(coupled.first, at.N0, strict=True)
    )
    close_to = near(plan, pairs, W, sums, at.N0)
    return Probed(
        traces,
        logdets,
        full_y,
        full_x,
        close,
        tables(factorisation.exact),
        close_to,
        int(solved.steps),
    )


def _no_tables(plan: Plan) -> Tables:
    """Tables by which every leverage is zero: what leverages move is added by probes."""
    return Tables(replace(plan, chain=(), tail=(), layout=()), [], [], [], np.zeros((0, 0)))
