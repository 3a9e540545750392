"""The contract of a covariance structure: theta -> T, a factor of the relative covariance of one level's effects.

The k random effects of a level have covariance sigma^2 G with G = T T'. A structure says how T (k, k) depends on its
parameters theta, gives its derivatives, finds the theta of a covariance, and names the quantities by which G is
reported. Everything else in the package works on T, dT, G and these quantities, so a structure is one file and one
registry entry. Six methods have to be written (``n_theta, factor, jacobian, from_factor, quantities, constrain``); the
others have a default that holds for any structure and may be replaced where a structure knows better.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np

from lmm.covariance.coordinates import (
    Coordinates,
    LocalCovariance,
    Reported,
    bent,
    directions,
)
from lmm.types import Array

#: smallest share of the largest eigenvalue at the start
FLOOR = 0.05
#: square of a unitless standard deviation that counts as zero where a descent across the boundary is looked for
NOTHING = 1e-8


class CorrelationPrior(Protocol):
    """The distribution of a correlation matrix, by its partial correlations."""

    def log_partial(self, z: Array, column: int, k: int, xp: ModuleType) -> Array:
        """Log density of a partial correlation z of column ``column`` of a k x k matrix."""
        ...


class Quantity(NamedTuple):
    """A number by which a covariance is reported.

    Attributes
    ----------
    kind : "sd" or "loading1", of the first factor, on the scale of the effects; "cor"; a positive number, "range" or "smoothness"; or
        "disp", a coefficient of the logarithm of a standard deviation.
    row, column : the entry of G that it is read from; the same one twice for a standard deviation. Of other kinds a key.
    columns : the columns that it is named by; none where it belongs to all of them.
    shift : how much it grows with the logarithm of the scale of the effects.
    """

    kind: str
    row: int
    column: int
    columns: tuple[int, ...]
    shift: float = 0.0

    @property
    def scales(self) -> bool:
        """Whether it is proportional to the scale of the effects."""
        return self.kind.startswith(("sd", "loading"))

    def on_scale(self, value: float, unit: float) -> float:
        """Its value where effects are measured in units ``unit`` times as small."""
        return value * unit if self.scales else value + self.shift * float(np.log(unit))


def sd(column: int) -> Quantity:
    """The standard deviation of one column's effects."""
    return Quantity("sd", column, column, (column,))


def cor(row: int, column: int) -> Quantity:
    """The correlation of two columns' effects."""
    return Quantity("cor", row, column, (row, column))


def units(gram: np.ndarray) -> np.ndarray:
    """Root mean square of each column (k,); 1 for a column of zeros."""
    square = np.diagonal(gram)
    return np.sqrt(np.where(square > 0, square, 1.0))


def bounded(G: np.ndarray, U: np.ndarray) -> np.ndarray:
    """G with the eigenvalues of U G U' kept within limits, (k, k)."""
    values, vectors = np.linalg.eigh(U @ G @ U.T)
    top = float(np.clip(values[-1], 0.02, 1e4))
    root = np.linalg.solve(U, vectors * np.sqrt(np.clip(values, FLOOR * top, top)))
    return np.asarray(root @ root.T)


def _slopes(quantities: Sequence[Quantity], T: np.ndarray, dT: np.ndarray) -> np.ndarray:
    """Derivatives (count, m) of standard deviations and correlations of G = T T', of dT (m, k, k)."""
    G, dG = T @ T.T, directions(dT, T)
    deviation = np.sqrt(np.diagonal(G))
    slopes = []
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = [dG[:, a, a] / (2.0 * G[a, a]) for a in range(len(T))]
        for q in quantities:
            if q.kind == "sd":
                slopes.append(relative[q.row] * deviation[q.row])
            else:
                size = deviation[q.row] * deviation[q.column]
                r = G[q.row, q.column] / size
                slopes.append(
                    dG[:, q.row, q.column] / size - r * (relative[q.row] + relative[q.column])
                )
    return np.array(slopes).reshape(len(slopes), len(dT))


