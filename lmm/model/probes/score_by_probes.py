"""The score of a linear mixed model by random probes, where factors are too large for a dense matrix.

Everything in the criterion and its derivatives that is a solve (:mod:`lmm.model.gaussian.deviance`: beta, sigma^2, e = Z'Py, the
average information) is done by conjugate gradients to full precision. What is a trace is estimated from m probes of random
signs z (:mod:`lmm.linalg.krylov`):

    sum_l Q_ll = exact part - mean over probes of sums over levels of products of R z and R H^-1 z,

each corrected by a control variate: a quantity of known mean that moves with it. Its coefficient for one probe is learned
from the others, so that the estimate has no bias. The spread over probes gives the Monte Carlo error of every derivative.
log|H|, which no step needs, comes from Lanczos quadrature of the same probes.

References: Gilmour, Thompson & Cullis (1995), Biometrics 51, for average information without a likelihood; Loh et al. (2015),
Nat. Genet. 47 (BOLT-REML), for scores by Monte Carlo; Kuendig & Sigrist (2025), arXiv 2505.09552, for control variates.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from lmm.linalg import krylov, small
from lmm.linalg.conjugate import Solved
from lmm.linalg.elimination import Vectors
from lmm.linalg.krylov import Coupled, Exact, IterativeFactor
from lmm.model.gaussian.deviance import (
    Data,
    Profiled,
    average_information,
    beside,
    exact_traces,
    profile,
    score,
    slots,
)

Array = Any

#: residual, relative to the right-hand side, of systems whose solutions are reported
PRECISE = 1e-9
#: of the systems of the directions of the average information
ROUGH = 1e-5


class Noisy(NamedTuple):
    """Derivatives at given T, terms in the plan's order.

    ``D`` (k, k) per term is dd/dG; ``traces`` its part sum_l Q_ll; ``probes`` per term (m, k, k): what each probe says of that part;
    ``AI`` as in :class:`lmm.model.gaussian.deviance.Derivatives`; ``modes`` (k, J) per term; ``solutions`` H^-1 z (m, q), to start from
    again; ``steps`` of the conjugate gradients (fixed effects, directions, probes) and the largest relative residual of the first two.
    """

    D: list[Array]
    traces: list[Array]
    probes: list[Array]
    AI: Array
    modes: list[Array]
    solutions: Array
    steps: tuple[Array, Array, Array]
    residual: Array


def derivatives(
    xp: ModuleType,
    data: Data,
    coupled: Coupled,
    probes: Array,
    start: Array,
    chain_T: list[Array],
    tail_T: list[Array],
    iterative_T: list[Array],
    bases: list[Basis],
    dG: list[Array],
    layout: Any,
    well: tuple[bool, ...],
    tolerance: float,
    reml: bool,
    known: bool = False,
) -> tuple[Profiled, Noisy]:
    """The criterion without log|H|, and its derivatives.

    Parameters
    ----------
    probes, start : signs z (m, q) and a guess of H^-1 z.
    dG : directions (m_t, k, k) per term in the plan's order.
    bases : per iterative term, what T can be divided by.
    well : per tail term, whether its T can be divided by.
    tolerance : relative residual of the probes' systems.
    """
    at = krylov.factorize(xp, Exact(data.system, chain_T, tail_T, layout), coupled, iterative_T)
    solution = krylov.solve(xp, at, data.rhs, split_rhs(data, coupled), PRECISE)
    val, root = profile(xp, data, at.logdet, solution.inner, reml, known)
    combine = xp.concatenate([-val.beta, xp.ones(1)])
    s2 = data.variance if known else val.r2 / data.degrees

    residuals = [
        *solution.exact_residual.chain,
        *slots(solution.exact_residual.tail, layout),
        *solution.residual,
    ]
    of_exact = exact_traces(xp, at.exact, layout, tail_T, well)
    less, of_iterative, solved = trace_probes(xp, at, bases, probes, start, tolerance)
    per_probe = [own[None] - part for own, part in zip(of_exact, less, strict=True)] + of_iterative
    traces = [xp.mean(each, axis=0) for each in per_probe]
    e, D = score(xp, traces, residuals, combine, root, s2, reml)

    steps: list[Solved] = []

    def quadratic(v: list[Array]) -> Array:
        """v'A v - (A v)'N (A v)."""
        m, count = len(v[0]), len(chain_T)
        inside = count + len(layout)
        own = Vectors(tuple(v[:count]), beside(xp, v[count:inside], m))
        Av_exact, Av = krylov.system_product(xp, data.system, layout, coupled, own, v[inside:])
        found = krylov.solve(xp, at, Av_exact, Av, ROUGH)
        steps.append(found.solved)
        total = own.tail @ Av_exact.tail.T
        for x, y in zip((*own.chain, *v[inside:]), (*Av_exact.chain, *Av), strict=True):
            total = total + x.reshape(m, -1) @ y.reshape(m, -1).T
        return total - found.inner

    AI = average_information(
        xp, data, val, quadratic, [f[:-1] for f in residuals], root, e, dG, known
    )
    solved_each = [*solution.exact.chain, *slots(solution.exact.tail, layout), *solution.parts]
    modes = [xp.tensordot(combine, v, 1) for v in solved_each]
    residual = xp.maximum(
        xp.max(solution.solved.relative / PRECISE), xp.max(steps[0].relative / ROUGH)
    )
    counts = (solution.solved.steps, steps[0].steps, solved.steps)
    return val, Noisy(D, traces, per_probe, AI, modes, solved.x, counts, residual)


def split_rhs(data: Data, coupled: Coupled) -> list[Array]:
    """Z'W[X y] (p + 1, k, J) of the iterative terms."""
    return krylov.split(coupled, data.iterative)


