"""Expectation-maximisation for linear mixed models by ML and REML, with parameter expansion and extrapolation.

With C the conditional covariance of the random effects b given the data (for REML joint with that of the fixed
effects, Henderson's inverse), the M-step sets Cov(b_j) to the mean over the J levels of b_j b_j' + C_jj. In the
relative covariance G and the derivative D = sum_j [Q_P]_jj - e e'/sigma^2 of the criterion that is

    G <- G - G D G / J,

projected on the covariance structure; sigma^2 is profiled out, which raises the likelihood at least as much as its
own M-step (ECME: Liu & Rubin 1994, Biometrika 81). EM alone reaches a variance of zero only in the limit and crawls
along a correlation of one. With b_j = A u_j and A estimated as well (PX-EM: Liu, Rubin & Wu 1998, Biometrika 85;
Foulley & van Dyk 2000, Genet. Sel. Evol. 32) it does not: the expected complete-data criterion is quadratic in A, its
slope at A = I is 2 D G, its curvature at most that of

    sum_j (Z_j'WZ_j) (x) (b_j b_j' / sigma^2 + G)

times the number of terms, so that the step A - I = -curvature^-1 slope, and G <- A (G - G D G / J) A', lowers the
criterion too. Steps are extrapolated by SQUAREM (Varadhan & Roland 2008, Scand. J. Stat. 35) where that is lower yet:

    r = G1 - G0,  v = (G2 - G1) - r,  a = -|r| / |v|,  G <- G0 - 2 a r + a^2 v.

The search ends when a Newton step on the average information promises less than a tolerance, as every other search
here does, and not when steps become small; a variance at zero that the conditions of the minimum over G >= 0 refuse,
which EM cannot leave, is left first.

Dempster, Laird & Rubin (1977), J. R. Stat. Soc. B 39; Laird & Ware (1982), Biometrics 38.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from lmm.covariance import Covariance
from lmm.covariance.structure import units
from lmm.estimators.checkpoint import Checkpoint, data_numbers
from lmm.estimators.control import Control
from lmm.estimators.estimator import LINEAR, Callback, Estimator
from lmm.estimators.likelihood.maximum_likelihood import finish, first_theta, of_determined
from lmm.estimators.likelihood.profiled import Evaluator
from lmm.estimators.restart import second_look
from lmm.estimators.settings import CONTROL, COUNT, FLAG, POSITIVE, check_settings
from lmm.linalg import threads
from lmm.model.problem import Problem
from lmm.model.records import Estimate, Report
from lmm.search.boundary import escapes, snap
from lmm.search.trust_region import NOWHERE, Outcome, Point, step_within

#: smallest share of a variance that an extrapolation may leave of it
SHARE = 0.05
#: extrapolations tried, each half as far as the last, before the plain step is taken
HALVINGS = 4
#: promised decrease from which the search may end because it has not halved in so many evaluations, rounding being left
FINE, PATIENCE = 1e-9, 20
#: rise of the criterion, relative to its size, that rounding makes
NOISE = 1e-13


@dataclass(frozen=True)
class ExpectationMaximization(Estimator):
    """ML (``reml=False``) or REML by expectation-maximisation, accelerated.

    The estimates are those of the default method, which needs far fewer evaluations; this one lowers the criterion at
    every step and stays among the covariances that are possible.

    Parameters
    ----------
    reml : restricted maximum likelihood or maximum likelihood.
    control : ``evaluate_only``, ``backend`` and ``verbose`` are used.
    tolerance : stop when a Newton step would lower the deviance by less than this.
    max_iterations : evaluations of the criterion after which the fit stops unconverged.
    accelerate : expand and extrapolate; False takes the plain EM steps of Laird and Ware, which seldom end where a variance
        is zero.

    Raises
    ------
    ArgumentError : for a tolerance or limit that is not positive.

    Example
    -------
    >>> import lmm
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"), method="em")
    >>> round(fit.reml_criterion, 4)
    1743.6283
    """

    reml: bool = True
    control: Control = Control()
    tolerance: float = 1e-12
    max_iterations: int = 5000
    accelerate: bool = True
    name = "em"
    models = (LINEAR,)
    maximises = takes_checkpoint = True

    def __post_init__(self) -> None:
        check_settings(
            self,
            reml=FLAG,
            control=CONTROL,
            tolerance=POSITIVE,
            max_iterations=COUNT,
            accelerate=FLAG,
        )

    def fit(
        self, problem: Problem, start: np.ndarray | None = None, callback: Callback | None = None
    ) -> Estimate:
        """Lower the criterion to its minimum.

        Parameters
        ----------
        problem : the sums of a design.
        start : theta (m,) to begin from; moments of the data otherwise.
        callback : called with each line of the trace: "objective", "theta", "sigma", "decrease" (promised by a Newton
            step), "step" (1 an EM step, else the length of the extrapolation) and "accepted".
        """
        begin = perf_counter()
        evaluate = Evaluator(problem, self.reml)
        if not self.control.evaluate_only:
            without = of_determined(self, problem, evaluate, start, callback)
            if without is not None:
                return without
        theta = first_theta(problem, start)
        saved = Checkpoint(
            self.control.checkpoint,
            problem,
            (self.name, "reml" if self.reml else "ml"),
            data_numbers(problem, theta[:0]),
        )
        theta, callback = saved.begin(theta, callback)
        if self.control.evaluate_only:
            outcome = Outcome.without_search(
                evaluate(theta), "evaluated at the given theta, not optimised"
            )
        else:
            outcome = optimum(
                evaluate, theta, self.tolerance, self.max_iterations, self.accelerate, callback
            )
        estimate = finish(
            problem, evaluate, outcome, self.name, {"optimise": perf_counter() - begin}
        )
        how = "REML" if self.reml else "maximum likelihood"
        return saved.finish(
            replace(
                estimate,
                report=Report(f"Linear mixed model fit by {how} (expectation-maximisation)"),
            )
        )

    @threads.limited()
    def objective(self, problem: Problem, theta: np.ndarray) -> float:
        """-2 log-likelihood (ML) or the REML criterion at theta (m,)."""
        return Evaluator(problem, self.reml).objective(theta)


class _Search:
    """Counts, records and limits evaluations."""

    def __init__(
        self,
        evaluate: Evaluator,
        tolerance: float,
        limit: int,
        plain: bool,
        callback: Callback | None,
    ):
        self.evaluate, self.tolerance, self.limit, self.callback = (
            evaluate,
            tolerance,
            limit,
            callback,
        )
        self.problem = evaluate.problem
        self.masks = [_mask(s) for s in self.problem.structures]
        self.plain = plain
        self.trace: list[dict[str, object]] = []

    def at(self, theta: np.ndarray, step: float, below: float) -> Point:
        """Evaluate; ``below`` is the objective that it must not exceed to be accepted."""
        point = self.evaluate(theta)
        finite = np.isfinite(point.objective)
        line = {
            "objective": point.objective,
            "theta": point.theta,
            "sigma": float(np.sqrt(self.evaluate.variance(point.payload.value)))
            if finite
            else float("nan"),
            "decrease": promised(point) if finite else float("nan"),
            "step": step,
            "accepted": not worse(point, below),
        }
        self.trace.append(line)
        if self.callback is not None:
            self.callback(line)
        return point

    @property
    def spent(self) -> bool:
        return len(self.trace) >= self.limit

    def map(self, point: Point) -> list[np.ndarray]:
        """The M-step's covariance of each term: A (G - G D G / J) A'."""
        out, s2 = [], self.evaluate.variance(point.payload.value)
        terms = self.problem.plan.terms
        for t, (G, D, b) in enumerate(
            zip(
                self.problem.covariances(point.theta),
                point.payload.D,
                point.payload.modes,
                strict=True,
            )
        ):
            A = (
                np.eye(len(G))
                if self.plain
                else expansion(
                    G, D, b / np.sqrt(s2), self.problem.cross.diag[t], self.masks[t], len(terms)
                )
            )
            out.append(A @ (G - G @ D @ G / terms[t].J) @ A.T)
        return out

    def theta(self, G: list[np.ndarray]) -> np.ndarray:
        """Parameters of covariances, nearest where they do not have the structure."""
        return self.problem.theta_of([(own + own.T) / 2 for own in G])

    def end(self, point: Point, converged: bool, message: str) -> Outcome:
        return Outcome(
            point,
            converged,
            message,
            len(self.trace) - 1,
            len(self.trace),
            promised(point),
            tuple(self.trace),
        )


def optimum(
    evaluate: Evaluator,
    theta: np.ndarray,
    tolerance: float,
    limit: int,
    accelerate: bool,
    callback: Callback | None,
) -> Outcome:
    """Where EM steps from theta (m,) end, or from above where that is lower; variances that are nearly zero are zero."""
    fine = max(tolerance, 1e-9)

    def search(start: np.ndarray, known: float = np.inf) -> Outcome:
        return snap(
            evaluate.problem,
            evaluate,
            climb(evaluate, start, tolerance, limit, accelerate, callback),
            fine,
        )

    return second_look(evaluate.problem, evaluate, search(theta), search, fine)


def climb(
    evaluate: Evaluator,
    theta: np.ndarray,
    tolerance: float,
    limit: int,
    accelerate: bool,
    callback: Callback | None,
) -> Outcome:
    """EM steps from theta (m,) until a Newton step promises less than ``tolerance``."""
    search = _Search(evaluate, tolerance, limit, not accelerate, callback)
    point = search.at(theta, 0.0, np.inf)
    if not np.isfinite(point.objective):
        return Outcome(point, False, NOWHERE, 0, 1, float("nan"), tuple(search.trace))
    for _ in search.problem.structures:  # EM never leaves a zero, so those of the start go first
        better = _escape(search, point)
        if better is None:
            break
        point = better
    cap, least, since = 4.0, np.inf, 0
    while True:
        gain = promised(point)
        if gain < 0.5 * least:
            least, since = gain, len(search.trace)
        stalled = gain <= FINE and len(search.trace) - since >= PATIENCE
        if gain <= tolerance or stalled:
            better = _escape(search, point)
            if better is None:
                reached = "what rounding leaves" if stalled else "the tolerance"
                return search.end(point, True, f"a Newton step promises less than {reached}")
            point = better
        if search.spent:
            return search.end(point, False, f"stopped at the limit of {limit} iterations")
        G0 = search.problem.covariances(point.theta)
        first = search.at(search.theta(search.map(point)), 1.0, point.objective)
        if worse(
            first, point.objective
        ):  # a structure without a closed M-step, or rounding at the optimum
            return search.end(
                point, gain <= FINE, "an EM step does not lower the criterion any more"
            )
        if not accelerate or search.spent or promised(first) <= tolerance:
            point = first
            continue
        G1 = search.problem.covariances(first.theta)
        G2 = search.problem.covariances(search.theta(search.map(first)))
        far, cap = _extrapolate(search, first, (G0, G1, G2), cap)
        point = first if far is None else far


def _extrapolate(
    search: _Search, first: Point, G: tuple[list[np.ndarray], ...], cap: float
) -> tuple[Point | None, float]:
    """The point of a SQUAREM step that lowers the criterion, and the longest step that the next may take."""
    G0, G1, G2 = G
    r = [b - a for a, b in zip(G0, G1, strict=True)]
    v = [(c - b) - d for b, c, d in zip(G1, G2, r, strict=True)]
    size, bend = _norm(search.problem, G1, r), _norm(search.problem, G1, v)
    length = min(max(1.0, size / bend if bend > 0 else 1.0), cap)
    if length == cap:
        cap *= 4.0
    for _ in range(HALVINGS):
        if length <= 1.0:
            break
        own = [a + 2.0 * length * b + length**2 * c for a, b, c in zip(G0, r, v, strict=True)]
        if all(_share(b, a) >= SHARE for a, b in zip(G2, own, strict=True)):
            if search.spent:
                return None, cap
            point = search.at(search.theta(own), length, first.objective)
            if not worse(point, first.objective):
                return point, cap
            cap = max(4.0, length / 2.0)
        length = (1.0 + length) / 2.0
    if search.spent:
        return None, cap
    return search.at(search.theta(G2), 1.0, first.objective), cap


def expansion(
    G: np.ndarray, D: np.ndarray, b: np.ndarray, ZWZ: np.ndarray, mask: np.ndarray, terms: int
) -> np.ndarray:
    """The working coefficients A (k, k) of b = A u: a least-squares step from I, the identity outside ``mask``.

    ``b`` (k, J) are modes relative to sigma, ``ZWZ`` (k, k, J) the levels' cross-products.
    """
    k = len(G)
    second = np.einsum("acj,bj,dj->abcd", ZWZ, b, b, optimize=True) + np.einsum(
        "ac,bd->abcd", ZWZ.sum(axis=-1), G
    )
    H, g = terms * second.reshape(k * k, k * k)[np.ix_(mask, mask)], (D @ G).reshape(-1)[mask]
    scale = np.sqrt(np.maximum(np.diagonal(H), 1e-300))
    A = np.eye(k).reshape(-1)
    A[mask] -= np.linalg.lstsq(H / np.outer(scale, scale), g / scale, rcond=1e-15)[0] / scale
    return np.asarray(A.reshape(k, k))


def _mask(structure: Covariance) -> np.ndarray:
    """Entries of A (k k,) along which A G A' keeps the structure, to first order."""
    mask = np.zeros((structure.k, structure.k), dtype=bool)
    basis = structure.linear_basis()
    if basis is not None:
        flat = basis.reshape(len(basis), -1).T
        for a, b in np.ndindex(mask.shape):
            change = np.zeros_like(basis)
            change[:, a] = basis[:, b]
            change = (change + np.swapaxes(change, 1, 2)).reshape(len(basis), -1).T
            mask[a, b] = np.allclose(flat @ np.linalg.lstsq(flat, change, rcond=None)[0], change)
    return mask.reshape(-1)


