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

Restricted: integrated over beta as well, with a flat prior, J gains log|X'V^-1 X| - p log 2 pi of the working linear model, beta joins
u in the mode, and with F = Z'V^-1 X the leverages l_i gain those of the columns of X given Z, and dJ/dG loses F (X'V^-1 X)^-1 F'.

All of it is made of sums over rows (:mod:`lmm.model.laplace.passes`): some for each step towards the mode, and one pass for the
leverages at the mode.

References: Breslow & Clayton (1993), J. Am. Stat. Assoc. 88; Bates et al. (2015); Kristensen et al.
(2016), J. Stat. Softw. 70(5) for implicit differentiation through the mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lmm.linalg.factorisation import Factorisation
from lmm.model.laplace.leverage import tables_of
from lmm.model.laplace.modes import (
    MODE_TOLERANCE,
    Mode,
    ProfiledFixedEffects,
    dots,
    half_square,
    modes_task,
    products,
)
from lmm.model.laplace.passes import (
    LeverageSums,
    Profiled,
    ScoreSums,
    Slopes,
    Source,
    Task,
    Weighted,
    drive,
)
from lmm.model.penalized import system_of

#: least eigenvalue of a guessed information of the family's own parameters, relative to its diagonal
LEAST_OF = 0.1
#: decrement above which there is no mode to expand around, and so no likelihood
FOUND = 1e-6
#: what the log determinant may still change, relative to it, between where a search ended and the mode: much at an edge of a link's range
ROUND = 0.1


class NextScores(NamedTuple):
    """Where the next step of the search for the mode would end: Z'r per term (k, J) and Q'r (p,)."""

    random: list[np.ndarray]
    fixed: np.ndarray


class Determinant(NamedTuple):
    """log|I + T'Z'WZT| at a mode and its derivatives, as each of m probes sees them; m = 1 where they are exact.

    ``logdet`` (m,) beside what the factorisation knows; ``G`` per term (m, k, k), ``gamma`` (m, p) and ``rho`` (m, r) its derivatives,
    the mode moving along; ``step`` (m,) its change along what is left of the search for the mode, after which ``scores`` are.

    ``fixed`` holds F = Z'V^-1 Q per term (p, k, J), ``solved`` N Z'WQ, ``information`` Q'V^-1 Q of the working linear model;
    ``quadratics`` v'Qv (K, K) in the symmetric directions of G where they are known; ``steps`` of the conjugate gradients.
    """

    scores: NextScores
    logdet: np.ndarray
    G: list[np.ndarray]
    gamma: np.ndarray
    rho: np.ndarray
    step: np.ndarray
    fixed: list[np.ndarray]
    solved: list[np.ndarray]
    information: np.ndarray
    quadratics: np.ndarray | None = None
    steps: int = 0


@dataclass(frozen=True, eq=False)
class AtMode:
    """What a determinant is taken of: the mode, the working model's Z'WZ and its factorisation with the determinant's weights.

    ``free`` : whether the fixed effects move with the mode; ``constant`` : whether that of the log density is wanted.
    """

    family: Any
    source: Source
    phi: Any
    mode: Mode
    working: Weighted
    factorisation: Factorisation
    observed: bool
    free: bool
    constant: bool

    @property
    def same(self) -> bool:
        """Whether the determinant's weights are those of the mode."""
        return bool(self.family.shares_weights(self.observed))

    def scores(self, slopes: Slopes) -> NextScores:
        """The scores after another step."""
        mode, ZwQ = self.mode, slopes.ZwQ
        moved = mode.factorisation.system.multiply([own[None] for own in mode.db])
        e = [
            own - Ad[0] - np.tensordot(mode.d_gamma, F, 1)
            for own, Ad, F in zip(mode.sums.score, moved, ZwQ, strict=True)
        ]
        return NextScores(e, mode.sums.fixed_score - dots(ZwQ, mode.db) - slopes.QwQ @ mode.d_gamma)


#: a way to the determinant and its derivatives, with the sums over rows that it asks for
Way = Callable[[AtMode], Task[tuple[Slopes, Determinant]]]


