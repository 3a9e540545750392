"""The Laplace approximation of a generalized linear mixed model's likelihood, with its exact gradient.

eta = o + X beta + Z b, b = T u, u ~ N(0, I). With u at the mode of the penalised log-likelihood,

    J = -2 sum log f(y | eta) + u'u + log|I + T'Z'WZT|

is -2 log-likelihood to the order of Laplace. W holds the information of each row in eta: the expected one as
in lme4, or the observed one, -d2log f/deta2, as in glmmTMB (they are equal for a canonical link). With
r = dlog f/deta, w = -d2log f/deta2 (observed), N = (Z'wZ + G^-1)^-1 and the leverages
l_i = z_i'(Z'WZ + G^-1)^-1 z_i, let

    t_i = l_i dW_i/deta,   s = Z't,   c = N s,   e = Z'r (so that u = T'e),   f = s - Z'wZ c.

The mode moves with the parameters (implicit differentiation); what remains is

    dJ/dG     = sum_j Q_jj - e e' + (f e' + e f') / 2,   Q = A - A (A + G^-1)^-1 A, A = Z'WZ
    dJ/dbeta  = -2 X'r + X'(t - w Z c)
    dJ/drho   = -2 sum dlog f/drho + sum l_i dW_i/drho + c'Z'(d2log f / deta drho)

per level j as k x k matrices in the first line, rho the family's own parameters (the log of a dispersion, thresholds);
no inverse of T occurs, so zero variances are regular.

References: Breslow & Clayton (1993), J. Am. Stat. Assoc. 88; Bates et al. (2015); Kristensen et al.
(2016), J. Stat. Softw. 70(5) for implicit differentiation through the mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lmm.linalg import elimination, tail
from lmm.linalg.coupling import Dense
from lmm.linalg.elimination import Eliminated, Factor, Inverse, System
from lmm.model.rows import Rows
from lmm.model.system import arrange, collect

#: Newton decrement, in units of the log-likelihood, at which the mode is found; what is left enters J to first order
MODE_TOLERANCE = 1e-13
#: decrement above which there is no mode to expand around, and so no likelihood
FOUND = 1e-6
MAX_STEPS = 100
#: smallest over largest singular value of T above which it is divided by
WELL = 1e-3


@dataclass(frozen=True, eq=False)
class Mode:
    """The mode of the random effects at given parameters, and what was computed there.

    ``b``, ``u`` per term (k, J); rows' ``eta``, ``kernel`` of the log density, first derivative ``r``, observed
    weights ``w``; ``factor`` of the observed system; ``steps`` Newton steps taken; ``decrement`` and step ``db``
    per term, ``d_gamma``, that a further one would bring.
    """

    b: list[np.ndarray]
    u: list[np.ndarray]
    eta: np.ndarray
    kernel: np.ndarray
    r: np.ndarray
    w: np.ndarray
    system: System
    factor: Factor
    gamma: np.ndarray
    steps: int
    decrement: float
    db: list[np.ndarray]
    d_gamma: np.ndarray


@dataclass(frozen=True, eq=False)
class Laplace:
    """J and its derivatives at a mode.

    ``D`` per term (k, k), dJ/dG; ``d_gamma`` (p,) for the orthonormal fixed columns. ``fixed`` holds
    F = Z'V^-1 Q per term (p, k, J) and ``information`` Q'V^-1 Q of the working linear model. ``own`` is what concerns
    the family's own parameters.
    """

    objective: float
    mode: Mode
    D: list[np.ndarray]
    d_gamma: np.ndarray
    own: Own
    e: list[np.ndarray]
    fixed: list[np.ndarray]
    information: np.ndarray
    factor: Factor
    system: System


@dataclass(frozen=True, eq=False)
class Own:
    """The family's own parameters rho (r,) at a mode.

    ``gradient`` (r,) is dJ/drho, ``information`` (r, r) half a positive semi-definite guess of the second derivative.
    ``with_gamma`` (p, r) couples rho to the fixed effects as ``information`` of gamma does, ``with_G`` per term (r, k, J),
    or an empty list, to G as ``fixed`` does.
    """

    gradient: np.ndarray
    information: np.ndarray
    with_gamma: np.ndarray
    with_G: list[np.ndarray]


class Arrangement:
    """The relative factors of all terms in the plan's order, and how the tail may divide by them."""

    def __init__(self, rows: Rows, T: list[np.ndarray]):
        self.plan = rows.plan
        self.T = T
        self.chain_T = [T[t] for t in rows.plan.chain]
        self.tail_T = [T[t] for t in rows.plan.tail]
        self.layout = rows.plan.layout
        self.well = tuple(bool(np.linalg.svd(t, compute_uv=False)[-1] > 1e-3) for t in self.tail_T)

    def whiten(self, t: int, b: np.ndarray, e: np.ndarray) -> np.ndarray:
        """u (k, J) of term t with b = T u = T T'e.

        From b where T can be divided by: e is a difference that much data leave few digits of. T'e where T is nearly singular.
        """
        T = self.T[t]
        values = np.linalg.svd(T, compute_uv=False)
        return np.linalg.solve(T, b) if values[-1] > WELL * values[0] else T.T @ e

    def factorize(self, system: System) -> Factor:
        """Factor a system at these T."""
        return elimination.factorize(np, system, self.chain_T, self.layout, self.tail_T)

    def try_factorize(self, system: System) -> Factor | None:
        """The same of a system with negative weights; None where I + T'AT is not positive definite."""
        try:
            with np.errstate(invalid="ignore", divide="ignore"):
                factor = self.factorize(system)
        except (np.linalg.LinAlgError, FloatingPointError):
            return None
        return factor if np.isfinite(factor.logdet) else None

    def solve(self, factor: Factor, rhs: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
        """N r, r - A N r and r'N r for r per term (m, k, J)."""
        reduced = elimination.reduce(np, factor, self.layout, self.tail_T, arrange(self.plan, tuple(rhs)))
        solved, residual = elimination.solve(np, factor, self.layout, self.tail_T, reduced, self.well)
        return collect(self.plan, solved), collect(self.plan, residual), elimination.inner(reduced)

    def multiply(self, system: System, b: list[np.ndarray]) -> list[np.ndarray]:
        """A b for b per term (m, k, J)."""
        return collect(self.plan, elimination.multiply(np, system, arrange(self.plan, tuple(b))))


@np.errstate(invalid="ignore", divide="ignore")  # what is not finite is refused
def find_mode(
    family: Any,
    rows: Rows,
    T: list[np.ndarray],
    gamma: np.ndarray,
    phi: Any,
    u: list[np.ndarray],
    free: bool = False,
    tolerance: float = MODE_TOLERANCE,
) -> Mode:
    """Newton's method with step-halving for the mode of u, started at ``u`` (k, J) per term; of gamma too when ``free``.

    A step solves (Z'wZ + G^-1) b = Z'wZ b + Z'r with the observed weights where the matrix is positive
    definite, the expected ones elsewhere (then it is Fisher scoring; both have the same fixed point).
    """
    at = Arrangement(rows, T)
    b, eta, density, penalised = _place(family, rows, T, gamma, phi, u)
    if not np.isfinite(penalised):  # a remembered start may be impossible at new parameters
        u = [np.zeros_like(own) for own in u]
        b, eta, density, penalised = _place(family, rows, T, gamma, phi, u)
    steps = 0
    while True:
        r, d2, _ = family.derivatives(rows.y, eta, rows.weights, phi)
        w = -d2
        system = rows.system(w)
        factor = at.factorize(system) if np.all(w >= 0.0) else at.try_factorize(system)
        observed = factor is not None
        if factor is None:
            working = family.expected_weights(eta, rows.weights, phi)[0]
            system = rows.system(working)
            factor = at.factorize(system)
        gradient = rows.sums(r)
        Ab = at.multiply(system, [own[None] for own in b])
        right = [own + g[None] for own, g in zip(Ab, gradient, strict=True)]
        d_gamma = np.zeros(rows.p)
        if free:
            joint = Joint(at, rows, system, factor, w if observed else working)
            d_gamma = joint.fixed_step(right, Ab, b, rows.Q.T @ r)
            right = [own - np.tensordot(d_gamma, F, 1)[None] for own, F in zip(right, joint.ZWQ, strict=True)]
        new_b, residual, _ = at.solve(factor, right)
        new_u = [at.whiten(t, own[0], e[0]) for t, own, e in zip(range(len(T)), new_b, residual, strict=True)]
        du = [new - old for new, old in zip(new_u, u, strict=True)]
        slope = [t.T @ g - old for t, g, old in zip(T, gradient, u, strict=True)]
        decrement = float(sum(np.sum(d * g) for d, g in zip(du, slope, strict=True)) + d_gamma @ (rows.Q.T @ r))
        db = [new[0] - old for new, old in zip(new_b, b, strict=True)]
        if not np.isfinite(decrement) and any(np.any(own) for own in u):  # so far out that the equations overflow: begin again
            u = [np.zeros_like(own) for own in u]
            b, eta, density, penalised = _place(family, rows, T, gamma, phi, u)
            steps += 1
            continue
        if decrement <= tolerance or steps >= MAX_STEPS or not np.isfinite(decrement):
            break
        direction = rows.random(db) + rows.Q @ d_gamma
        length = 1.0
        for _ in range(40):
            next_u = [old + length * d for old, d in zip(u, du, strict=True)]
            next_eta = eta + length * direction
            next_density = family.kernel(rows.y, next_eta, rows.weights, phi)
            next_penalised = _penalised(next_density, next_u)
            if next_penalised <= penalised + 1e-12 * (1.0 + abs(penalised)):
                break
            length *= 0.5
        else:
            break
        b = [old + length * d for old, d in zip(b, db, strict=True)]
        gamma = gamma + length * d_gamma
        u, eta, density, penalised = next_u, next_eta, next_density, next_penalised
        steps += 1
    if not observed:
        system = rows.system(w)
        factor = at.factorize(system)
    return Mode(b, u, eta, density, r, w, system, factor, gamma, steps, decrement, db, d_gamma)


class Joint:
    """The working linear model's equations in gamma after the random effects are eliminated."""

    def __init__(self, at: Arrangement, rows: Rows, system: System, factor: Factor, w: np.ndarray):
        self.at, self.factor = at, factor
        self.ZWQ = rows.column_sums(rows.Q * w[:, None])
        self.solved, self.residual, inner = at.solve(factor, self.ZWQ)
        self.information = rows.Q.T @ (rows.Q * w[:, None]) - inner

    def fixed_step(self, right: list[np.ndarray], Ab: list[np.ndarray], b: list[np.ndarray], score: np.ndarray) -> np.ndarray:
        """The step in gamma: (Q'V^-1 Q)^-1 (Q'r + Q'WZ b - Q'WZ N (Z'WZ b + Z'r))."""
        taken = sum(N.reshape(len(N), -1) @ v[0].reshape(-1) for N, v in zip(self.solved, right, strict=True))
        direct = sum(F.reshape(len(F), -1) @ own.reshape(-1) for F, own in zip(self.ZWQ, b, strict=True))
        return np.linalg.solve(self.information, score + direct - taken)


def _place(
    family: Any, rows: Rows, T: list[np.ndarray], gamma: np.ndarray, phi: Any, u: list[np.ndarray]
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, float]:
    """b, the predictor, the kernel of the density and the penalised criterion at u."""
    b = [t @ own for t, own in zip(T, u, strict=True)]
    eta = rows.predictor(gamma, b)
    density = family.kernel(rows.y, eta, rows.weights, phi)
    return b, eta, density, _penalised(density, u)


def _penalised(density: np.ndarray, u: list[np.ndarray]) -> float:
    """-sum log f + u'u / 2; infinite where the density cannot be computed."""
    value = -float(density.sum()) + 0.5 * float(sum(np.sum(own * own) for own in u))
    return value if np.isfinite(value) else np.inf


@np.errstate(invalid="ignore", divide="ignore")
def laplace(
    family: Any,
    rows: Rows,
    T: list[np.ndarray],
    gamma: np.ndarray,
    phi: Any,
    u: list[np.ndarray],
    observed: bool = False,
    free: bool = False,
    constant: float | None = None,
    tolerance: float = MODE_TOLERANCE,
) -> Laplace:
    """J with its gradient at T per term (k, k), gamma (p,) and the family's own parameters phi.

    With ``free`` gamma is a starting value: it joins u in the mode, as in lme4's nAGQ = 0, and J is a function of
    T and phi alone.

    ``u`` is where the mode is looked for; ``observed`` puts the observed information into the determinant.
    """
    mode = find_mode(family, rows, T, gamma, phi, u, free, tolerance)
    at = Arrangement(rows, T)
    same = observed or family.is_canonical
    if same:
        W, dW = mode.w, -family.derivatives(rows.y, mode.eta, rows.weights, phi).d3
    else:
        W, dW = family.expected_weights(mode.eta, rows.weights, phi)
    system = mode.system if same else rows.system(W)
    factor = mode.factor if same else at.factorize(system)
    constant = float(family.constant(rows.y, rows.weights, phi).sum()) if constant is None else constant
    penalty = float(sum(np.sum(u * u) for u in mode.u))
    objective = -2.0 * (float(mode.kernel.sum()) + constant) + penalty - max(mode.decrement, 0.0) + float(factor.logdet)
    if not mode.decrement <= FOUND:
        objective = np.inf

    K, Sinv = np.zeros((0, 0)), np.zeros((0, 0))
    if at.layout:
        Sinv = tail.symmetrize(np, tail.inverse(np, factor.tail))
        K = tail.sandwich(np, at.layout, at.tail_T, Sinv, transpose=False)
    quadratics, inverses = elimination.inverse_blocks(np, factor, K, need_first=True)
    leverage = leverages(rows, factor, inverses, K)

    t = leverage * dW
    s = rows.sums(t)
    objective += float(sum(np.sum(own * d) for own, d in zip(s, mode.db, strict=True)) + (rows.Q.T @ t) @ mode.d_gamma)
    c_gamma = np.zeros(rows.p)
    if free:
        joint = Joint(at, rows, mode.system, mode.factor, mode.w)
        taken = sum(N.reshape(len(N), -1) @ own.reshape(-1) for N, own in zip(joint.solved, s, strict=True))
        c_gamma = np.linalg.solve(joint.information, rows.Q.T @ t - taken)
        s = [own - np.tensordot(c_gamma, F, 1) for own, F in zip(s, joint.ZWQ, strict=True)]
    c, f, _ = at.solve(mode.factor, [own[None] for own in s])
    e = rows.sums(mode.r)
    D = _traces(at, factor, quadratics, K, Sinv)
    for D_t, e_t, f_t in zip(D, e, f, strict=True):
        cross = f_t[0] @ e_t.T
        D_t += -(e_t @ e_t.T) + (cross + cross.T) / 2
    shift = rows.random([own[0] for own in c]) + rows.Q @ c_gamma
    d_gamma = rows.Q.T @ (-2.0 * mode.r + t - mode.w * shift)
    solved, fixed, inner = at.solve(factor, rows.column_sums(rows.Q * W[:, None]))
    information = rows.Q.T @ (rows.Q * W[:, None]) - inner
    own = _own_parameters(family, rows, phi, mode, observed, at, factor, W, leverage, shift, solved)
    return Laplace(objective, mode, D, d_gamma, own, e, fixed, information, factor, system)


def _own_parameters(
    family: Any,
    rows: Rows,
    phi: Any,
    mode: Mode,
    observed: bool,
    at: Arrangement,
    factor: Factor,
    W: np.ndarray,
    leverage: np.ndarray,
    shift: np.ndarray,
    solved: list[np.ndarray],
) -> Own:
    """What concerns rho; ``solved`` is N Z'WQ per term."""
    r = family.n_parameters
    if not r:
        return Own(np.zeros(0), np.zeros((0, 0)), np.zeros((rows.p, 0)), [])
    d = family.parameter_derivatives(rows.y, mode.eta, rows.weights, phi, not observed)
    gradient = -2.0 * d.first.sum(axis=1) + (-d.eta_eta if observed else d.weight) @ leverage + d.eta @ shift
    if family.has_dispersion:
        with_G: list[np.ndarray] = []
        if not observed:  # the working model's error variance 1 / W moves with phi: V_phi P y = -W^-2 dW/dphi r
            _, with_G, _ = at.solve(factor, [own[None] for own in rows.sums(-d.weight[0] / np.maximum(W, 1e-300) * mode.r)])
        information = max(-float(d.second[0, 0]), 0.5 * float(np.sum(d.first**2)), 0.5e-10 * rows.n)
        return Own(gradient, np.array([[information]]), np.zeros((rows.p, r)), with_G)
    # thresholds move the predictor as fixed columns do: c = -d2log f / deta drho stands where WQ does for gamma
    c = -d.eta.T
    Zc = rows.column_sums(c)
    with_gamma = rows.Q.T @ c - sum(
        (N.reshape(rows.p, own[0].size) @ own.reshape(r, own[0].size).T for N, own in zip(solved, Zc, strict=True)),
        np.zeros((rows.p, r)),
    )
    _, with_G, inner = at.solve(factor, Zc)
    return Own(gradient, -d.second - inner, with_gamma, with_G)


def leverages(rows: Rows, factor: Factor, inverses: list[Inverse], K: np.ndarray) -> np.ndarray:
    """l_i = z_i' N z_i per row, (n,): each row touches one level of every term."""
    plan = rows.plan
    total = np.zeros(rows.n)

    def z(t: int, a: int) -> np.ndarray | float:
        column = rows.columns[t][a]
        return 1.0 if column is None else column

    for i, (t, inverse, member) in enumerate(zip(plan.chain, inverses, factor.chain, strict=True)):
        code = rows.codes[t]
        k = len(member.A)
        for a in range(k):
            for b in range(k):
                total += z(t, a) * inverse.own[a, b][code] * z(t, b)
            for s, N in enumerate(inverse.parents):
                other = plan.chain[i + 1 + s]
                for b in range(N.shape[1]):
                    total += 2.0 * z(t, a) * N[a, b][code] * z(other, b)
        if plan.layout:
            if isinstance(member.coupling, Dense):
                across = -elimination.row_of_tail(np, member, inverses[i + 1 :], K)
                for slot, other in zip(plan.layout, plan.tail, strict=True):
                    for a in range(k):
                        for b in range(slot.k):
                            total += 2.0 * z(t, a) * across[a, code, slot.offset + b * slot.J + rows.codes[other]] * z(other, b)
            else:
                total += _across_sparse(rows, member, K)
    places = [
        (t, a, slot.offset + a * slot.J + rows.codes[t]) for slot, t in zip(plan.layout, plan.tail, strict=True) for a in range(slot.k)
    ]
    for t, a, first in places:
        for s, b, second in places:
            total += z(t, a) * K[first, second] * z(s, b)
    return total


def _across_sparse(rows: Rows, member: Eliminated, K: np.ndarray) -> np.ndarray:
    """The share of the leverages between the one eliminated factor and the tail, row by row: -2 z'W_j B_j K z."""
    plan = rows.plan
    t = plan.chain[0]
    out = np.empty(rows.n)
    step = max(1, 20_000_000 // max(1, len(K)))
    for first in range(0, rows.n, step):
        part = slice(first, first + step)
        Kz: np.ndarray = np.zeros((len(rows.codes[t][part]), len(K)))
        for slot, other in zip(plan.layout, plan.tail, strict=True):
            for b in range(slot.k):
                column, own = rows.columns[other][b], K[slot.offset + b * slot.J + rows.codes[other][part]]
                Kz += own if column is None else own * column[part, None]
        code = rows.codes[t][part]
        assert member.coupling is not None
        inside = np.einsum("abm,bm->am", member.W[..., code], member.coupling.rows(code, Kz))
        own_z = [1.0 if column is None else column[part] for column in rows.columns[t]]
        out[part] = -2.0 * sum(z * v for z, v in zip(own_z, inside, strict=True))
    return out


def _traces(at: Arrangement, factor: Factor, quadratics: list[np.ndarray], K: np.ndarray, Sinv: np.ndarray) -> list[np.ndarray]:
    """sum_j Q_jj per term in the design's order."""
    chain = elimination.trace_sums(np, factor, quadratics)
    rest = (
        tail.traces(np, at.layout, at.tail_T, at.well, tail.symmetrize(np, factor.C), [tail.block_trace(np, s, Sinv) for s in at.layout], K)
        if at.layout
        else []
    )
    order = np.argsort(at.plan.chain + at.plan.tail)
    both = chain + rest
    return [np.array(both[i]) for i in order]
