"""The problem an estimator solves: a design's arrays reduced to what the model needs.

For a linear model that is the cross-products; the rows are left behind here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import perf_counter
from typing import Any, ClassVar, NoReturn

import numpy as np
import scipy.sparse as sp
from scipy.linalg import solve_triangular

from lmm.covariance import Covariance
from lmm.design.cells import cells
from lmm.design.centring import bases, centred_design
from lmm.design.design import Design
from lmm.design.rank import independent_columns, least_squares
from lmm.design.terms import RandomTerm
from lmm.errors import ResponseError
from lmm.families import Family
from lmm.families.base import Phi
from lmm.families.linear import LINEAR
from lmm.linalg import krylov
from lmm.linalg.elimination import Vectors
from lmm.linalg.factorisation import PenalizedSystem, arrange, collect, penalized_system
from lmm.linalg.krylov import UNCOUPLED, Coupled
from lmm.linalg.plan import Plan
from lmm.model.gaussian.crossproducts import CrossProducts, cross_products, right_hand_sides
from lmm.model.gaussian.deviance import Data
from lmm.model.gaussian.system import make_coupled, make_system, orthonormal, pad, plan_for
from lmm.model.laplace.compression import worthwhile
from lmm.model.laplace.passes import ScoreSums, Source, weighted
from lmm.model.laplace.rows import Rows, make_rows
from lmm.model.penalized import WorkingModel
from lmm.model.records import Estimate
from lmm.model.structured import Structured

#: residual sum of squares over total under which the fixed effects explain the response entirely
PERFECT = 1e-24
#: sizes of a response between which its squares, and theirs, are numbers in double precision
SIZES = (1e-70, 1e70)


@dataclass(frozen=True, eq=False)
class Centred:
    """The same problem in random columns z B, B (k, k) per term or None, that lie near their origin."""

    bases: tuple[np.ndarray | None, ...]
    problem: Any


@dataclass(frozen=True, eq=False)
class Problem(Structured):
    """A linear mixed model in sums.

    Attributes
    ----------
    structures : covariance structure per term, in the design's order.
    plan : which term is eliminated how.
    arranged : the plan in the sizes of ``data``, where levels may be padded.
    cross : cross-products of [Z X y0], y0 the least-squares residual of y - offset.
    data : the same arranged for the deviance (ML), X orthonormal.
    R : (p, p), X = Q R.
    beta0 : (p,) least-squares coefficients.
    n : rows; ``sum_log_weights`` their log weights' sum.
    names : names of the fixed columns.
    labels : per term its group and the names of its columns.
    location, scale : mean and standard deviation of the response less its offset.
    seconds : wall-clock seconds spent here, by stage.
    coupled : how the terms that are solved iteratively lie in Z'WZ.
    centred : the problem in centred columns, where random slopes are far from their origin.
    """

    structures: tuple[Covariance, ...]
    plan: Plan
    arranged: Plan
    cross: CrossProducts
    data: Data
    R: np.ndarray
    beta0: np.ndarray
    n: int
    sum_log_weights: float
    names: tuple[str, ...] = ()
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    location: float = 0.0
    scale: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict)
    coupled: Coupled = UNCOUPLED
    centred: Centred | None = None

    family: ClassVar[Any] = None
    distribution: ClassVar[Family] = LINEAR
    #: parameters beside theta and the fixed effects: sigma
    n_own: ClassVar[int] = 1
    #: whether the levels of some term are related
    related: ClassVar[bool] = False

    @property
    def backend(self) -> str:
        """ "numpy" or "jax"."""
        return self.plan.backend

    @property
    def p(self) -> int:
        """Fixed effects."""
        return len(self.beta0)

    @property
    def root(self) -> np.ndarray:
        """(p, p) upper triangular, root'root = X'WX."""
        return self.R

    @property
    def summed_pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs of terms whose sums Z'WZ are known."""
        return tuple(sorted(self.cross.pairs))

    def parameter_lengths(self) -> dict[str, int]:
        """What a search may begin from and how many numbers it has: theta; the fixed effects and sigma are profiled out."""
        return {"theta": self.n_theta}

    def of(self, design: Design) -> Problem:
        """The problem of another design."""
        return build_problem(design)

    def as_linear(self) -> Problem:
        """The problem, which is held by sums."""
        return self

    def predictor(self, beta: np.ndarray, modes: Sequence[np.ndarray]) -> None:
        """None: the rows were left behind."""

    def row_sd(self, sigma: float, phi: float) -> float:
        """The standard deviation that one row leaves to its linear predictor."""
        return sigma

    def grams(self) -> list[np.ndarray]:
        """Per term the mean of z z' over the rows (k, k), weights included."""
        return [A.sum(axis=-1) / self.n for A in self.cross.diag]

    def information(self, estimate: Estimate) -> tuple[np.ndarray, ...]:
        """Per term what each level's rows say of its effects, Z'WZ (k, k, J), in units of sigma."""
        return self.cross.diag

    def arranged_sums(self, cross: CrossProducts) -> Data:
        """The sums for the deviance, of another response."""
        return criterion_data(cross, self.plan, self.R, self.data)[0]

    def on_levels(self, modes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Effects (k, J, ...) per term of those of the sums: themselves."""
        return list(modes)

    def carried(self, t: int, ZW: sp.csr_array) -> sp.csr_array | np.ndarray:
        """Z'W of a term in the columns of the sums: itself."""
        return ZW

    def sums_of(self, own: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Z'W y (r, k, J) per term in the columns of the sums: themselves."""
        return tuple(own)

    def working_sums(
        self, beta: np.ndarray, modes: Sequence[np.ndarray], phi: Phi, unit: np.ndarray
    ) -> CrossProducts:
        """Cross-products of [Z X U], U = ``unit`` (p, p)."""
        old, p = self.cross, self.p
        rhs = tuple(np.tensordot(unit.T, own[:p], 1) for own in old.rhs)
        return CrossProducts(
            old.diag, rhs, old.pairs, unit.T @ old.gram[:p, :p] @ unit, old.n, old.sum_log_weights
        )

    def spanned_constant(self) -> np.ndarray | None:
        return self.constant_of_sums()

    def constant_of_sums(self) -> np.ndarray | None:
        """:meth:`spanned_constant` from the sums of a random intercept, if there is one."""
        # a random intercept's sums hold 1'WX
        for t, (_, columns) in enumerate(self.labels):
            if "Intercept" in columns and not self.plan.terms[t].several:
                a, R, cross = columns.index("Intercept"), self.R, self.cross
                projected = solve_triangular(R, cross.rhs[t][: self.p, a].sum(axis=-1), trans="T")
                spans = projected @ projected >= (1.0 - 1e-8) * cross.diag[t][a, a].sum()
                return np.asarray(solve_triangular(R, projected)) if spans else None
        return None

    def log_gram(self, reml: bool) -> float:
        """log|X'WX|, which the restricted likelihood has and that of orthonormal columns has not; 0 for ML."""
        return 2.0 * float(np.log(np.abs(np.diagonal(self.R))).sum()) if reml else 0.0

    def deviance_data(self, reml: bool, sigma: float | None = None) -> Data:
        """The sums for the deviance with its degrees of freedom and constants, and sigma^2 where it is known."""
        return self.data._replace(
            degrees=np.asarray(float(self.n - (self.p if reml else 0))),
            variance=np.asarray(1.0 if sigma is None else float(sigma) ** 2),
            constant=self.data.constant + self.log_gram(reml),
        )

    def collect(self, vectors: Vectors, parts: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
        """Vectors in the space of the random effects as arrays (r, k, J), per term in the design's order.

        ``parts`` are those of the terms that are solved iteratively.
        """
        columns = collect(self.arranged, vectors, parts)
        return [c[..., : size.J] for c, size in zip(columns, self.plan.terms, strict=True)]

    def right_hand_sides(self) -> list[np.ndarray]:
        """Z'W[Q y0] (p + 1, k, J) per term, Q the orthonormal fixed columns."""
        return list(
            map(
                np.asarray,
                self.collect(self.data.rhs, krylov.split(self.coupled, self.data.iterative)),
            )
        )

    def shared(self) -> list[np.ndarray]:
        """Z'WQ (p, k, J) per term."""
        return [own[: self.p] for own in self.right_hand_sides()]

    def working_model(self, estimate: Estimate) -> WorkingModel:
        """The model itself."""
        return WorkingModel(
            self.penalized_system(), self.shared(), self.data.gram[: self.p, : self.p]
        )

    def sheared(self, H: Sequence[np.ndarray]) -> Problem:
        """The problem with the columns H'z of every term."""
        cross = self.cross.sheared(H)
        data, arranged = criterion_data(cross, self.plan, self.R, None)
        return replace(self, cross=cross, data=data, arranged=arranged)

    def penalized_system(self) -> PenalizedSystem:
        """Z'WZ for what follows a fit, under NumPy."""
        if self.plan.backend == "numpy":
            return penalized_system(self.plan, self.data.system, self.coupled)
        plan = replace(self.plan, backend="numpy")
        return penalized_system(plan, make_system(self.cross, plan), make_coupled(self.cross, plan))

    def with_response(self, design: Design) -> Problem:
        """The same Z and X with the response of ``design``: only the sums with y are made anew."""
        start = perf_counter()
        beta0, residual = _residual(design, self.R)
        own = self.sums_of(right_hand_sides(design.terms, residual[:, None], design.weights))
        rhs = tuple(
            np.concatenate([old[:-1], new]) for old, new in zip(self.cross.rhs, own, strict=True)
        )
        weighted = residual if design.weights is None else residual * design.weights
        gram = self.cross.gram.copy()
        gram[-1, -1] = residual @ weighted
        gram[-1, :-1] = gram[:-1, -1] = design.X.T @ weighted
        cross = replace(self.cross, rhs=rhs, gram=gram)
        data = self.arranged_sums(cross)
        location, scale = _moments(design)
        seconds = {"cross-products": perf_counter() - start}
        centred = self.centred
        if centred is not None:
            centred = replace(
                centred,
                problem=centred.problem.with_response(centred_design(design, centred.bases)),
            )
        return replace(
            self,
            cross=cross,
            data=data,
            beta0=beta0,
            location=location,
            scale=scale,
            seconds=seconds,
            centred=centred,
        )


@dataclass(frozen=True, eq=False)
class GeneralizedProblem(Structured):
    """A generalized linear mixed model: its rows, family and covariance structures.

    Attributes
    ----------
    structures : covariance structure per term, in the design's order.
    terms : the design's random terms.
    rows : arrays of the rows, fixed columns orthonormal; in a stream what passes over them.
    family : distribution of the response and link.
    names : names of the fixed columns.
    seconds : wall-clock seconds spent here, by stage.
    merged : the rows with equal ones merged, where that pays.
    where : which cells of the categorical predictors rows (n,) bool are, in words, if they are all rows of some; None in a stream.
    centred : the problem in centred columns, where random slopes are far from their origin.
    eta_scale : size of the linear predictor (:meth:`lmm.families.Family.eta_scale`), relative to which random effects are small or large.
    """

    structures: tuple[Covariance, ...]
    terms: tuple[RandomTerm, ...]
    rows: Rows
    family: Any
    names: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    merged: Rows | None = None
    where: Callable[[np.ndarray], str | None] | None = None
    eta_scale: float = 1.0
    centred: Centred | None = None

    @property
    def source(self) -> Source:
        """What passes over the rows: those that were merged, where there are any."""
        return self.rows if self.merged is None else self.merged

    @property
    def related(self) -> bool:
        """Whether the levels of some term are related."""
        return bool(self.plan.joint)

    @property
    def labels(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Per term its group and the names of its columns."""
        return tuple((term.group, term.columns) for term in self.terms)

    @property
    def plan(self) -> Plan:
        """Which term is eliminated how."""
        return self.rows.plan

    @property
    def n(self) -> int:
        """Rows."""
        return self.rows.n

    @property
    def p(self) -> int:
        """Fixed effects."""
        return self.rows.p

    def of(self, design: Design) -> GeneralizedProblem:
        """The problem of another design with the same family."""
        return build_generalized(design, self.family, self.plan.factorization)

    def first_coefficients(self) -> np.ndarray | None:
        """gamma to begin from where the problem knows one; None for that of the model without random effects."""
        return None

    def as_linear(self) -> NoReturn:
        """TypeError: it is held by its rows."""
        raise TypeError("a generalized problem has no sums that hold it")

    def working_model(self, estimate: Estimate) -> WorkingModel:
        """The working linear model at the modes, W the family's working weights; sigma^2 is 1."""
        if self.source.distant:
            gamma, b = (
                self.R @ estimate.beta,
                [np.ascontiguousarray(modes.T) for modes in estimate.modes],
            )
            request = ScoreSums(
                self.family, gamma, b, estimate.phi, observed=False, expected=True, fixed=True
            )
            return WorkingModel.of(self.source, self.source.total([request])[0].expected)
        rows = self.rows
        W = self.family.working_weights(rows.y, estimate.eta, rows.weights, estimate.phi)
        if not self.family.has_dispersion:  # sigma is not one where a quasi-likelihood estimates it
            W = W / estimate.sigma**2
        return WorkingModel.of(rows, weighted(rows, W, True))

    def sheared(self, H: Sequence[np.ndarray]) -> GeneralizedProblem:
        """The problem with the columns H'z of every term."""
        terms = tuple(
            replace(term, values=np.asfortranarray(term.values @ own))
            for term, own in zip(self.terms, H, strict=True)
        )
        columns = tuple(part.value_columns() for term in terms for part in term.parts())
        rows = replace(self.rows, columns=columns, pattern=self.rows.pattern.sheared(H), kept={})
        return replace(self, terms=terms, rows=rows, merged=None)

    def grams(self) -> list[np.ndarray]:
        """Per term the mean of z z' over the rows (k, k), relative to the square of the linear predictor's size."""
        return [A.sum(axis=-1) / (self.n * self.eta_scale**2) for A in self.rows.pattern.diag]

    @property
    def distribution(self) -> Family:
        """The family."""
        return self.family

    @property
    def R(self) -> np.ndarray:
        """(p, p), X = Q R."""
        return self.rows.R

    @property
    def n_own(self) -> int:
        """Parameters beside theta and the fixed effects: the family's own."""
        return int(self.family.n_parameters)

    @property
    def root(self) -> np.ndarray:
        """(p, p) upper triangular, root'root = X'X."""
        return self.rows.R * np.sqrt(self.n)

    @property
    def summed_pairs(self) -> tuple[tuple[int, int], ...]:
        """None: rows are kept in place of sums."""
        return ()

    def parameter_lengths(self) -> dict[str, int]:
        """What a search may begin from and how many numbers each has, in order: theta, fixed effects, the family's own parameters."""
        own = {"phi": self.family.n_parameters} if self.family.n_parameters else {}
        return {"theta": self.n_theta, "beta": self.p, **own}

    def information(self, estimate: Estimate) -> tuple[np.ndarray, ...]:
        """Per term what each level's rows say of its effects, Z'WZ (k, k, J) at the mean working weight of an estimate."""
        W = self.family.expected_weights(estimate.eta, self.rows.weights, estimate.phi).weight
        return tuple(A * max(float(np.mean(W)), 1e-10) for A in self.rows.pattern.diag)

    def working_sums(
        self, beta: np.ndarray, modes: Sequence[np.ndarray], phi: Phi, unit: np.ndarray
    ) -> CrossProducts:
        """Cross-products of [Z X U], U = ``unit`` (p, p), at the working weights of these parameters."""
        rows = self.rows
        eta = self.predictor(beta, modes)
        W = np.maximum(self.family.expected_weights(eta, rows.weights, phi).weight, 1e-10)
        return cross_products(self.terms, np.asfortranarray(rows.Q @ (rows.R @ unit)), W)

    def predictor(self, beta: np.ndarray, modes: Sequence[np.ndarray]) -> np.ndarray:
        """(n,) linear predictor at coefficients (p,) and effects (J, k) per term."""
        return self.rows.predictor(self.rows.R @ beta, [np.ascontiguousarray(b.T) for b in modes])

    def constant_predictor(self) -> float | None:
        """The link of the mean response, short of zero and one for proportions; None where no predictor has that mean."""
        family, link, rows = self.family, self.family.link, self.rows
        mean = float(np.average(rows.y, weights=rows.weights))
        if np.isfinite(link.mean_high):
            mean = (float(np.sum(rows.weights * rows.y)) + 0.5) / (
                float(np.sum(rows.weights)) + 1.0
            )
        if not max(family.mean_low, link.mean_low) < mean < min(family.mean_high, link.mean_high):
            return None
        return float(link.link(np.array(mean)))

    def row_sd(self, sigma: float, phi: float) -> float:
        """The standard deviation that one row leaves to its linear predictor: the root of the inverse information at the mean."""
        eta = self.constant_predictor()
        if eta is None:
            return 1.0
        information = np.mean(
            self.family.expected_weights(np.full(self.n, eta), self.rows.weights, phi).weight
        )
        return float(information**-0.5) if 0.0 < information < np.inf else 1.0

    def spanned_constant(self) -> np.ndarray | None:
        projected = self.rows.Q.mean(axis=0)
        return (
            np.asarray(solve_triangular(self.rows.R, projected))
            if projected @ projected >= 1.0 - 1e-8
            else None
        )

    def with_response(self, design: Design) -> GeneralizedProblem:
        """The same rows with the response of ``design``."""
        rows = replace(self.rows, y=design.y)
        merged = self.merged and worthwhile(rows, design.X, self.family)
        centred = self.centred
        if centred is not None:
            centred = replace(
                centred,
                problem=centred.problem.with_response(centred_design(design, centred.bases)),
            )
        scale = self.family.eta_scale(rows.y, rows.weights)
        return replace(self, rows=rows, merged=merged, seconds={}, eta_scale=scale, centred=centred)


def build_generalized(
    design: Design, family: Any, factorization: str = "exact"
) -> GeneralizedProblem:
    """The rows of a design with a family."""
    start = perf_counter()
    rows = make_rows(design, factorization)
    merged = worthwhile(rows, design.X, family)
    structures = tuple(term.structure for term in design.terms)
    seconds = {"cross-products": perf_counter() - start}
    scale, where = family.eta_scale(rows.y, rows.weights), partial(cells, design)
    distant, centred = bases(design), None
    if any(B is not None for B in distant):
        centred = Centred(
            distant, build_generalized(centred_design(design, distant), family, factorization)
        )
    return GeneralizedProblem(
        structures, design.terms, rows, family, design.names, seconds, merged, where, scale, centred
    )


def build_problem(design: Design, backend: str = "numpy", factorization: str = "auto") -> Problem:
    """One pass over the rows of a design."""
    start = perf_counter()
    R = design.R
    if R is None:
        R = independent_columns(design.X, design.weights)[1]
    beta0, residual = _residual(design, R)
    cross = cross_products(design.terms, (design.X, residual), design.weights)
    del residual
    seconds = {"cross-products": perf_counter() - start}
    if any(term.relation is not None for term in design.terms):
        from lmm.model.gaussian.related_problem import related_problem

        return related_problem(design, cross, R, beta0, _moments(design))
    made = assemble(
        cross,
        design.terms,
        R,
        beta0,
        design.names,
        _moments(design),
        seconds,
        backend,
        factorization,
    )
    distant = bases(design)
    if all(B is None for B in distant):
        return made
    return replace(
        made,
        centred=Centred(
            distant, build_problem(centred_design(design, distant), backend, factorization)
        ),
    )


def assemble(
    cross: CrossProducts,
    terms: Sequence[RandomTerm],
    R: np.ndarray,
    beta0: np.ndarray,
    names: tuple[str, ...],
    moments: tuple[float, float],
    seconds: dict[str, float],
    backend: str = "numpy",
    factorization: str = "auto",
) -> Problem:
    """The problem that sums of [Z X y0] make, y0 the residual of beta0: planned and arranged.

    Parameters
    ----------
    terms : random terms, of which names and structures are read, no rows.
    moments : mean and standard deviation of the response less its offset.
    """
    start = perf_counter()
    plan = plan_for(cross, tuple(term.group for term in terms), backend, factorization)
    data, arranged = criterion_data(cross, plan, R, None)
    coupled = make_coupled(pad(cross, plan)[0] if backend == "jax" else cross, plan)
    return Problem(
        structures=tuple(term.structure for term in terms),
        plan=plan,
        arranged=arranged,
        cross=cross,
        data=data,
        R=R,
        beta0=beta0,
        n=cross.n,
        sum_log_weights=cross.sum_log_weights,
        names=names,
        labels=tuple((term.group, term.columns) for term in terms),
        location=moments[0],
        scale=moments[1],
        seconds={**seconds, "plan": perf_counter() - start},
        coupled=coupled,
    )


def _moments(design: Design) -> tuple[float, float]:
    """Mean and standard deviation of the response less its offset."""
    y = design.rows.y_less_offset
    mean = float(y.mean())
    centred = y - mean
    return mean, float(np.sqrt(centred @ centred / len(y)))


def _residual(design: Design, R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares coefficients and residuals of the response less its offset."""
    y = design.rows.y_less_offset
    with np.errstate(over="ignore", under="ignore"):
        square = float(y @ y)
    size = float(np.abs(y).max(initial=0.0)) if not SIZES[0] < square < SIZES[1] else 1.0
    if size and not SIZES[0] < size < SIZES[1]:
        raise ResponseError(
            f"the response {design.response!r} has values of size {size:.0e}, whose squares double precision does not hold. "
            "Choose another unit: multiply it by a constant."
        )
    beta0, residual = least_squares(design.X, R, y, design.weights)
    if len(R) >= len(y) or residual @ residual <= PERFECT * max(square, 1e-300):
        raise ResponseError(
            f"The fixed effects explain the response {design.response!r} exactly, so there is nothing left for random effects "
            "or a residual variance. Check for a predictor that is a copy of the response."
        )
    return beta0, residual


def gram_of(cross: CrossProducts, R: np.ndarray) -> np.ndarray:
    """[Q y]'W[Q y] (p + 1, p + 1), Q the orthonormal fixed columns."""
    p = len(R)
    gram = np.eye(p + 1)
    gram[p, p] = cross.gram[p, p]
    if p:
        gram[p, :p] = gram[:p, p] = solve_triangular(R, cross.gram[:p, p], trans="T")
    return gram


def criterion_data(
    cross: CrossProducts, plan: Plan, R: np.ndarray, old: Data | None
) -> tuple[Data, Plan]:
    """Sums for the deviance (ML) and their plan; Z'WZ is taken from ``old`` when only the response changed."""
    p = len(R)
    if plan.backend == "jax":
        cross, plan = pad(cross, plan)
    rhs = tuple(np.concatenate([orthonormal(columns[:p], R), columns[p:]]) for columns in cross.rhs)
    system = make_system(cross, plan) if old is None else old.system
    iterative = [rhs[t].reshape(p + 1, -1) for t in plan.iterative]
    own = np.concatenate(iterative, axis=1) if iterative else np.zeros((p + 1, 0))
    data = Data(
        system,
        arrange(plan, rhs),
        gram_of(cross, R),
        degrees=np.asarray(float(cross.n)),
        constant=np.asarray(-cross.sum_log_weights),
        iterative=own,
    )
    return data, plan
