"""Correlations that fall with the distance between positions: ``ou``, ``exp``, ``gau`` and ``mat`` over coordinates.

With h = d / range, d the Euclidean distance of two positions,

    exp, and ou of one coordinate:  R = exp(-h)        gau:  R = exp(-h^2)
    mat:  R = 2^(1 - nu) / Gamma(nu) h^nu K_nu(h)       (Matern, nu the smoothness; nu = 1/2 is exp)

as in glmmTMB. theta holds the standard deviation and the logarithms of the range and the smoothness. The factor is
Cholesky's; with the operator Phi that keeps the lower triangle and half the diagonal (Smith, 1995, J. Comput. Graph. Statist. 4),

    dC_i = C Phi(C^-1 dR_i C^-T),      d2C_ij = C Phi(C^-1 (d2R_ij - dC_i dC_j' - dC_j dC_i') C^-T).
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import ModuleType

import numpy as np
from scipy.linalg import solve_triangular

from lmm.covariance.coordinates import Coordinates
from lmm.covariance.matern import matern
from lmm.covariance.scaled import Root, Scaled
from lmm.covariance.structure import CorrelationPrior, Covariance, LocalCovariance, Quantity
from lmm.errors import ArgumentError
from lmm.types import Array

#: what smooth correlations leave to each position alone, for those of many positions are singular to rounding
JITTER = 1e-10
#: the logarithm of a range, from that of the median distance, beyond which it makes no difference
FAR = 14.0
#: logarithms between which the smoothness is looked for
SMOOTH = (-4.0, 4.0)
#: pairs of positions of which one tells the range
PAIRS = 24
#: standard deviation of the logarithm of a range, in priors, about the median distance of two positions
SPREAD = 1.5


@dataclass(frozen=True)
class Spatial(Scaled):
    """One standard deviation; correlations by distance.

    Attributes
    ----------
    points : the k positions, a tuple of coordinates for each.
    """

    k: int = field(init=False)
    points: tuple[tuple[float, ...], ...]
    common = alone = over_coordinates = True
    n_angles = 1
    jitter = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", len(self.points))

    @abc.abstractmethod
    def correlation(self, d: np.ndarray, w: np.ndarray) -> Root:
        """R (...) of distances (...), with its derivatives by w, (a, ...) and (a, a, ...)."""

    def local(self, theta: np.ndarray, gram: np.ndarray | None = None) -> LocalCovariance:
        s, w = float(theta[0]), np.asarray(theta[1:])
        R, dR, d2R = self.correlation(distances(self), self._limited(w))
        shrink = 1.0 - self.jitter
        R = shrink * R + self.jitter * np.eye(self.k)
        dG = np.concatenate([2.0 * s * R[None], s * s * shrink * dR])

        def bend(D: np.ndarray) -> np.ndarray:
            out = np.empty((len(theta), len(theta)))
            out[0, 0] = 2.0 * np.sum(D * R)
            out[0, 1:] = out[1:, 0] = 2.0 * s * shrink * np.tensordot(dR, D, 2)
            out[1:, 1:] = s * s * shrink * np.tensordot(d2R, D, 2)
            return out

        return LocalCovariance(s * s * R, dG, bend)

    def root(self, w: np.ndarray) -> Root:
        if not np.isfinite(w).all():
            a = len(w)
            shapes = (self.k, self.k), (a, self.k, self.k), (a, a, self.k, self.k)
            first, second, third = (np.full(shape, np.nan) for shape in shapes)
            return first, second, third
        R, dR, d2R = self.correlation(distances(self), self._limited(w))
        shrink = 1.0 - self.jitter
        try:
            C = np.linalg.cholesky(shrink * R + self.jitter * np.eye(self.k))
        except np.linalg.LinAlgError:  # positions as good as one
            C = np.linalg.cholesky((1.0 - JITTER) * R + JITTER * np.eye(self.k))
        dC = [_halved(C, one * shrink) for one in dR]
        d2C = np.empty((len(w), len(w), self.k, self.k))
        for i in range(len(w)):
            for j in range(i + 1):
                cross = dC[i] @ dC[j].T
                d2C[i, j] = d2C[j, i] = _halved(C, d2R[i, j] * shrink - cross - cross.T)
        return C, np.array(dC), d2C

    def at_points(self, theta: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Kriging: r'R^-1, r the correlations with the positions, and s^2 (1 - r'R^-1 r). Cressie (1993), Statistics for Spatial Data."""
        s, w = float(theta[0]), np.asarray(theta[1:])
        between = np.linalg.norm(points[:, None] - np.array(self.points), axis=2)
        r = (1.0 - self.jitter) * self.correlation(between, self._limited(w))[0]
        half = solve_triangular(self.root(w)[0], r.T, lower=True)
        weights = solve_triangular(self.root(w)[0], half, lower=True, trans="T").T
        return weights, s * s * np.maximum(1.0 - np.sum(half * half, axis=0), 0.0)

    def _limited(self, w: np.ndarray) -> np.ndarray:
        """w, of which numbers can be computed."""
        middle = np.log(median_distance(self))
        return np.clip(w, middle - FAR, middle + FAR)

    # ---- theta of a covariance

    def angles(self, T: np.ndarray) -> np.ndarray:
        """From the correlation, of pairs near and far, that tells the range best: the one with the largest r |log r|."""
        row, column, d = some_pairs(self)
        with np.errstate(divide="ignore", invalid="ignore"):
            length = np.linalg.norm(T, axis=-1)
            r = (T[..., row, :] * T[..., column, :]).sum(axis=-1)
            r = r / (length[..., row] * length[..., column])
            w = np.log(d) - self.log_ratio(r)
            told = np.where(np.isfinite(w), -r * np.log(r), -1.0)
        w = np.take_along_axis(w, told.argmax(axis=-1)[..., None], axis=-1)
        return np.where(np.isfinite(w), w, np.log(median_distance(self)))

    def log_ratio(self, r: np.ndarray) -> np.ndarray:
        """log(d / range) where the correlation is r."""
        return np.log(-np.log(r))

    def start(self, G: np.ndarray, gram: np.ndarray) -> np.ndarray:
        """The range, of some between the distances, at which a multiple of R is nearest to G; half the median if G has no covariances."""
        weight = np.sqrt(np.outer(*[np.diagonal(gram)] * 2))
        np.fill_diagonal(weight, 0.0)
        theta = super().start(G, gram)
        theta[1:] = self._usual()
        if not np.any(weight * G):
            return theta
        d = distances(self)
        best = np.inf
        for share in np.geomspace(d[d > 0.0].min(), 2.0 * d.max(), 12):
            w = self._usual()
            w[0] = np.log(share)
            R = self.correlation(d, w)[0]
            size = np.sum(weight * R * G) / max(np.sum(weight * R * R), 1e-300)
            loss = np.sum(weight * (G - max(size, 0.0) * R) ** 2)
            if loss < best * (1.0 - 1e-6):
                best, theta[1:] = loss, w
        return theta

    def _usual(self) -> np.ndarray:
        """The logarithms from which a search begins."""
        out = np.zeros(self.n_angles)
        out[0] = np.log(0.5 * median_distance(self))
        return out

    def _trials(self) -> list[np.ndarray]:
        shifts = np.zeros((7, self.n_angles))
        shifts[:, 0] = np.linspace(-3.0, 3.0, 7)
        return list(self._usual() + shifts)

    def folded(self, w: np.ndarray) -> np.ndarray:
        return w

    def edges(self, w: np.ndarray) -> np.ndarray:
        return np.ones_like(w)

    # ---- what is reported

    def pairs(self) -> tuple[Quantity, ...]:
        return (Quantity("range", 1, 0, ()),)

    def describe(self, G: np.ndarray) -> np.ndarray:
        variance = np.maximum(G[..., 0, 0], 0.0)
        w = np.array([self.from_matrix(own)[1:] for own in G.reshape(-1, self.k, self.k)])
        shape = np.where(variance[..., None] > 0.0, np.exp(w.reshape(*variance.shape, -1)), np.nan)
        return np.concatenate([np.sqrt(variance)[..., None], shape], axis=-1)

    def report(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = np.concatenate([np.abs(theta[:1]), np.exp(theta[1:])])
        slopes = np.concatenate([np.where(theta[:1] < 0.0, -1.0, 1.0), values[1:]])
        if theta[0] == 0.0:
            values[1:] = np.nan
        return values, np.diag(slopes)

    def matrix(self, values: np.ndarray) -> np.ndarray:
        w = np.log(np.where(np.isnan(values[1:]), np.exp(self._usual()), values[1:]))
        return self.covariance(np.concatenate([values[:1], w]))

    def holding(self, first: int, second: int | None = None) -> Coordinates:
        places = {(q.row, q.column): i for i, q in enumerate(self.quantities())}
        return Coordinates(self, places[first, first if second is None else second])

    def restricted(self, columns: np.ndarray) -> Covariance:
        points = tuple(self.points[int(a)] for a in columns)
        return (
            replace(self, points=points)
            if len(points) >= self.least
            else super().restricted(columns)
        )

    # ---- priors

    def lower(self, z: Array, xp: ModuleType) -> Array:
        """log range = log of the median distance + arctanh(z), column after column of Cholesky's factor."""
        h = distances(self) / (median_distance(self) * xp.exp(xp.arctanh(z[0])))
        R = (1.0 - self.jitter) * self.kernel(h, xp) + self.jitter * np.eye(self.k)
        columns: list[Array] = []
        for j in range(self.k):
            left = R[:, j] - sum((own * own[j] for own in columns), 0.0 * R[:, j])
            columns.append(np.where(np.arange(self.k) >= j, 1.0, 0.0) * left / xp.sqrt(left[j]))
        return xp.stack(columns, 1)

    @abc.abstractmethod
    def kernel(self, h: Array, xp: ModuleType) -> Array:
        """R of h = d / range, in NumPy or JAX."""

    def partials(self, R: np.ndarray) -> np.ndarray:
        w = self.from_matrix(R)[1:]
        return np.tanh(w - np.log(median_distance(self)))

    def log_prior(self, z: Array, prior: CorrelationPrior, xp: ModuleType) -> Array:
        """The logarithm of the range is normal about that of the median distance."""
        zeta = xp.arctanh(z[0])
        return -0.5 * (zeta / SPREAD) ** 2 - np.log(SPREAD) - xp.log1p(-(z[0] ** 2))


class Exponential(Spatial):
    """R = exp(-d / range)."""

    name = "exp"

    def kernel(self, h: Array, xp: ModuleType) -> Array:
        return xp.exp(-h)

    def correlation(self, d: np.ndarray, w: np.ndarray) -> Root:
        h = d * np.exp(-w[0])
        R = np.exp(-h)
        return R, (h * R)[None], ((h**2 - h) * R)[None, None]


class OrnsteinUhlenbeck(Exponential):
    """The same along one coordinate, time as a rule."""

    name = "ou"
    dimensions = 1


class Gaussian(Spatial):
    """R = exp(-(d / range)^2)."""

    name = "gau"
    jitter = JITTER

    def kernel(self, h: Array, xp: ModuleType) -> Array:
        return xp.exp(-(h**2))

    def correlation(self, d: np.ndarray, w: np.ndarray) -> Root:
        square = (d * np.exp(-w[0])) ** 2
        R = np.exp(-square)
        return R, (2.0 * square * R)[None], ((4.0 * square**2 - 4.0 * square) * R)[None, None]

    def log_ratio(self, r: np.ndarray) -> np.ndarray:
        return 0.5 * super().log_ratio(r)


class Matern(Spatial):
    """Matern's correlations; range and smoothness are both estimated."""

    name = "mat"
    n_angles = 2
    least = 3
    jitter = JITTER

    def _limited(self, w: np.ndarray) -> np.ndarray:
        return np.append(super()._limited(w[:1]), np.clip(w[1:], *SMOOTH))

    def correlation(self, d: np.ndarray, w: np.ndarray) -> Root:
        distinct, place = np.unique(d, return_inverse=True)
        R, dR, d2R = matern(distinct, w[0], w[1])
        place = place.reshape(d.shape)
        return R[place], dR[:, place], d2R[:, :, place]

    def pairs(self) -> tuple[Quantity, ...]:
        return Quantity("range", 1, 0, ()), Quantity("smoothness", 0, 1, ())

    def angles(self, T: np.ndarray) -> np.ndarray:
        G = T @ np.swapaxes(T, -1, -2)
        out = [self._nearest(own) for own in G.reshape(-1, self.k, self.k)]
        return np.array(out).reshape(*G.shape[:-2], 2)

    def _nearest(self, G: np.ndarray) -> np.ndarray:
        """(log range, log smoothness) whose correlations are nearest to those of G: Gauss and Newton, Levenberg's shift."""
        w = self._usual()
        lower = np.tril_indices(self.k, -1)
        variance = np.diagonal(G)
        size = np.sqrt(np.outer(variance, variance))[lower]
        if not np.all(size > 0.0):
            return w
        d, r = distances(self)[lower], G[lower] / size
        shift, loss = 1e-3, np.inf
        R, dR, _ = self.correlation(d, w)
        for _ in range(200):
            error = R - r
            loss = float(error @ error)
            J = dR.T
            H = J.T @ J
            step = np.linalg.solve(H + shift * np.diag(np.diagonal(H) + 1e-12), -J.T @ error)
            new = np.clip(w + step, w - 1.0, w + 1.0)
            trial, slopes, _ = self.correlation(d, new)
            if float((trial - r) @ (trial - r)) <= loss:
                done = np.abs(new - w).max() < 1e-13
                w, R, dR, shift = new, trial, slopes, shift / 10.0
                if done:
                    break
            else:
                shift *= 10.0
                if shift > 1e10:
                    break
        return w

    def kernel(self, h: Array, xp: ModuleType) -> Array:
        raise ArgumentError(
            "Bayesian methods do not take 'mat' yet, whose smoothness has no derivative there; use exp or gau."
        )

    def lower(self, z: Array, xp: ModuleType) -> Array:
        return self.kernel(z, xp)

    def partials(self, R: np.ndarray) -> np.ndarray:
        return np.asarray(self.kernel(R, np))


def _halved(C: np.ndarray, change: np.ndarray) -> np.ndarray:
    """C Phi(C^-1 change C^-T)."""
    inner = solve_triangular(C, solve_triangular(C, change, lower=True).T, lower=True)
    lower = np.tril(inner)
    lower[np.diag_indices_from(lower)] *= 0.5
    return np.asarray(C @ lower)


@lru_cache(maxsize=64)
def distances(structure: Spatial) -> np.ndarray:
    """Euclidean distances of the positions (k, k)."""
    points = np.array(structure.points)
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))


@lru_cache(maxsize=64)
def median_distance(structure: Spatial) -> float:
    """The median distance of two positions."""
    return float(np.median(distances(structure)[np.tril_indices(structure.k, -1)]))


@lru_cache(maxsize=64)
def some_pairs(structure: Spatial) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of positions from the nearest to the farthest, their distances about evenly spaced in logarithm."""
    row, column = np.tril_indices(structure.k, -1)
    d = distances(structure)[row, column]
    order = np.argsort(d, kind="stable")
    at = np.searchsorted(d[order], np.geomspace(d.min(), d.max(), PAIRS))
    some = order[np.unique(np.minimum(at, len(d) - 1))]
    return row[some], column[some], d[some]
