"""The modes of the random effects given the parameters: PIRLS with observed weights, which is Newton's method, on sums over rows.

Each step solves (Z'wZ + G^-1) b_new = Z'wZ b + Z'r with r and w the first and minus the second derivative of the rows'
log density in eta. The sums of one step are one request (:class:`~lmm.model.laplace.passes.ScoreSums`), which also tells whether the
step before it went down; only steps that must be halved cost more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lmm.linalg.factorisation import Factorisation
from lmm.linalg.plan import Plan
from lmm.model.laplace.passes import Scores, ScoreSums, Source, Task, Weighted, drive
from lmm.model.penalized import system_of

#: Newton decrement, in units of the log-likelihood, at which the mode is found; what is left enters J to first order
MODE_TOLERANCE = 1e-13
MAX_STEPS = 100
#: halvings of a Newton step before it is given up
HALVINGS = 40
#: share of a Newton step that counts as cut short, and how often that may happen
SHORT, CUTS = 0.02, 10
#: change of an effect, relative to the size of the predictor, up to which the mode is followed to first order
FAR = 2.0


#: one number, or one for each of several problems
Numbers = TypeVar("Numbers", float, np.ndarray)


@dataclass(frozen=True, eq=False)
class Mode:
    """The mode of the random effects at given parameters, and what was computed there.

    ``b``, ``u`` per term (k, J); ``sums`` over the rows there, ``factorisation`` with observed weights; ``steps``
    Newton steps taken; ``decrement`` and step ``db`` per term, ``d_gamma``, that a further one would bring.
    """

    source: Source
    b: list[np.ndarray]
    u: list[np.ndarray]
    sums: Scores
    factorisation: Factorisation
    gamma: np.ndarray
    steps: int
    decrement: float
    db: list[np.ndarray]
    d_gamma: np.ndarray

    @property
    def eta(self) -> np.ndarray | None:
        """(n,) linear predictor of rows in memory, else None."""
        return self.source.predictor(self.gamma, self.b)


class ProfiledFixedEffects:
    """The working linear model's equations in gamma after the random effects are eliminated."""

    def __init__(self, factorisation: Factorisation, sums: Weighted):
        assert sums.fixed is not None and sums.gram is not None
        self.ZWQ = sums.fixed
        self.solved, _, inner = factorisation.solve(self.ZWQ)
        self.information = sums.gram - inner

    def step(self, right: list[np.ndarray], b: list[np.ndarray], score: np.ndarray) -> np.ndarray:
        """The step in gamma: (Q'V^-1 Q)^-1 (Q'r + Q'WZ b - Q'WZ N (Z'WZ b + Z'r))."""
        return np.linalg.solve(
            self.information,
            score + dots(self.ZWQ, b) - dots(self.solved, [own[0] for own in right]),
        )