class Covariance(abc.ABC):
    """Structure of a k x k relative covariance; a frozen dataclass, hashable, without arrays.

    Attributes
    ----------
    k : number of random effects per level.
    name : the word used in a formula, ``diag(x|g)``.
    least : the fewest columns that it is made for.
    ordered : whether its columns have an order, so that a level of a categorical keeps its place though it does not occur.
    over_coordinates : whether the columns are points, told apart by numbers such as times.
    alone : whether one level with its columns tells the parameters, ``(0 + time | 1)``.
    dimensions : the number of coordinates, where it is a certain one.
    takes_rank : whether the formula says its rank, ``d=2``.
    confined : whether its covariances lie in fewer dimensions than it has columns.
    """

    k: int
    name: str
    least = 1
    ordered = over_coordinates = alone = takes_rank = confined = False
    dimensions = 0

    # ---- theta and T

    @property
    @abc.abstractmethod
    def n_theta(self) -> int:
        """Number of parameters m."""

    @abc.abstractmethod
    def factor(self, theta: np.ndarray) -> np.ndarray:
        """T (k, k) with G = T T'."""

    @abc.abstractmethod
    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        """dT / dtheta, shape (m, k, k)."""

    def second(self, theta: np.ndarray) -> np.ndarray | None:
        """d2T / dtheta2, shape (m, m, k, k); None where T is linear in theta."""
        return None

    @abc.abstractmethod
    def from_factor(self, T: np.ndarray) -> np.ndarray:
        """theta (..., m) with G = T T' for T (..., k, q): the one that is reported, exact also where G is singular.

        Where T T' does not have this structure, a member near to it.
        """

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        """theta whose G is nearest to a symmetric (k, k) matrix; exact when G has this structure."""
        values, vectors = np.linalg.eigh((G + G.T) / 2)
        return self.from_factor(vectors * np.sqrt(np.clip(values, 0.0, None)))

    def canonical(self, theta: np.ndarray) -> np.ndarray:
        """The representative with the same G that is reported."""
        return self.from_factor(self.factor(theta))

    def scaled(self, theta: np.ndarray, scale: float) -> np.ndarray:
        """theta whose G is scale^2 times as large."""
        return self.from_factor(scale * self.factor(theta))

    # ---- the covariance itself

    def covariance(self, theta: np.ndarray) -> np.ndarray:
        """G = T T' (k, k)."""
        return self.of_factor(self.factor(theta))

    def of_factor(self, T: np.ndarray) -> np.ndarray:
        """G of its factor."""
        return np.asarray(T @ T.T)

    def covariance_slopes(self, theta: np.ndarray) -> np.ndarray:
        """dG / dtheta, shape (m, k, k)."""
        return directions(self.jacobian(theta), self.factor(theta))

    def covariance_bends(self, theta: np.ndarray) -> np.ndarray:
        """d2G / dtheta2, shape (m, m, k, k)."""
        T, dT, second = self.factor(theta), self.jacobian(theta), self.second(theta)
        half = np.einsum("iac,jbc->ijab", dT, dT)
        if second is not None:
            half = half + second @ T.T
        return half + np.swapaxes(half, 2, 3)

    # ---- steps of a search

    def chart(
        self, theta: np.ndarray, gram: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Coordinates around theta in which to take a step: T (k, k), dT / ds (m, k, k), d2T / ds2 or None.

        T T' = G at s = 0. ``gram`` (k, k) is the mean of z z' over the rows, so that a structure can make steps mean
        the same whatever the columns' units and origins.
        """
        return self.factor(theta), self.jacobian(theta), self.second(theta)

    def local(self, theta: np.ndarray, gram: np.ndarray | None = None) -> LocalCovariance:
        """G where no factor of it is needed, in the coordinates of :meth:`chart`, or in theta without a ``gram``."""
        if gram is None:
            T, dT, second = self.factor(theta), self.jacobian(theta), self.second(theta)
        else:
            T, dT, second = self.chart(theta, gram)
        return LocalCovariance(T @ T.T, directions(dT, T), partial(bent, T=T, dT=dT, second=second))

    def move(self, theta: np.ndarray, gram: np.ndarray, step: np.ndarray) -> np.ndarray:
        """The theta reached from theta by ``step`` (m,) in the coordinates of :meth:`chart`."""
        return np.asarray(theta) + step

    def steps(self, theta: np.ndarray, gram: np.ndarray, G: np.ndarray) -> np.ndarray:
        """Steps (m, R) of :meth:`chart` around theta that lead to relative covariances G (k, k, R), or near them."""
        values, vectors = np.linalg.eigh(np.moveaxis(G, -1, 0))
        reached = self.from_factor(vectors * np.sqrt(np.maximum(values, 0.0))[:, None])
        return np.linalg.solve(self._along(theta, gram), (reached - theta).T)

    def _along(self, theta: np.ndarray, gram: np.ndarray) -> np.ndarray:
        """d theta / d s (m, m) of a :meth:`move` that is linear."""
        return np.stack(
            [self.move(theta, gram, step) - theta for step in np.eye(self.n_theta)], axis=1
        )

    def start(self, G: np.ndarray, gram: np.ndarray) -> np.ndarray:
        """theta to begin from, given a moment estimate of G that need not be positive: bounded away from zero."""
        return self.from_matrix(bounded(G, np.diag(units(gram))))

    def standardised(self, theta: np.ndarray, gram: np.ndarray) -> np.ndarray:
        """theta had every column a root mean square of one: each entry of T times its row's unit.

        What is small is told by these, whatever the columns' units; ``gram`` as in :meth:`chart`.
        """
        rows = np.einsum("a,iab->i", units(gram) ** 2, self.jacobian(theta) ** 2)
        return np.asarray(theta) * np.sqrt(rows)

    def scaling(self, gram: np.ndarray) -> np.ndarray:
        """B (m, m): theta = B s with s of order one, whatever the columns' units and, where T is full, their origins."""
        return np.diag(
            1.0
            / np.where((size := self.standardised(np.ones(self.n_theta), gram)) > 0.0, size, 1.0)
        )

    # ---- the boundary

    def descent(
        self, theta: np.ndarray, D: np.ndarray, gram: np.ndarray
    ) -> tuple[float, np.ndarray]:
        """Steepest first-order descent through the boundary at a stationary theta.

        ``D`` (k, k) is the derivative of the objective with respect to G. The KKT conditions of the minimum over
        G >= 0 are D >= 0 on the null space of G. Returns the smallest slope of the objective along a direction
        dG (k, k) out of the boundary, per mean variance tr(gram dG) of a row, and that direction (0.0 and zeros where
        there is none). Here the directions are dT dT' of the parameters that do not change G to first order.
        """
        best, direction = 0.0, np.zeros((self.k, self.k))
        unit = units(gram)[:, None]
        T = unit * self.factor(theta)
        for dT in self.jacobian(theta):
            dG = dT @ dT.T
            size = float(np.sum(gram * dG))
            scaled = unit * dT
            if size > 0.0 and np.linalg.norm(scaled @ T.T) <= np.sqrt(NOTHING) * np.linalg.norm(
                scaled
            ):
                slope = float(np.sum(D * dG)) / size
                if slope < best:
                    best, direction = slope, dG / size
        return best, direction

    def boundary(self, theta: np.ndarray) -> np.ndarray:
        """Distances to the boundary, one per constrained parameter: 0 where a variance or 1 - r^2 vanishes."""
        return np.abs(theta)

    def held(self, theta: np.ndarray) -> np.ndarray:
        """Which parameters, bool (m,), a zero variance holds where they are."""
        return np.asarray(theta) == 0.0

    # ---- what is reported

    @abc.abstractmethod
    def quantities(self) -> tuple[Quantity, ...]:
        """What a table, an interval and a prior speak of, in the order of theta; as many as there are parameters."""

    def theta_names(self, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Per parameter the column names it couples: ``(a,)`` for one column, ``(row, column)`` for two."""
        return [tuple(columns[a] for a in q.columns) or (q.kind,) for q in self.quantities()]

    def describe(self, G: np.ndarray) -> np.ndarray:
        """The quantities (..., m) of covariances G (..., k, k); a correlation beside a variance of zero is NaN."""
        deviations = np.sqrt(np.maximum(np.diagonal(G, axis1=-2, axis2=-1), 0.0))
        out = []
        with np.errstate(divide="ignore", invalid="ignore"):
            for q in self.quantities():
                if q.kind == "sd":
                    out.append(deviations[..., q.row])
                else:
                    r = G[..., q.row, q.column] / (
                        deviations[..., q.row] * deviations[..., q.column]
                    )
                    out.append(np.clip(r, -1.0, 1.0))
        return np.stack(out, axis=-1)

    def described(self, theta: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The quantities (R, m) of theta (R, m) where effects are measured by scales (R,)."""
        if not len(theta):
            return np.zeros((0, self.n_theta))
        T = np.stack([self.factor(own) for own in theta])
        G = T @ np.swapaxes(T, 1, 2)
        return self.describe(G * np.square(scale)[:, None, None])

    def report(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The quantities (m,) of G = T T' and their derivatives by theta (m, m); NaN where they have none."""
        T = self.factor(theta)
        slopes = _slopes(self.quantities(), T, self.jacobian(theta))
        return self.describe(T @ T.T), slopes

    def implied(self) -> tuple[Quantity, ...]:
        """Standard deviations and correlations that a table has beside the quantities, of which they are functions."""
        return ()

    def implied_slopes(self, theta: np.ndarray) -> np.ndarray:
        """The derivatives of these by theta, (count, m)."""
        return _slopes(self.implied(), self.factor(theta), self.jacobian(theta))

    def at_points(self, theta: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (m, k) with which effects at other ``points`` (m, d) are expected from the k effects, and the variances (m,) left."""
        raise NotImplementedError(f"{self.name} has no positions")

    def matrix(self, values: np.ndarray) -> np.ndarray:
        """G (k, k) whose quantities have these values (m,); a correlation that is NaN counts as zero."""
        kinds = np.array([q.kind for q in self.quantities()])
        values = np.where(np.isnan(values), 0.0, values)
        T = self._of_quantities(values[kinds == "sd"], values[kinds == "cor"])
        return np.asarray(T @ T.T)

    def of_values(self, values: np.ndarray, scale: float) -> np.ndarray | None:
        """theta whose quantities have these values (m,) where effects are measured by ``scale``; None where no covariance has them."""
        kinds = np.array([q.kind for q in self.quantities()])
        R = self.matrix(np.where(kinds == "sd", 1.0, values))
        if not np.linalg.eigvalsh(R)[0] > -1e-10:
            return None
        return self.from_matrix(self.matrix(values) / scale**2)

    def _of_quantities(self, deviations: np.ndarray, correlations: np.ndarray) -> np.ndarray:
        """T (k, k) from what is reported, for structures whose correlations are free of each other between their bounds."""
        return np.asarray(self.constrain(deviations, self._partials(correlations), np))

    def coordinates(self) -> Coordinates:
        """Coordinates of which none is held."""
        return Coordinates(self)

    def holding(self, first: int, second: int | None = None) -> Coordinates:
        """Coordinates, one of which is the standard deviation read at ``first``, or the correlation with ``second``.

        Of the correlation it is the arcsine.
        """
        entry = (first, first if second is None else second)
        places = [i for i, q in enumerate(self.quantities()) if (q.row, q.column) == entry]
        return Reported(self, places[0])

    # ---- what else depends on the structure

    def linear_basis(self) -> np.ndarray | None:
        """dG (m', k, k) of the parameters in which G is linear, m' of them; None where there are none."""
        return None

    def directions(self, theta: np.ndarray) -> np.ndarray:
        """dG (m', k, k) along which G is varied: those in which it is linear, else by theta."""
        basis = self.linear_basis()
        return directions(self.jacobian(theta), self.factor(theta)) if basis is None else basis

    def maximiser(self, S: Array, xp: ModuleType) -> Array | None:
        """The G (k, k) of this structure that minimises log|G| + tr(G^-1 S), S (k, k); None without a closed form."""
        return None

    def free_blocks(self) -> list[np.ndarray]:
        """Sets of columns, two or more, whose covariance is any positive matrix, so that changes of basis keep it one."""
        return []

    def sides(self) -> tuple[Covariance, ...]:
        """The structures that lie side by side, each of columns of its own."""
        return (self,)

    def keeps_all(self) -> bool:
        """Whether the columns belong together, so that the covariance of some of them is of another kind."""
        return False

    def pieces(self) -> list[np.ndarray]:
        """Columns that covariances join, set by set."""
        return list(_pieces(self))

    def inseparable(self) -> int:
        """The most effects of a level that no assumption tells from each other, and so from residuals."""
        return max((len(columns) for columns in self.free_blocks()), default=1)

    def restricted(self, columns: np.ndarray) -> Covariance:
        """The structure of some of the columns, in their order."""
        return replace(self, k=len(columns))  # type: ignore[type-var]

    # ---- on the whole real line, for priors and samplers

    @abc.abstractmethod
    def constrain(self, sd: Array, z: Array, xp: ModuleType) -> Array:
        """T (k, k), lower triangular, from standard deviations (n_sd,) and z (n_cor,) in (-1, 1), in NumPy or JAX.

        As many of each, and in that order, as there are quantities of the two kinds. z stands for correlations
        between their bounds (:meth:`correlation_range`), or for partial ones.
        """

    def correlation_range(self) -> tuple[float, float]:
        """Between what a correlation can lie."""
        return -1.0, 1.0

    def _partials(self, correlations: np.ndarray) -> np.ndarray:
        low, high = self.correlation_range()
        return (2.0 * correlations - low - high) / (high - low)

    def partials(self, R: np.ndarray) -> np.ndarray:
        """z (n_cor,) of a correlation matrix R (k, k)."""
        return self._partials(
            np.array([R[q.row, q.column] for q in self.quantities() if q.kind == "cor"])
        )

    def log_prior(self, z: Array, prior: CorrelationPrior, xp: ModuleType) -> Array:
        """Log density of z under a prior of correlations, :class:`lmm.priors.LKJ`."""
        return sum((prior.log_partial(own, 0, 2, xp) for own in z), xp.zeros(()))


@lru_cache(maxsize=256)
def _pieces(structure: Covariance) -> tuple[np.ndarray, ...]:
    theta = np.sqrt(
        2.0 + np.arange(structure.n_theta)
    )  # a zero of |T| + |dT| is one at every theta
    reached = np.abs(structure.factor(theta)) + np.abs(structure.jacobian(theta)).sum(axis=0)
    joined = reached @ reached.T > 0.0
    label = list(range(structure.k))
    for i, j in zip(*np.nonzero(np.tril(joined, -1)), strict=True):
        if label[i] != label[j]:
            kept, other = label[i], label[j]
            label = [kept if own == other else own for own in label]
    sets = [[a for a, own in enumerate(label) if own == one] for one in set(label)]
    return tuple(np.array(columns) for columns in sorted(sets, reverse=True))