@dataclass(frozen=True, eq=False)
class Laplace:
    """J and its derivatives at a mode.

    ``D`` per term (k, k), dJ/dG; ``d_gamma`` (p,) for the orthonormal fixed columns. ``e`` is Z'r at the mode. ``parameters`` is
    what concerns the family's own parameters, ``determinant`` what is known of the log determinant and the working linear model,
    ``factorisation`` of its Z'WZ, ``working``; ``slopes`` the sums of the last pass.
    """

    objective: float
    mode: Mode
    D: list[np.ndarray]
    d_gamma: np.ndarray
    parameters: FamilyParameters
    e: list[np.ndarray]
    determinant: Determinant
    working: Weighted
    factorisation: Factorisation
    slopes: Slopes

    @property
    def fixed(self) -> list[np.ndarray]:
        """F = Z'V^-1 Q per term (p, k, J) of the working linear model."""
        return self.determinant.fixed

    @property
    def information(self) -> np.ndarray:
        """Q'V^-1 Q (p, p) of the working linear model."""
        return self.determinant.information

    def each(self) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """D per term (m, k, k), d_gamma (m, p) and the gradient in rho (m, r) as each probe sees them."""
        found = self.determinant
        D = [own + mean - own.mean(axis=0) for own, mean in zip(found.G, self.D, strict=True)]
        gamma = found.gamma + (self.d_gamma - found.gamma.mean(axis=0))
        return D, gamma, found.rho + (self.parameters.gradient - found.rho.mean(axis=0))

    def quadratics(self, dG: list[np.ndarray], v: list[np.ndarray]) -> np.ndarray:
        """v_i'Q v_j (m, m) of v = dG e, for directions dG (m_t, k, k) of all terms and v (m, k, J) per term."""
        known = self.determinant.quadratics
        if known is None:
            Av = self.factorisation.system.multiply(v)
            return products(v, Av) - self.factorisation.solve(Av).inner
        C, row, column = np.zeros((len(v[0]), len(known))), 0, 0
        for own in dG:
            basis = symmetric(own.shape[1])
            block = np.tensordot(own, basis, ([1, 2], [1, 2])) / np.sum(basis**2, axis=(1, 2))
            C[row : row + len(own), column : column + len(basis)] = block
            row, column = row + len(own), column + len(basis)
        return np.asarray(C @ known @ C.T)


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
    return drive(
        source,
        [laplace_task(family, source, T, gamma, phi, u, None, observed, free, constant, tolerance)],
    )[0]


def by_leverages(here: AtMode, restricted: float | None = None) -> Task[tuple[Slopes, Determinant]]:
    """The determinant's derivatives from the leverages of all rows, exactly.

    ``restricted`` : what the integral over the fixed effects, which are ``free`` and have observed weights then, adds beside
    log|Q'V^-1 Q|; None where they are not integrated over.
    """
    mode, at = here.mode, here.factorisation
    profiled = inverse = None
    if here.free:
        assert mode.sums.observed is not None
        profiled = ProfiledFixedEffects(mode.factorisation, mode.sums.observed)
    if profiled is not None and restricted is not None:
        inverse = Profiled(profiled.solved, inverse_root(profiled.information))
    slopes: Slopes = yield LeverageSums(
        here.family,
        mode.gamma,
        mode.b,
        here.phi,
        tables_of(at),
        here.observed,
        here.constant,
        inverse,
    )
    s, c_gamma = slopes.t, np.zeros(len(mode.gamma))
    if profiled is not None:
        c_gamma = np.linalg.solve(profiled.information, slopes.fixed_t - dots(profiled.solved, s))
        s = [own - np.tensordot(c_gamma, F, 1) for own, F in zip(s, profiled.ZWQ, strict=True)]
    c, f, _ = mode.factorisation.solve([own[None] for own in s])
    shift = [own[0] for own in c]
    G = []
    scores = here.scores(slopes)
    for t, (trace, e) in enumerate(zip(at.traces(), scores.random, strict=True)):
        cross = f[t][0] @ at.related(t, e).T
        G.append((trace + (cross + cross.T) / 2)[None])
    solved, fixed, inner = at.solve(slopes.fixed)
    logdet = np.zeros(1)
    if inverse is not None and restricted is not None:
        logdet += restricted - 2.0 * np.log(np.abs(np.diagonal(inverse.root))).sum()
        for t, (own, F) in enumerate(zip(G, fixed, strict=True)):
            half = np.tensordot(inverse.root.T, F, 1)
            own -= np.einsum("pkj,plj->kl", half, at.related(t, half))
    return slopes, Determinant(
        scores=scores,
        logdet=logdet,
        G=G,
        gamma=(slopes.fixed_t - dots(slopes.ZwQ, shift) - slopes.QwQ @ c_gamma)[None],
        rho=(slopes.moved + dots(slopes.mixed, shift) + c_gamma @ slopes.fixed_mixed)[None]
        if slopes.mixed
        else np.zeros((1, 0)),
        step=np.array(
            [
                sum(np.sum(own * d) for own, d in zip(slopes.t, mode.db, strict=True))
                + slopes.fixed_t @ mode.d_gamma
            ]
        ),
        fixed=fixed,
        solved=solved,
        information=slopes.gram - inner,
    )


def inverse_root(information: np.ndarray) -> np.ndarray:
    """C (p, p), triangular, with C C' the inverse of an information matrix; LinAlgError where it is not positive definite."""
    L = np.linalg.cholesky(information)
    return np.asarray(np.linalg.solve(L, np.eye(len(L)))).T