def trace_probes(
    xp: ModuleType,
    at: IterativeFactor,
    bases: list[Basis],
    probes: Array,
    start: Array | None,
    tolerance: float,
) -> tuple[list[Array], list[Array], Solved]:
    """Per probe: sum_l (F N_i F')_ll of each exact term and sum_l Q_ll of each iterative one, (m, k, k); and the solutions."""
    coupled, layout = at.coupled, at.inside.layout
    solved = krylov.solve_scaled(xp, at, probes, tolerance, start)
    z, w = krylov.split(coupled, probes), krylov.split(coupled, solved.x)
    y, x = krylov.scale(xp, at.R, z), krylov.scale(xp, at.R, w)
    y_in, x_in = krylov.beside(xp, at, y), krylov.beside(xp, at, x)
    Fy, Fx = (krylov.exact_solve_residual(xp, at, v)[1] for v in (y_in, x_in))

    # with the first factor alone in N_e, F = E B with E = I - A W, and the mean of F R z z'R'F' is E (B N0 B') E'
    first = at.exact.chain[0]
    E = xp.eye(len(first.A))[:, :, None] - small.multiply(first.A, first.W)
    near = y_in.chain[0] - small.apply(first.A, small.apply(first.W, y_in.chain[0]))
    mean = sum(
        krylov.weighted_squares(xp, joint, N0, len(E), transpose=False)
        for joint, N0 in zip(coupled.first, at.N0, strict=True)
    )
    mean = xp.sum(small.multiply(small.multiply(E, mean), xp.swapaxes(E, 0, 1)), axis=-1)
    control = outer_sums(xp, near, near) - mean
    less = [controlled(xp, outer_sums(xp, Fx.chain[0], Fy.chain[0]), control)]
    less += [outer_sums(xp, a, b) for a, b in zip(Fx.chain[1:], Fy.chain[1:], strict=True)]
    less += [
        outer_sums(xp, a, b)
        for a, b in zip(slots(Fx.tail, layout), slots(Fy.tail, layout), strict=True)
    ]

    nearly = (
        krylov.near_multiply(xp, at, probes, y_in.chain[0]) - probes
    )  # off the diagonal blocks: z (H z - z)' has mean zero
    o = krylov.split(coupled, nearly)
    own = []
    for a, basis in enumerate(bases):
        J = coupled.own[a].shape[-1]
        r, p, q = (
            small.apply(at.K[a], v) for v in (z[a], w[a], o[a])
        )  # K^-T z, K^-T H^-1 z, K^-T (H - I) z
        known = xp.sum(small.multiply(at.K[a], xp.swapaxes(at.K[a], 0, 1)), axis=-1)
        inverse = known + controlled(
            xp, outer_sums(xp, p - r, r), outer_sums(xp, q, r)
        )  # sum_l (S^-1)_ll
        half = basis.divide.T @ basis.dual
        total = xp.einsum("ba,rbc,cd->rad", half, J * xp.eye(len(known)) - inverse, half)
        if basis.null.shape[1]:
            total = total + null_traces(xp, at, a, basis, z, tolerance)
        own.append(total)
    return less, own, solved


class Basis(NamedTuple):
    """Coordinates c of a term's effects b = P c in which G is diagonal, and A of the same size in all directions.

    The first of them, in which G is far enough from zero, are divided by: ``divide`` (k1, k) takes J I - sum_l (S^-1)_ll to
    Q there, ``dual`` (k1, k) holds their rows of P^-1. ``null`` (k, k2) are the other columns of P, ``null_dual`` (k2, k) rows of P^-1.
    """

    divide: Array
    dual: Array
    null: Array
    null_dual: Array


