"""Laplace's approximation for many responses over one design with one grouping factor, side by side.

The formulas are those of :mod:`lmm.model.laplace.laplace`; R responses are the last axis of every array: predictors and what follows
from them row by row are (n, R), what belongs to a level (..., J, R). Every response takes its own Newton steps to its modes,
all of them at once. Sums over rows are products of sparse matrices that all responses share with such arrays. A missing
response has the weight zero in them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from lmm.families.base import weight_slope
from lmm.linalg import small
from lmm.model.gaussian.batch_levels import sandwich
from lmm.model.gaussian.batched import chain, directions, places
from lmm.model.laplace.laplace import approximation, dispersion_information
from lmm.model.laplace.modes import HALVINGS, MAX_STEPS, MODE_TOLERANCE, ceiling, penalised
from lmm.model.laplace.passes import working_slope
from lmm.model.problem import GeneralizedProblem

#: decrement that may be rounding, if a Newton step does not lower it
ROUNDING = 1e-15
#: share of the responses still on their way to their modes at which they leave the others behind
COMPACT = 0.6


@dataclass(frozen=True, eq=False)
class Shared:
    """What all responses have in common.

    Attributes
    ----------
    family : distribution of the responses and link.
    observed : whether the determinant takes the observed information.
    Q : (n, p) fixed columns of mean square one, and ``QQ`` (p (p + 1) / 2, n) their products.
    Z : (n, k J) and ``Zt`` its transpose, column after column.
    ZZ : (k (k + 1) / 2 J, n) products of columns of Z, ``ZZt`` its transpose, and ``ZQ`` (p k J, n) of columns of Z with those of Q.
    weights, offset : (n, 1) or None.
    k, J : effects per level, levels.
    """

    family: Any
    observed: bool
    Q: np.ndarray
    QQ: np.ndarray
    Z: sp.csr_array
    Zt: sp.csr_array
    ZZ: sp.csr_array
    ZZt: sp.csr_array
    ZQ: sp.csr_array
    weights: np.ndarray | None
    offset: np.ndarray | None
    k: int
    J: int

    @property
    def p(self) -> int:
        """Fixed columns."""
        return self.Q.shape[1]

    @property
    def same(self) -> bool:
        """Whether the determinant's weights are those of the modes."""
        return bool(self.family.shares_weights(self.observed))

    def sums(self, v: np.ndarray) -> np.ndarray:
        """Z'v (k, J, R)."""
        return (self.Zt @ v).reshape(self.k, self.J, v.shape[1])

    def random(self, b: np.ndarray) -> np.ndarray:
        """Z b (n, R)."""
        return np.asarray(self.Z @ b.reshape(self.k * self.J, b.shape[-1]))

    def products(self, w: np.ndarray) -> np.ndarray:
        """Z'WZ by level, (k, k, J, R)."""
        return (self.ZZ @ w).reshape(-1, self.J, w.shape[1])[places(self.k)]


def share(problem: GeneralizedProblem, observed: bool) -> Shared:
    """The shared part of a problem with one grouping factor."""
    rows = problem.rows
    k, J, n = rows.plan.terms[0].k, rows.plan.terms[0].J, rows.n
    code = rows.codes[0]
    columns = [np.ones(n) if z is None else z for z in rows.columns[0]]
    left, right = np.triu_indices(k)
    first, second = np.triu_indices(rows.p)
    Zt = _by_level(columns, code, J)
    ZZ = _by_level([columns[a] * columns[b] for a, b in zip(left, right, strict=True)], code, J)
    plain = bool(np.all(rows.weights == 1.0))
    return Shared(
        family=problem.family,
        observed=observed,
        Q=rows.Q,
        QQ=np.ascontiguousarray((rows.Q[:, first] * rows.Q[:, second]).T),
        Z=sp.csr_array(Zt.T.tocsr()),
        Zt=Zt,
        ZZ=ZZ,
        ZZt=sp.csr_array(ZZ.T.tocsr()),
        ZQ=_by_level([q * z for q in rows.Q.T for z in columns], code, J),
        weights=None if plain else rows.weights[:, None],
        offset=rows.offset[:, None] if np.any(rows.offset) else None,
        k=k,
        J=J,
    )


