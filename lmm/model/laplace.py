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

All of it is made of sums over rows (:mod:`lmm.model.passes`): some for each step towards the mode, and one pass for the
leverages at the mode.

References: Breslow & Clayton (1993), J. Am. Stat. Assoc. 88; Bates et al. (2015); Kristensen et al.
(2016), J. Stat. Softw. 70(5) for implicit differentiation through the mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lmm.linalg.factorisation import BlockFactorisation, Factorisation
from lmm.model.leverage import tables
from lmm.model.mode import MAX_STEPS as MAX_STEPS
from lmm.model.mode import MODE_TOLERANCE as MODE_TOLERANCE
from lmm.model.mode import Mode, ProfiledFixedEffects, dots, seek
from lmm.model.passes import Expand, Slope, Slopes, Source, Task, Weighted, drive
from lmm.model.penalized import system_of

#: decrement above which there is no mode to expand around, and so no likelihood
FOUND = 1e-6
#: what the log determinant may still change, relative to it, between where a search ended and the mode: much at an edge of a link's range
ROUND = 0.1


@dataclass(frozen=True, eq=False)
class Laplace:
    """J and its derivatives at a mode.

    ``D`` per term (k, k), dJ/dG; ``d_gamma`` (p,) for the orthonormal fixed columns. ``fixed`` holds
    F = Z'V^-1 Q per term (p, k, J) and ``information`` Q'V^-1 Q of the working linear model, ``working`` its Z'WZ and
    ``factorisation``. ``own`` is what concerns the family's own parameters, ``slopes`` the sums of the last pass.
    """

    objective: float
    mode: Mode
    D: list[np.ndarray]
    d_gamma: np.ndarray
    own: FamilyParameters
    e: list[np.ndarray]
    fixed: list[np.ndarray]
    information: np.ndarray
    working: Weighted
    factorisation: Factorisation
    slopes: Slopes


@dataclass(frozen=True, eq=False)
class FamilyParameters:
    """The family's own parameters rho (r,) at a mode.

    ``gradient`` (r,) is dJ/drho, ``information`` (r, r) half a positive semi-definite guess of the second derivative.
    ``with_gamma`` (p, r) couples rho to the fixed effects as ``information`` of gamma does, ``with_G`` per term (r, k, J),
    or an empty list, to G as ``fixed`` does.
    """

    gradient: np.ndarray
    information: np.ndarray
    with_gamma: np.ndarray
    with_G: list[np.ndarray]