def _escape(search: _Search, point: Point) -> Point | None:
    """EM cannot leave a variance of zero; a lower point beside one that should be left."""
    for theta in escapes(search.problem, point.theta, point.payload.D):
        other = search.at(theta, float("nan"), point.objective)
        if other.objective < point.objective:
            return other
    return None


def _norm(problem: Problem, G: list[np.ndarray], change: list[np.ndarray]) -> float:
    """Length of a change of the covariances, each relative to the size of its own: the same in any units."""
    total = 0.0
    for own, d, gram in zip(G, change, problem.grams(), strict=True):
        unit = units(gram)
        scale = float(np.sum(unit**2 * np.diagonal(own)))
        total += float(np.sum((unit[:, None] * d * unit) ** 2)) / max(scale, 1e-100) ** 2
    return float(np.sqrt(total))


def _share(new: np.ndarray, old: np.ndarray) -> float:
    """Smallest ratio of the variances of any combination of effects, new to old; 1 where there is no variance."""
    values, vectors = np.linalg.eigh((old + old.T) / 2)
    use = values > 1e-14 * max(float(values[-1]), 0.0)
    if not use.any() or values[-1] <= 0:
        return 1.0
    half = vectors[:, use] / np.sqrt(values[use])
    return float(np.linalg.eigvalsh(half.T @ new @ half)[0])


def promised(point: Point) -> float:
    """The decrease of the criterion that a Newton step on the average information promises, no farther than 1 away."""
    return step_within(point.gradient, point.hessian, 1.0)[1]


def worse(point: Point, below: float) -> bool:
    """Whether a point lies above ``below`` by more than rounding."""
    return not point.objective <= below + NOISE * (1.0 + abs(below))