def _by_level(columns: list[np.ndarray], code: np.ndarray, J: int) -> sp.csr_array:
    """(c J, n): each column's values in the row of their level."""
    n, c = len(code), len(columns)
    if not c:
        return sp.csr_array((0, n))
    rows = np.concatenate([code + i * J for i in range(c)])
    return sp.csr_array(
        (np.concatenate(columns), (rows, np.tile(np.arange(n), c))), shape=(c * J, n)
    )


@dataclass(frozen=True, eq=False)
class Data:
    """R responses and where each of them is.

    Attributes
    ----------
    y : (n, R); any possible value where one is missing.
    here : (n, R) 1 or 0 where it is missing; None where none is.
    constant : (R,) log density that no parameter moves; None where a dispersion does.
    gamma : (p, R) fixed effects; ``phi`` (R,) dispersions, 1.0 for a family without; ``u`` (k, J, R) where modes are looked for.
    scale : (R,) size of each linear predictor, in units of which theta and gamma are searched.
    """

    shared: Shared
    y: np.ndarray
    here: np.ndarray | None
    constant: np.ndarray | None
    gamma: np.ndarray
    phi: Any
    u: np.ndarray
    scale: np.ndarray

    def take(self, which: np.ndarray) -> Data:
        """Some of the responses."""

        def part(array: Any) -> Any:
            return array[..., which] if isinstance(array, np.ndarray) else array

        arrays = {
            name: part(getattr(self, name))
            for name in ("y", "here", "constant", "gamma", "phi", "u", "scale")
        }
        return replace(self, **arrays)

    def observed(self, values: np.ndarray) -> np.ndarray:
        """Values (n, R), zero where a response is missing."""
        return values if self.here is None else np.where(self.here > 0.0, values, 0.0)

    def fixed(self) -> np.ndarray:
        """offset + Q gamma, (n, R)."""
        eta = self.shared.Q @ self.gamma
        return eta if self.shared.offset is None else eta + self.shared.offset

    def kernel(self, eta: np.ndarray) -> np.ndarray:
        """Sums of the part of the log density that eta moves, (R,)."""
        return self.observed(
            self.shared.family.kernel(self.y, eta, self.shared.weights, self.phi)
        ).sum(axis=0)

    def constants(self) -> np.ndarray:
        """Sums of the rest, (R,)."""
        if self.constant is not None:
            return self.constant
        return self.observed(
            self.shared.family.constant(self.y, self.shared.weights, self.phi)
        ).sum(axis=0)


class Mode(NamedTuple):
    """Modes u (k, J, R), what the rows are there (n, R), and the observed system's E = I - A N, N and log determinant."""

    u: np.ndarray
    b: np.ndarray
    eta: np.ndarray
    kernel: np.ndarray
    r: np.ndarray
    w: np.ndarray
    d3: np.ndarray
    A: np.ndarray
    N: np.ndarray
    logdet: np.ndarray
    decrement: np.ndarray
    db: np.ndarray


class Values(NamedTuple):
    """Per response, last: J, gradient and model Hessian in (chart, gamma, rho), u, D (k, k), b (k, J), the information of gamma."""

    objective: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    u: np.ndarray
    D: tuple[np.ndarray, ...]
    modes: tuple[np.ndarray, ...]
    information: np.ndarray