def dots(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    """The sums over terms of a_i'b, (m,), for a (m, k, J) and b (k, J) per term."""
    total = np.zeros(len(a[0]))
    for own, other in zip(a, b, strict=True):
        total += own.reshape(len(own), other.size) @ other.reshape(-1)
    return total


def products(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    """Sums over terms of a_i'b_j, (m, n), for a (m, k, J) and b (n, k, J) per term."""
    total = np.zeros((len(a[0]), len(b[0])))
    for own, other in zip(a, b, strict=True):
        size = own.shape[1] * own.shape[2]
        total += own.reshape(len(own), size) @ other.reshape(len(other), size).T
    return total


def find_modes(
    family: Any,
    source: Source,
    T: list[np.ndarray],
    gamma: np.ndarray,
    phi: Any,
    u: list[np.ndarray],
    free: bool = False,
    tolerance: float = MODE_TOLERANCE,
) -> Mode:
    """Newton's method with step-halving for the mode of u, started at ``u`` (k, J) per term; of gamma too when ``free``.

    Steps take the observed weights where Z'wZ + G^-1 is positive definite, the expected ones elsewhere (then it is Fisher
    scoring; both have the same fixed point).
    """
    return drive(
        source,
        [
            modes_task(
                family,
                source,
                T,
                gamma,
                phi,
                [t @ own for t, own in zip(T, u, strict=True)],
                u,
                free,
                tolerance,
            )
        ],
    )[0]


def modes_task(
    family: Any,
    source: Source,
    T: list[np.ndarray],
    gamma: np.ndarray,
    phi: Any,
    b: list[np.ndarray],
    u: list[np.ndarray],
    free: bool = False,
    tolerance: float = MODE_TOLERANCE,
    expected: bool = False,
) -> Task[Mode]:
    """:func:`find_modes` as a task, started at b = T u; ``expected`` asks for sums with expected weights on the way."""

    def score_sums(gamma: np.ndarray, b: list[np.ndarray], ceiling: float = np.inf) -> ScoreSums:
        return ScoreSums(family, gamma, b, phi, True, expected, free, ceiling)

    sums: Scores = yield score_sums(gamma, b)
    value = penalised(sums.kernel, half_square(source.plan, u))
    steps = cut = 0
    if not np.isfinite(value):  # a remembered start may be impossible at new parameters
        u = [np.zeros_like(own) for own in u]
        b = [np.zeros_like(own) for own in u]
        sums = yield score_sums(gamma, b)
        value = penalised(sums.kernel, half_square(source.plan, u))
    while True:
        working = sums.observed
        assert working is not None
        system = system_of(source, working)
        factorisation = system.try_factorize(T) if sums.negative else system.factorize(T)
        observed = factorisation is not None
        if factorisation is None:
            if sums.expected is None:
                found = yield ScoreSums(family, gamma, b, phi, False, True, free)
                sums = sums._replace(expected=found.expected)
            working = sums.expected
            assert working is not None
            factorisation = system_of(source, working).factorize(T)
        Ab = factorisation.system.multiply([own[None] for own in b])
        right = [own + g[None] for own, g in zip(Ab, sums.score, strict=True)]
        d_gamma = np.zeros(len(gamma))
        if free:
            profiled = ProfiledFixedEffects(factorisation, working)
            d_gamma = profiled.step(right, b, sums.fixed_score)
            right = [
                own - np.tensordot(d_gamma, F, 1)[None]
                for own, F in zip(right, profiled.ZWQ, strict=True)
            ]
        new_b, residual, _ = factorisation.solve(right, near=b)
        new_u = [
            factorisation.whiten(t, own[0], e[0])
            for t, own, e in zip(range(len(T)), new_b, residual, strict=True)
        ]
        du = [new - old for new, old in zip(new_u, u, strict=True)]
        prior = source.plan.precise(u)
        slope = [t.T @ g - own for t, g, own in zip(T, sums.score, prior, strict=True)]
        decrement = float(
            sum(np.sum(d * g) for d, g in zip(du, slope, strict=True)) + d_gamma @ sums.fixed_score
        )
        db = [new[0] - old for new, old in zip(new_b, b, strict=True)]
        if not np.isfinite(decrement) and any(
            np.any(own) for own in u
        ):  # so far out that the equations overflow: begin again
            u = [np.zeros_like(own) for own in u]
            b = [np.zeros_like(own) for own in u]
            sums = yield score_sums(gamma, b)
            value = penalised(sums.kernel, half_square(source.plan, u))
            steps += 1
            continue
        if decrement <= tolerance or steps >= MAX_STEPS or not np.isfinite(decrement):
            break
        length, most = 1.0, float(ceiling(value))
        for _ in range(HALVINGS):
            next_u = [old + length * d for old, d in zip(u, du, strict=True)]
            next_b = [old + length * d for old, d in zip(b, db, strict=True)]
            next_gamma = gamma + length * d_gamma
            square = half_square(source.plan, next_u)
            found = yield score_sums(next_gamma, next_b, most - square)
            next_value = penalised(found.kernel, square)
            if next_value <= most:
                break
            length *= 0.5
        else:
            break
        b, u, gamma, sums, value = next_b, next_u, next_gamma, found, next_value
        steps += 1
        cut += length < SHORT
        if cut > CUTS:  # creeping towards an edge of the link's range, where there is no mode
            break
    if not observed:
        assert sums.observed is not None
        factorisation = system_of(source, sums.observed).factorize(T)
    return Mode(source, b, u, sums, factorisation, gamma, steps, decrement, db, d_gamma)


def follow(
    T: list[np.ndarray],
    old: Mode,
    gamma: np.ndarray,
    score: list[np.ndarray] | None,
    fixed: list[np.ndarray],
    scale: float = 1.0,
) -> Start | None:
    """Where the mode goes to first order when parameters move, without a pass: b (k, J) and u per term; None for a step too far.

    One Newton step at the new G and gamma from the sums at the old ones, Z'wQ = ``fixed`` (p, k, J) per term among them;
    ``score`` is what else the score Z'r gains (k, J) per term, ``scale`` the size of the predictor.
    """
    system = old.factorisation.system
    factorisation = system.try_factorize(T)
    if factorisation is None:
        return None
    step = gamma - old.gamma
    Ab = system.multiply([own[None] for own in old.b])
    right = [
        own + (g - np.tensordot(step, F, 1) + (0.0 if score is None else score[t]))[None]
        for t, (own, g, F) in enumerate(zip(Ab, old.sums.score, fixed, strict=True))
    ]
    b, e, _ = factorisation.solve(right)
    u = [
        factorisation.whiten(t, own[0], rest[0])
        for t, (own, rest) in enumerate(zip(b, e, strict=True))
    ]
    b = [own[0] for own in b]
    far = max(
        (float(np.max(np.abs(new - own), initial=0.0)) for new, own in zip(b, old.b, strict=True)),
        default=0.0,
    )
    return Start(b, u) if np.isfinite(far) and far <= FAR * scale else None


class Start(NamedTuple):
    """Random effects to begin from: b = T u, (k, J) per term."""

    b: list[np.ndarray]
    u: list[np.ndarray]


def penalised(kernel: Numbers, half_square: Numbers) -> np.ndarray:
    """-sum log f + u'u / 2, of one problem or of many; infinite where the density cannot be computed."""
    value = half_square - kernel
    return np.where(np.isfinite(value), value, np.inf)


def ceiling(value: Numbers) -> Numbers:
    """What a step may lead to that goes down but for rounding."""
    return value + 1e-12 * (1.0 + abs(value))


def half_square(plan: Plan, u: list[np.ndarray]) -> float:
    """u'u / 2; u'K^-1 u / 2 where levels are related by K."""
    prior = plan.precise(u)
    return 0.5 * float(sum(np.sum(own * other) for own, other in zip(u, prior, strict=True)))
