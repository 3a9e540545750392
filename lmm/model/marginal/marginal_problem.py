"""A linear model whose residuals have a covariance of their own, reduced to patterns of clusters of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from time import perf_counter
from typing import Any, ClassVar, NoReturn

import numpy as np
from scipy.linalg import solve_triangular

from lmm.covariance import Covariance
from lmm.design.design import Design
from lmm.design.rank import independent_columns, least_squares, triangle_inverse
from lmm.design.residual_part import ResidualPart
from lmm.design.terms import RandomTerm
from lmm.errors import CapacityError, ResponseError
from lmm.families import Family
from lmm.families.linear import LINEAR
from lmm.model.gaussian.crossproducts import cross_products
from lmm.model.gaussian.moments import starting_values
from lmm.model.marginal.clusters import Part, Stack, stacked
from lmm.model.marginal.dense_deviance import MarginalDeviance
from lmm.model.marginal.residual_errors import residual_stacks, rows_of, whiten
from lmm.model.problem import Problem, assemble
from lmm.model.records import Estimate
from lmm.model.structured import Structured

#: residual sum of squares over total under which the fixed effects explain the response entirely
PERFECT = 1e-24
#: rows whose columns are made orthonormal at a time
ROWS = 1 << 16
#: share of the residual variance that is left to the residuals at the start where random effects take their part
LEFT = 0.5


@dataclass(frozen=True, eq=False)
class MarginalProblem(Structured):
    """A linear model y = X beta + Z b + e with structured e, in patterns.

    Inside, the response is measured in units of ``unit`` and X is orthonormal.

    Attributes
    ----------
    structures : of the random terms, then of the parts of the residuals.
    labels : per structure its group and the names of its columns.
    stacks : the rows in patterns, whose parts stand as ``structures`` do.
    parts : the same parts for all rows, the random terms first.
    terms, residual : the random terms and the parts of the residuals.
    w : (n, p + 1) the rows [Q y0], times the roots of their weights.
    gram_of : per structure the mean of z z' over the rows (k, k).
    R : (p, p), X = Q R.
    beta0 : (p,) least-squares coefficients.
    unit : root mean square of the least-squares residuals.
    sum_log_weights : of the rows.
    """

    structures: tuple[Covariance, ...]
    labels: tuple[tuple[str, tuple[str, ...]], ...]
    stacks: tuple[Stack, ...]
    parts: tuple[Part, ...]
    terms: tuple[RandomTerm, ...]
    residual: tuple[ResidualPart, ...]
    w: np.ndarray
    gram_of: tuple[np.ndarray, ...]
    R: np.ndarray
    beta0: np.ndarray
    unit: float
    n: int
    sum_log_weights: float
    names: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    distribution: ClassVar[Family] = LINEAR
    family: ClassVar[Any] = None
    centred: ClassVar[None] = None
    plan: ClassVar[None] = None
    #: theta has all variances
    n_own: ClassVar[int] = 0
    backend: ClassVar[str] = "numpy"
    related: ClassVar[bool] = False

    @property
    def n_terms(self) -> int:
        """Random terms."""
        return len(self.terms)

    @property
    def p(self) -> int:
        """Fixed effects."""
        return len(self.beta0)

    def of(self, design: Design) -> MarginalProblem:
        """The problem of another design."""
        return build_marginal_problem(design)

    def as_linear(self) -> NoReturn:
        """TypeError: it is held by its patterns."""
        raise TypeError("a model with structured residuals has no sums that hold it")

    def predictor(self, beta: np.ndarray, modes: Sequence[np.ndarray]) -> None:
        """None: linear fits make it from the design."""

    def row_sd(self, sigma: float, phi: float) -> float:
        """The standard deviation that one row leaves to its linear predictor, in the mean."""
        return sigma

    def parameter_lengths(self) -> dict[str, int]:
        """What a search may begin from: theta."""
        return {"theta": self.n_theta}

    def grams(self) -> tuple[np.ndarray, ...]:
        """Per structure the mean of z z' over the rows (k, k)."""
        return self.gram_of

    @cached_property
    def moments(self) -> list[np.ndarray]:
        """Per structure a moment estimate (k, k) of its covariance, in ``unit`` squared.

        Random terms have what they have in a model with independent residuals, the residuals' are by pairs of places.
        """
        out, left = [], 1.0
        if self.terms:
            weighted = [
                replace(term, values=part.dense())
                for term, part in zip(self.terms, self.parts, strict=False)
            ]
            structures = tuple(term.structure for term in self.terms)
            theta = starting_values(cross_products(weighted, self.w, None), structures)
            cuts = np.cumsum([s.n_theta for s in structures])[:-1]
            left = LEFT
            for s, own in zip(structures, np.split(theta, cuts), strict=True):
                T = s.factor(own)
                out.append(left * T @ T.T)
        return [*out, *(left * part.moments(self.w[:, -1]) for part in self.residual)]

    def start(self) -> np.ndarray:
        """theta (m,) by moments, in ``unit``."""
        parts = zip(self.structures, self.moments, self.gram_of, strict=True)
        return np.concatenate([s.start(G, gram) for s, G, gram in parts])

    def deviance(self, G: Sequence[np.ndarray], reml: bool) -> MarginalDeviance:
        """The deviance at covariances G (k, k) per structure, in units of the problem."""
        return MarginalDeviance.at(self.stacks, G, reml)

    def at(self, estimate: Estimate) -> MarginalDeviance:
        """The deviance at an estimate, whose theta is relative to its sigma."""
        scale = (float(estimate.sigma) / self.unit) ** 2
        return self.deviance([scale * G for G in self.covariances(estimate.theta)], estimate.reml)

    def deviance_constant(self, reml: bool) -> float:
        """What the deviance inside lacks: the units of the response and of X, and the weights."""
        degrees = self.n - self.p if reml else self.n
        own = 2.0 * degrees * np.log(self.unit) - self.sum_log_weights
        if reml and self.p:
            own += 2.0 * float(np.log(np.abs(np.diagonal(self.R))).sum())
        return float(own)

    def with_response(self, design: Design) -> MarginalProblem:
        """The same model with the response of ``design``."""
        beta0, residual, unit, root = _least_squares(design, self.R)
        w = self.w.copy()
        w[:, -1] = residual / unit if root is None else residual * root / unit
        return replace(
            self,
            stacks=tuple(stack.with_lines(w) for stack in self.stacks),
            w=w,
            beta0=beta0,
            unit=unit,
        )

    @cached_property
    def residual_stacks(self) -> tuple[Stack, ...]:
        """The rows of each subject, by the places that they have."""
        return residual_stacks(self.residual, self.n)

    def whitened(self, estimate: Estimate) -> Problem:
        """The model of the rows L^-1 (y, X, Z), LL' = Cov(e) / sigma^2 at an estimate, whose residuals are independent."""
        pairs = zip(self.residual, estimate.residual, strict=True)
        turn = partial(whiten, self.residual_stacks, [part.square(T) for part, T in pairs])
        rows, first = turn(self.w), self._first_of_subject
        terms = []
        for term, part in zip(self.terms, self.parts, strict=False):
            if not np.array_equal(part.codes, part.codes[first]):
                raise CapacityError(
                    f"the rows of a subject lie in several levels of {term.group}: variances of random effects and of predictions given "
                    "them are not computed for such a model. re_form=False predicts without random effects."
                )
            terms.append(replace(term, values=np.asfortranarray(turn(part.dense()))))
        X = rows[:, :-1] @ self.R
        kept, R = independent_columns(X)
        beta, residual = least_squares(X, R, self.unit * rows[:, -1], None)
        cross = cross_products(terms, (X, residual), None)
        return assemble(cross, terms, R, self.beta0 + beta, self.names, (0.0, 1.0), {})

    @property
    def _first_of_subject(self) -> np.ndarray:
        """(n,) the first row of each row's subject."""
        codes = self.residual[0].codes
        first = np.full(int(codes.max()) + 1, self.n)
        np.minimum.at(first, codes, np.arange(self.n))
        return first[codes]

    def errors(self, at: MarginalDeviance) -> np.ndarray:
        """V^-1 (y - X beta) (n,), in units of the problem and rows times the roots of their weights."""
        combine, out = np.append(-at.beta, 1.0), np.empty(self.n)
        for block in at.blocks:
            stack = block.stack
            residual = self.w[stack.rows] @ combine
            for b, own in enumerate(stack.members()):
                out[stack.rows[own]] = residual[own] @ block.inverse[b]
        return out

    def modes(self, at: MarginalDeviance, G: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Conditional modes (J, k) of the random terms, G Z'V^-1 (y - X beta) for G (k, k) per term, in units of the problem."""
        if not self.n_terms:
            return []
        e, out = self.errors(at), []
        for part, own in zip(self.parts[: self.n_terms], G, strict=False):
            z = part.dense()
            J = int(part.codes.max()) + 1
            score = np.stack([np.bincount(part.codes, z[:, a] * e, J) for a in range(part.k)], 1)
            out.append(score @ own)
        return out

    def coefficients(self, at: MarginalDeviance) -> tuple[np.ndarray, np.ndarray]:
        """beta (p,) and its covariance (p, p) on the user's scale."""
        inverse = solve_triangular(self.R, np.eye(self.p)) if self.p else np.zeros((0, 0))
        return (
            self.beta0 + self.unit * inverse @ at.beta,
            self.unit**2 * inverse @ at.cov @ inverse.T,
        )

    def on_users_scale(self, P: np.ndarray) -> np.ndarray:
        """X'AX (..., p, p) in orthonormal columns, as the change of the coefficients' covariance that C A C makes."""
        inverse = solve_triangular(self.R, np.eye(self.p)) if self.p else np.zeros((0, 0))
        return self.unit**2 * inverse @ P @ inverse.T


def build_marginal_problem(design: Design) -> MarginalProblem:
    """The problem of a design with a residual structure.

    Raises
    ------
    ResponseError : the fixed effects explain the response.
    CapacityError : random terms join too many rows.
    """
    begin = perf_counter()
    R = np.asarray(design.R)
    beta0, residual, unit, root = _least_squares(design, R)
    w = np.empty((design.n, design.p + 1))
    inverse = triangle_inverse(R)
    for first in range(0, design.n, ROWS):
        some = slice(first, first + ROWS)
        w[some, :-1] = design.X[some] @ inverse
    w[:, -1] = residual / unit
    if root is not None:
        w *= root[:, None]
    parts = [_term_part(term, root) for term in design.terms]
    parts += [rows_of(part) for part in design.residual]
    order = parts[len(design.terms)].order
    names = [*(term.group for term in design.terms), "the subjects"]
    stacks = stacked(parts, w, order, names)
    labels = [(term.group, term.columns) for term in design.terms]
    labels += [(part.group, part.columns) for part in design.residual]
    return MarginalProblem(
        structures=tuple(part.structure for part in design.varying),
        labels=tuple(labels),
        stacks=stacks,
        parts=tuple(parts),
        terms=design.terms,
        residual=design.residual,
        w=w,
        gram_of=(
            *(term.gram(design.weights) for term in design.terms),
            *(part.share() for part in design.residual),
        ),
        R=R,
        beta0=beta0,
        unit=unit,
        n=design.n,
        sum_log_weights=0.0 if design.weights is None else float(np.log(design.weights).sum()),
        names=design.names,
        seconds={"patterns": perf_counter() - begin},
    )


def _least_squares(
    design: Design, R: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray | None]:
    """Least-squares coefficients, residuals and their (weighted) root mean square, and the roots of the weights."""
    y = design.rows.y_less_offset
    beta0, residual = least_squares(design.X, R, y, design.weights)
    if len(R) >= len(y) or residual @ residual <= PERFECT * max(float(y @ y), 1e-300):
        raise ResponseError(
            f"The fixed effects explain the response {design.response!r} exactly, so there is nothing left for a residual covariance. "
            "Check for a predictor that is a copy of the response."
        )
    root = None if design.weights is None else np.sqrt(design.weights)
    unit = float(np.sqrt(np.mean((residual if root is None else residual * root) ** 2)))
    return beta0, residual, unit, root


def _term_part(term: RandomTerm, root: np.ndarray | None) -> Part:
    values = np.asarray(term.values)
    return Part(term.codes, term.k, values=values if root is None else values * root[:, None])