def factorise(A: np.ndarray, T: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """L^-1 of I + T'AT = L L', N = T (I + T'AT)^-1 T' and the sum of log determinants (R,); NaN where it is not positive definite."""
    k = len(T)
    columns, logs = small.cholesky(np, sandwich(A, T)[places(k)])
    identity = np.broadcast_to(np.eye(k)[:, :, None, None], (k, k, 1, 1))
    inverse = small.forward_substitute(np, columns, identity)
    root = small.multiply(inverse, np.swapaxes(T, 0, 1)[:, :, None])
    return inverse, small.transpose_multiply(root, root), logs.sum(axis=0)


def find_modes(data: Data, T: np.ndarray, tolerance: float = MODE_TOLERANCE) -> Mode:
    """Newton's method with step-halving for the modes of u, every response at its own pace, all of them in each pass over the rows."""
    shared, family = data.shared, data.shared.family
    T4 = T[:, :, None]
    u, fixed = data.u, data.fixed()
    b, eta, kernel, value = _place(data, fixed, T4, u)
    lost = ~np.isfinite(value)
    if lost.any():  # a remembered start may be impossible at new parameters
        u = np.where(lost, 0.0, u)
        b, eta, kernel, value = _place(data, fixed, T4, u)
    active = np.isfinite(value)
    restarted = ~active
    before = np.full(len(active), np.inf)
    for steps in range(MAX_STEPS + 1):
        r, d2, d3 = (
            data.observed(d) for d in family.derivatives(data.y, eta, shared.weights, data.phi)
        )
        w = -d2
        A = shared.products(w)
        inverse, N, logdet = factorise(A, T)
        scored = np.flatnonzero(active & ~np.isfinite(logdet))
        if len(scored):  # Fisher scoring has the same fixed point
            own = data.take(scored)
            expected = own.observed(
                family.expected_weights(eta[:, scored], shared.weights, own.phi).weight
            )
            inverse[..., scored], _, _ = factorise(shared.products(expected), T[..., scored])
        slope = small.apply_transpose(T4, shared.sums(r)[None])[0] - u
        du = small.apply_transpose(inverse, small.apply(inverse, slope[None]))[0]
        decrement = np.einsum("ajr,ajr->r", du, slope)
        wild = active & ~np.isfinite(decrement) & ~restarted
        if wild.any():  # so far out that the equations overflow: begin again
            restarted |= wild
            u = np.where(wild, 0.0, u)
            b, eta, kernel, value = _place(data, fixed, T4, u)
            continue
        active &= np.isfinite(decrement) & (decrement > tolerance)
        active &= ~((decrement < ROUNDING) & (decrement > 0.25 * before))
        before = decrement
        if not active.any() or steps == MAX_STEPS:
            break
        left = np.flatnonzero(active)
        if len(left) <= COMPACT * len(active):  # the others have arrived: go on without them
            here = Mode(
                u, b, eta, kernel, r, w, d3, A, N, logdet, decrement, small.apply(T4, du[None])[0]
            )
            return _merged(
                here, left, find_modes(replace(data, u=u).take(left), T[..., left], tolerance)
            )
        step = np.where(active, du, 0.0)
        direction = shared.random(small.apply(T4, step[None])[0])
        u, eta, kernel, value, stuck = _advance(
            data, u, eta, kernel, value, step, direction, active
        )
        active &= ~stuck
        b = small.apply(T4, u[None])[0]
    return Mode(u, b, eta, kernel, r, w, d3, A, N, logdet, decrement, small.apply(T4, du[None])[0])


def _merged(mode: Mode, which: np.ndarray, other: Mode) -> Mode:
    """The modes of all, those of some taken from elsewhere."""
    for mine, own in zip(mode, other, strict=True):
        mine[..., which] = own
    return mode


def _place(
    data: Data, fixed: np.ndarray, T4: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    b = small.apply(T4, u[None])[0]
    eta = fixed + data.shared.random(b)
    kernel = data.kernel(eta)
    return b, eta, kernel, penalised(kernel, _half_square(u))


def _half_square(u: np.ndarray) -> np.ndarray:
    """u'u / 2 (R,)."""
    return np.asarray(0.5 * np.einsum("ajr,ajr->r", u, u))


def _advance(
    data: Data,
    u: np.ndarray,
    eta: np.ndarray,
    kernel: np.ndarray,
    value: np.ndarray,
    step: np.ndarray,
    direction: np.ndarray,
    active: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The point after a step, halved for those responses that it does not improve, and those that no length improves."""
    most = ceiling(value)
    new_u, new_eta = u + step, eta + direction
    new_kernel = data.kernel(new_eta)
    new_value = penalised(new_kernel, _half_square(new_u))
    left = np.flatnonzero(active & ~(new_value <= most))
    length = 1.0
    for _ in range(HALVINGS):
        if not len(left):
            break
        length *= 0.5
        own = data.take(left)
        new_u[..., left] = u[..., left] + length * step[..., left]
        new_eta[:, left] = eta[:, left] + length * direction[:, left]
        new_kernel[left] = own.kernel(new_eta[:, left])
        new_value[left] = penalised(new_kernel[left], _half_square(new_u[..., left]))
        left = left[~(new_value[left] <= most[left])]
    stuck = np.zeros(len(value), dtype=bool)
    if len(left):
        stuck[left] = True
        new_u[..., left], new_eta[:, left] = u[..., left], eta[:, left]
        new_kernel[left], new_value[left] = kernel[left], value[left]
    return new_u, new_eta, new_kernel, new_value, stuck


@np.errstate(all="ignore")  # what is not finite is refused
def laplace(data: Data, T: np.ndarray, dT: np.ndarray, tolerance: float = MODE_TOLERANCE) -> Values:
    """J with its gradient and model Hessian at T (k, k, R) and the gamma and phi of ``data``, along dT (m, k, k)."""
    shared, family, y, phi = data.shared, data.shared.family, data.y, data.phi
    k, p, R = shared.k, shared.p, T.shape[-1]
    mode = find_modes(data, T, tolerance)
    eye = np.eye(k)[:, :, None, None]
    E_mode = eye - small.multiply(mode.A, mode.N)
    if shared.same:
        W, dW, A, N, logdet, E = mode.w, -mode.d3, mode.A, mode.N, mode.logdet, E_mode
    else:
        W, dW = (data.observed(v) for v in family.expected_weights(mode.eta, shared.weights, phi))
        A = shared.products(W)
        _, N, logdet = factorise(A, T)
        E = eye - small.multiply(A, N)
    Q = small.multiply(E, A)

    row, column = np.triu_indices(k)
    each = (N[row, column] * np.where(row == column, 1.0, 2.0)[:, None, None]).reshape(
        len(row) * shared.J, R
    )
    leverage = np.asarray(shared.ZZt @ each)
    t = leverage * dW
    s = shared.sums(t)
    left = np.einsum("ajr,ajr->r", s, mode.db)
    density, square = mode.kernel + data.constants(), 2.0 * _half_square(mode.u)
    objective = approximation(density, square, mode.decrement, logdet, left)
    c = small.apply(mode.N, s[None])[0]
    f = s - small.apply(mode.A, c[None])[0]
    e = shared.sums(mode.r)
    shift = shared.random(c)
    d_gamma = shared.Q.T @ (t - 2.0 * mode.r - mode.w * shift)
    half = np.einsum("ajr,bjr->abr", f - e, e) / 2.0
    D = Q.sum(axis=2) + half + np.swapaxes(half, 0, 1)

    ZWQ = (shared.ZQ @ W).reshape(p, k, shared.J, R)
    NZ = small.apply(N, ZWQ) if p else ZWQ
    fixed = ZWQ - small.apply(A, NZ) if p else ZWQ
    first, second = np.triu_indices(p)
    information = np.empty((p, p, R))
    own = shared.QQ @ W
    information[first, second] = information[second, first] = own
    information -= np.einsum("pajr,qajr->pqr", ZWQ, NZ, optimize=True)

    m, rho = len(dT), int(family.has_dispersion)
    dG = directions(T, dT)
    v = np.einsum("iabr,bjr->iajr", dG, e)
    gradient, curvature = chain(D, T, dT)
    H = np.zeros((m + p + rho, m + p + rho, R))
    H[:m, :m] = np.einsum("iajr,abjr,lbjr->ilr", v, Q, v, optimize=True) + curvature
    H[m : m + p, m : m + p] = 2.0 * information
    H[:m, m : m + p] = np.einsum("iajr,pajr->ipr", v, fixed)
    parts = [gradient, d_gamma]
    if rho:
        d = family.d_phi(y, mode.eta, shared.weights, phi)
        first_order = data.observed(d.first)
        moved = weight_slope(d, shared.observed) * leverage + d.eta * shift
        parts.append((-2.0 * first_order + data.observed(moved)).sum(axis=0)[None])
        second = data.observed(d.second).sum(axis=0)
        squares = family.unit_squares(first_order, shared.weights).sum(axis=0)
        H[-1, -1] = 2.0 * dispersion_information(second, squares, len(y))
        if not shared.observed:
            turned = shared.sums(data.observed(working_slope(d.weight, W, mode.r)))
            H[:m, -1] = np.einsum("iajr,ajr->ir", v, small.apply(E, turned[None])[0])
    upper = np.triu_indices(m + p + rho)
    H[upper[1], upper[0]] = H[upper]
    whole = np.concatenate(parts)
    sound = (
        np.isfinite(objective) & np.isfinite(whole).all(axis=0) & np.isfinite(H).all(axis=(0, 1))
    )
    return Values(
        np.where(sound, objective, np.inf), whole, H, mode.u, (D,), (mode.b,), information
    )