def laplace(
    family: Any,
    source: Source,
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
    return drive(source, [expand(family, source, T, gamma, phi, u, None, observed, free, constant, tolerance)])[0]


def expand(
    family: Any,
    source: Source,
    T: list[np.ndarray],
    gamma: np.ndarray,
    phi: Any,
    u: list[np.ndarray],
    b: list[np.ndarray] | None = None,
    observed: bool = False,
    free: bool = False,
    constant: float | None = None,
    tolerance: float = MODE_TOLERANCE,
) -> Task[Laplace]:
    """:func:`laplace` as a task of passes; ``b`` = T u where it is known."""
    same = observed or family.is_canonical
    b = [t @ own for t, own in zip(T, u, strict=True)] if b is None else b
    mode = yield from seek(family, source, T, gamma, phi, b, u, free, tolerance, not same and source.distant)
    working, at = mode.sums.observed, mode.factorisation
    if not same:
        working = mode.sums.expected
        if working is None:
            working = (yield Expand(family, mode.gamma, mode.b, phi, False, True)).expected
        assert working is not None
        at = system_of(source, working).factorize(T)
    assert working is not None
    assert isinstance(at, BlockFactorisation)
    slopes: Slopes = yield Slope(family, mode.gamma, mode.b, phi, tables(at), observed, constant is None)
    Z_wQ = slopes.fixed if slopes.fixed_observed is None else slopes.fixed_observed
    Q_wQ = slopes.gram if slopes.gram_observed is None else slopes.gram_observed

    constant = slopes.constant if constant is None else constant
    penalty = float(sum(np.sum(u * u) for u in mode.u))
    objective = -2.0 * (mode.sums.kernel + constant) + penalty - max(mode.decrement, 0.0) + at.logdet
    left = float(sum(np.sum(own * d) for own, d in zip(slopes.t, mode.db, strict=True)) + slopes.fixed_t @ mode.d_gamma)
    objective += left
    if not (mode.decrement <= max(FOUND, tolerance) and abs(left) <= ROUND * (1.0 + abs(at.logdet))):
        objective = np.inf
    s, c_gamma = slopes.t, np.zeros(len(mode.gamma))
    if free:
        assert mode.sums.observed is not None
        profiled = ProfiledFixedEffects(mode.factorisation, mode.sums.observed)
        c_gamma = np.linalg.solve(profiled.information, slopes.fixed_t - dots(profiled.solved, s))
        s = [own - np.tensordot(c_gamma, F, 1) for own, F in zip(s, profiled.ZWQ, strict=True)]
    c, f, _ = mode.factorisation.solve([own[None] for own in s])
    e, fixed_score = next_scores(mode, Z_wQ, Q_wQ)
    D = at.traces()
    for D_t, e_t, f_t in zip(D, e, f, strict=True):
        cross = f_t[0] @ e_t.T
        D_t += -(e_t @ e_t.T) + (cross + cross.T) / 2
    shift = [own[0] for own in c]
    d_gamma = -2.0 * fixed_score + slopes.fixed_t - dots(Z_wQ, shift) - Q_wQ @ c_gamma
    solved, fixed, inner = at.solve(slopes.fixed)
    own = family_parameters(family, source, at, slopes, shift, c_gamma, solved)
    return Laplace(objective, mode, D, d_gamma, own, e, fixed, slopes.gram - inner, working, at, slopes)


def next_scores(mode: Mode, Z_wQ: list[np.ndarray], Q_wQ: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Z'r per term (k, J) and Q'r (p,) where the next step of the search for the mode would end."""
    moved = mode.factorisation.system.multiply([own[None] for own in mode.db])
    e = [own - Ad[0] - np.tensordot(mode.d_gamma, F, 1) for own, Ad, F in zip(mode.sums.score, moved, Z_wQ, strict=True)]
    return e, mode.sums.fixed_score - dots(Z_wQ, mode.db) - Q_wQ @ mode.d_gamma


def family_parameters(
    family: Any,
    source: Source,
    at: Factorisation,
    sums: Slopes,
    shift: list[np.ndarray],
    shift_gamma: np.ndarray,
    solved: list[np.ndarray],
) -> FamilyParameters:
    """What concerns rho; ``shift`` is c per term, ``solved`` N Z'WQ per term."""
    r, p = family.n_parameters, len(shift_gamma)
    if not r:
        return FamilyParameters(np.zeros(0), np.zeros((0, 0)), np.zeros((p, 0)), [])
    gradient = -2.0 * sums.first + sums.moved + dots(sums.mixed, shift) + shift_gamma @ sums.fixed_mixed
    if family.has_dispersion:
        with_G: list[np.ndarray] = [] if sums.working is None else at.solve(sums.working).residual
        rows = float(source.pattern.n)
        information = max(-float(sums.second[0, 0]), 0.5 * float(sums.squares[0]), 0.5e-10 * rows)
        return FamilyParameters(gradient, np.array([[information]]), np.zeros((p, r)), with_G)
    # thresholds move the predictor as fixed columns do: c = -d2log f / deta drho stands where WQ does for gamma
    Zc = [-own for own in sums.mixed]
    with_gamma = -sums.fixed_mixed - sum(
        (N.reshape(p, own[0].size) @ own.reshape(r, own[0].size).T for N, own in zip(solved, Zc, strict=True)),
        np.zeros((p, r)),
    )
    _, with_G, inner = at.solve(Zc)
    return FamilyParameters(gradient, -sums.second - inner, with_gamma, with_G)