def laplace_task(
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
    way: Way = by_leverages,
) -> Task[Laplace]:
    """:func:`laplace` as a task of passes; ``b`` = T u where it is known, ``way`` to the determinant."""
    same = family.shares_weights(observed)
    b = [t @ own for t, own in zip(T, u, strict=True)] if b is None else b
    mode = yield from modes_task(
        family, source, T, gamma, phi, b, u, free, tolerance, not same and source.distant
    )
    working, at = mode.sums.observed, mode.factorisation
    if not same:
        working = mode.sums.expected
        if working is None:
            working = (yield ScoreSums(family, mode.gamma, mode.b, phi, False, True)).expected
        assert working is not None
        at = system_of(source, working).factorize(T)
    assert working is not None
    here = AtMode(family, source, phi, mode, working, at, observed, free, constant is None)
    slopes, found = yield from way(here)

    e, fixed_score = found.scores
    constant = slopes.constant if constant is None else constant
    objective = float(
        approximation(
            mode.sums.kernel + constant,
            2.0 * half_square(source.plan, mode.u),
            mode.decrement,
            at.logdet + float(_mean(found.logdet)),
            float(_mean(found.step)),
            tolerance,
        )
    )
    if family.widest < np.inf and is_wide(at, T, family.widest):
        objective = np.inf
    D = []
    for t, (own, e_t) in enumerate(zip(found.G, e, strict=True)):
        D.append(_mean(own) - e_t @ at.related(t, e_t).T)
    d_gamma = _mean(found.gamma) - 2.0 * fixed_score
    parameters = family_parameters(family, source, at, slopes, found)
    return Laplace(objective, mode, D, d_gamma, parameters, e, found, working, at, slopes)


def approximation(
    density: np.ndarray | float,
    square: np.ndarray | float,
    decrement: np.ndarray | float,
    logdet: np.ndarray | float,
    left: np.ndarray | float,
    tolerance: float = MODE_TOLERANCE,
) -> np.ndarray:
    """J where a search for the mode ended, to first order what is left of it included; infinite where there is no mode near.

    ``density`` sum log f, ``square`` u'u, ``left`` what log|I + T'Z'WZT| still changes by; of one problem or of many.
    """
    found = (decrement <= max(FOUND, tolerance)) & (np.abs(left) <= ROUND * (1.0 + np.abs(logdet)))
    value = -2.0 * density + square - np.maximum(decrement, 0.0) + logdet + left
    return np.where(found, value, np.inf)


def is_wide(at: Factorisation, T: list[np.ndarray], widest: float) -> bool:
    """Whether the conditional variance of some effect, from the curvature at the mode, is more than ``widest`` times its own variance.

    Observed weights may be negative; where their curvature is all but lost the mode is about to part in two, and log|I + T'Z'WZT|
    falls without end.
    """
    for N, own in zip(at.inverse_blocks(), T, strict=True):
        G = own @ own.T
        for a in range(len(G)):
            if np.any(N[a, a] > widest * G[a, a]):
                return True
    return False


def dispersion_information(
    second: np.ndarray | float, squares: np.ndarray | float, rows: float
) -> np.ndarray | float:
    """Half a positive guess of d2J / drho2, from sums over rows of d2l / drho2 and of (dl / drho)^2."""
    return np.maximum(np.maximum(-second, 0.5 * squares), 0.5e-10 * rows)


def shape_information(second: np.ndarray, squares: np.ndarray, rows: float) -> np.ndarray:
    """Half a positive definite guess (r, r) of d2J / drho2: -d2l / drho2 where that is one, else no correlation beyond LEAST_OF."""
    least = dispersion_information(np.diagonal(second), squares, rows)
    scale = np.sqrt(np.outer(least, least))
    values, vectors = np.linalg.eigh(-second / scale)
    return np.asarray((vectors * np.maximum(values, LEAST_OF)) @ vectors.T * scale)


def family_parameters(
    family: Any, source: Source, at: Factorisation, sums: Slopes, found: Determinant
) -> FamilyParameters:
    """What concerns rho."""
    r, p = family.n_parameters, len(found.information)
    if not r:
        return FamilyParameters(np.zeros(0), np.zeros((0, 0)), np.zeros((p, 0)), [])
    gradient = _mean(found.rho) - 2.0 * sums.first
    if not family.threshold_names:
        with_G: list[np.ndarray] = [] if sums.working is None else at.solve(sums.working).residual
        information = shape_information(sums.second, sums.squares, float(source.pattern.n))
        return FamilyParameters(gradient, np.asarray(information), np.zeros((p, r)), with_G)
    # thresholds move the predictor as fixed columns do: c = -d2log f / deta drho stands where WQ does for gamma
    Zc = [-own for own in sums.mixed]
    with_gamma = -sums.fixed_mixed - products(found.solved, Zc)
    _, with_G, inner = at.solve(Zc)
    return FamilyParameters(gradient, -sums.second - inner, with_gamma, with_G)


def _mean(each: np.ndarray) -> np.ndarray:
    """The mean over probes."""
    return np.asarray(each[0] if len(each) == 1 else each.mean(axis=0))


def symmetric(k: int) -> np.ndarray:
    """A basis (k (k + 1) / 2, k, k) of the symmetric matrices: ones at (a, b) and (b, a)."""
    pairs = [(a, b) for a in range(k) for b in range(a + 1)]
    out = np.zeros((len(pairs), k, k))
    for i, (a, b) in enumerate(pairs):
        out[i, a, b] = out[i, b, a] = 1.0
    return out