def basis_for(T: np.ndarray, A: np.ndarray, apart: float) -> Basis:
    """The basis for T (k, k) and the mean A (k, k) of the term's blocks; directions with A-scaled G above ``apart`` are divided by."""
    values, vectors = np.linalg.eigh(A)
    root = np.sqrt(np.maximum(values, 1e-12 * values[-1]))
    P_A, dual_A = (vectors / root) @ vectors.T, (vectors * root) @ vectors.T
    own = dual_A @ T
    size, turn = np.linalg.eigh(own @ own.T)
    far = size > apart
    dual = turn.T @ dual_A
    return Basis((dual[far] @ T) / size[far][:, None], dual[far], (P_A @ turn)[:, ~far], dual[~far])


def null_traces(
    xp: ModuleType, at: IterativeFactor, a: int, basis: Basis, z: list[Array], tolerance: float
) -> Array:
    """What sum_l Q_ll (m, k, k) of a term has in the directions of ``basis.null``, from signs there: s and Q s = C s - C N_i C s.

    The control is (C s) s' with the first exact factor alone in C, whose diagonal blocks are known.
    """
    coupled, signs = at.coupled, z[a][:, : basis.null.shape[1]]
    s = [
        xp.einsum("ab,rbj->raj", basis.null, signs) if b == a else xp.zeros_like(own)
        for b, own in enumerate(z)
    ]
    Cs = krylov.schur(xp, at, s)
    half = krylov.join(xp, krylov.scale(xp, at.R, Cs, transpose=True))
    solved = krylov.solve_scaled(xp, at, half, tolerance)
    back = krylov.schur(xp, at, krylov.scale(xp, at.R, krylov.split(coupled, solved.x)))
    joint, W = coupled.first[a], at.exact.chain[0].W
    near = small.apply(coupled.own[a], s[a]) - joint.product.apply_transpose(
        xp, small.apply(W, joint.product.apply(xp, s[a]))
    )
    blocks = xp.sum(
        coupled.own[a] - krylov.weighted_squares(xp, joint, W, z[a].shape[1], transpose=True),
        axis=-1,
    )
    values = xp.einsum("raj,rbj->rab", Cs[a] - back[a], signs)  # sum_l (Q P_2)_ll: (m, k, k2)
    control = xp.einsum("raj,rbj->rab", near, signs) - blocks @ basis.null
    found = controlled(xp, values, control) @ basis.null_dual  # Q P_2 P^-1_2
    own = basis.null @ basis.null_dual
    both = xp.einsum(
        "ba,rbc->rac", own, found
    )  # its part in the null directions on both sides, which is in each of the halves
    return found + xp.swapaxes(found, 1, 2) - (both + xp.swapaxes(both, 1, 2)) / 2


def outer_sums(xp: ModuleType, u: Array, v: Array) -> Array:
    """Symmetric part of sum_l u_l v_l' for each of m vectors (m, k, J): (m, k, k)."""
    total = (
        xp.einsum("raj,rbj->rab", u, v) if u.shape[1] > 1 else xp.sum(u * v, axis=-1)[:, :, None]
    )
    return (total + xp.swapaxes(total, 1, 2)) / 2


def controlled(xp: ModuleType, values: Array, control: Array) -> Array:
    """values - c control, entry by entry of (m, ...): control has mean zero, c_i is the regression coefficient of the other probes."""
    m = len(values)
    if m < 4:
        return values
    others = m - 1
    sum_v, sum_c = (xp.sum(a, axis=0) - a for a in (values, control))
    cross = xp.sum(values * control, axis=0) - values * control - sum_v * sum_c / others
    square = xp.sum(control**2, axis=0) - control**2 - sum_c**2 / others
    return (
        values - xp.where(square > 0.0, cross / xp.where(square > 0.0, square, 1.0), 0.0) * control
    )


def log_determinant(
    xp: ModuleType,
    data: Data,
    coupled: Coupled,
    probes: Array,
    chain_T: list[Array],
    tail_T: list[Array],
    iterative_T: list[Array],
    layout: Any,
    tolerance: float,
) -> tuple[Array, Array, Array, Array]:
    """What Lanczos quadrature of log|H| needs: log|M| less log|H|, coefficients (steps, m) of each probe, and z'(H - I)z near H (m,)."""
    at = krylov.factorize(xp, Exact(data.system, chain_T, tail_T, layout), coupled, iterative_T)
    solved = krylov.solve_scaled(xp, at, probes, tolerance)
    y = krylov.scale(xp, at.R, krylov.split(coupled, probes))
    nearly = krylov.near_multiply(xp, at, probes, krylov.beside(xp, at, y).chain[0])
    control = xp.sum(probes * (nearly - probes), axis=1)
    return at.logdet, solved.alpha, solved.beta, control


def signs(rng: np.random.Generator, m: int, q: int) -> np.ndarray:
    """m probes of random signs, (m, q)."""
    return np.where(rng.integers(0, 2, (m, q), dtype=np.int8) > 0, 1.0, -1.0)
