"""Several structures side by side on one grouping factor: ``(1|g) + (0+x|g)`` is one term with two blocks."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from lmm.covariance.coordinates import Coordinates, Sided
from lmm.covariance.structure import CorrelationPrior, Covariance, Quantity
from lmm.types import Array


def merge(parts: list[Covariance]) -> Covariance:
    """One structure for the columns of ``parts`` laid side by side; a single part stays as it is."""
    return parts[0] if len(parts) == 1 else Blocks(tuple(parts))


def _side_by_side(parts: list[Array], xp: ModuleType) -> Array:
    """A block-diagonal matrix (k, k), in NumPy or JAX."""
    k, at, rows = sum(len(part) for part in parts), 0, []
    for part in parts:
        rows.append(xp.pad(part, ((0, 0), (at, k - at - len(part)))))
        at += len(part)
    return xp.concatenate(rows)


@dataclass(frozen=True)
class Blocks(Covariance):
    """Block-diagonal G; theta is the concatenation of the parts' parameters."""

    parts: tuple[Covariance, ...]
    name = "blocks"

    @property
    def k(self) -> int:  # type: ignore[override]
        return sum(part.k for part in self.parts)

    @property
    def n_theta(self) -> int:
        return sum(part.n_theta for part in self.parts)

    def sides(self) -> tuple[Covariance, ...]:
        return self.parts

    def keeps_all(self) -> bool:
        return any(part.keeps_all() for part in self.parts)

    def _walk(self, theta: np.ndarray) -> list[tuple[Covariance, np.ndarray, slice, slice]]:
        """Per part: itself, its theta, its slice of the columns and of theta."""
        out, row, at = [], 0, 0
        for part in self.parts:
            columns, own = slice(row, row + part.k), slice(at, at + part.n_theta)
            out.append((part, np.asarray(theta)[own], columns, own))
            row, at = columns.stop, own.stop
        return out

    def factor(self, theta: np.ndarray) -> np.ndarray:
        T = np.zeros((self.k, self.k))
        for part, own, columns, _ in self._walk(theta):
            T[columns, columns] = part.factor(own)
        return T

    def jacobian(self, theta: np.ndarray) -> np.ndarray:
        dT = np.zeros((self.n_theta, self.k, self.k))
        for part, own, columns, at in self._walk(theta):
            dT[at, columns, columns] = part.jacobian(own)
        return dT

    def chart(
        self, theta: np.ndarray, gram: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        T, dT = np.zeros((self.k, self.k)), np.zeros((self.n_theta, self.k, self.k))
        second: np.ndarray | None = None
        for part, own, columns, at in self._walk(theta):
            T[columns, columns], dT[at, columns, columns], bent = part.chart(
                own, gram[columns, columns]
            )
            if bent is not None:
                second = (
                    np.zeros((self.n_theta, self.n_theta, self.k, self.k))
                    if second is None
                    else second
                )
                second[at, at, columns, columns] = bent
        return T, dT, second

    def move(self, theta: np.ndarray, gram: np.ndarray, step: np.ndarray) -> np.ndarray:
        walk = self._walk(theta)
        return np.concatenate(
            [part.move(own, gram[columns, columns], step[at]) for part, own, columns, at in walk]
        )

    def start(self, G: np.ndarray, gram: np.ndarray) -> np.ndarray:
        walk = self._walk(np.zeros(self.n_theta))
        return np.concatenate(
            [
                part.start(G[columns, columns], gram[columns, columns])
                for part, _, columns, _ in walk
            ]
        )

    def second(self, theta: np.ndarray) -> np.ndarray | None:
        seconds = [(part.second(own), columns, at) for part, own, columns, at in self._walk(theta)]
        if all(second is None for second, _, _ in seconds):
            return None
        out = np.zeros((self.n_theta, self.n_theta, self.k, self.k))
        for second, columns, at in seconds:
            if second is not None:
                out[at, at, columns, columns] = second
        return out

    def from_factor(self, T: np.ndarray) -> np.ndarray:
        walk = self._walk(np.zeros(self.n_theta))
        return np.concatenate(
            [part.from_factor(T[..., columns, :]) for part, _, columns, _ in walk], axis=-1
        )

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        zeros = np.zeros(self.n_theta)
        return np.concatenate(
            [part.from_matrix(G[columns, columns]) for part, _, columns, _ in self._walk(zeros)]
        )

    def canonical(self, theta: np.ndarray) -> np.ndarray:
        return np.concatenate([part.canonical(own) for part, own, _, _ in self._walk(theta)])

    def steps(self, theta: np.ndarray, gram: np.ndarray, G: np.ndarray) -> np.ndarray:
        walk = self._walk(theta)
        return np.concatenate(
            [
                part.steps(own, gram[columns, columns], G[columns, columns])
                for part, own, columns, _ in walk
            ]
        )

    def descent(
        self, theta: np.ndarray, D: np.ndarray, gram: np.ndarray
    ) -> tuple[float, np.ndarray]:
        best, direction = 0.0, np.zeros((self.k, self.k))
        for part, own, columns, _ in self._walk(theta):
            slope, inner = part.descent(own, D[columns, columns], gram[columns, columns])
            if slope < best:
                best, direction = slope, np.zeros((self.k, self.k))
                direction[columns, columns] = inner
        return best, direction

    @property
    def confined(self) -> bool:  # type: ignore[override]
        return any(part.confined for part in self.sides())

    def quantities(self) -> tuple[Quantity, ...]:
        return self._moved([part.quantities() for part in self.sides()])

    def implied(self) -> tuple[Quantity, ...]:
        return self._moved([part.implied() for part in self.sides()])

    def _moved(self, each: list[tuple[Quantity, ...]]) -> tuple[Quantity, ...]:
        """Quantities of the sides, their columns counted through the whole."""
        out, at = [], 0
        for part, own in zip(self.sides(), each, strict=True):
            for q in own:
                columns = tuple(a + at for a in q.columns or range(part.k))
                out.append(q._replace(row=q.row + at, column=q.column + at, columns=columns))
            at += part.k
        return tuple(out)

    def describe(self, G: np.ndarray) -> np.ndarray:
        out, at = [], 0
        for part in self.sides():
            columns = slice(at, at + part.k)
            out.append(part.describe(G[..., columns, columns]))
            at += part.k
        return np.concatenate(out, axis=-1)

    def report(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, slopes, at = [], np.zeros((self.n_theta, self.n_theta)), 0
        for part, own, _, _ in self._walk(theta):
            value, slope = part.report(own)
            place = slice(at, at + part.n_theta)
            slopes[place, place] = slope
            values.append(value)
            at += part.n_theta
        return np.concatenate(values), slopes

    def of_values(self, values: np.ndarray, scale: float) -> np.ndarray | None:
        each = [part.of_values(own, scale) for part, own, _, _ in self._walk(values)]
        found = [own for own in each if own is not None]
        return np.concatenate(found) if len(found) == len(each) else None

    def matrix(self, values: np.ndarray) -> np.ndarray:
        G = np.zeros((self.k, self.k))
        for part, own, columns, _ in self._walk(values):
            G[columns, columns] = part.matrix(own)
        return G

    def linear_basis(self) -> np.ndarray | None:
        found = []
        for part, _, columns, _ in self._walk(np.zeros(self.n_theta)):
            basis = part.linear_basis()
            if basis is None:
                return None
            wide = np.zeros((len(basis), self.k, self.k))
            wide[:, columns, columns] = basis
            found.append(wide)
        return np.concatenate(found)

    def directions(self, theta: np.ndarray) -> np.ndarray:
        found = []
        for part, own, columns, _ in self._walk(theta):
            basis = part.directions(own)
            wide = np.zeros((len(basis), self.k, self.k))
            wide[:, columns, columns] = basis
            found.append(wide)
        return np.concatenate(found)

    def maximiser(self, S: Array, xp: ModuleType) -> Array | None:
        found = []
        for part, _, columns, _ in self._walk(np.zeros(self.n_theta)):
            G = part.maximiser(S[columns, columns], xp)
            if G is None:
                return None
            found.append(G)
        return _side_by_side(found, xp)

    def free_blocks(self) -> list[np.ndarray]:
        walk = self._walk(np.zeros(self.n_theta))
        return [own + columns.start for part, _, columns, _ in walk for own in part.free_blocks()]

    def constrain(self, sd: Array, z: Array, xp: ModuleType) -> Array:
        return _side_by_side(
            [part.constrain(sd[own], z[cors], xp) for part, _, own, cors in self._shares()], xp
        )

    def partials(self, R: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [part.partials(R[columns, columns]) for part, columns, _, _ in self._shares()]
        )

    def log_prior(self, z: Array, prior: CorrelationPrior, xp: ModuleType) -> Array:
        return sum(
            (part.log_prior(z[cors], prior, xp) for part, _, _, cors in self._shares()),
            xp.zeros(()),
        )

    def _shares(self) -> list[tuple[Covariance, slice, slice, slice]]:
        """Per part: itself, its slices of the columns, of the standard deviations and of the correlations."""
        out, row, sds, cors = [], 0, 0, 0
        for part in self.parts:
            kinds = [q.kind for q in part.quantities()]
            n_sd = kinds.count("sd")
            n_cor = len(kinds) - n_sd
            out.append(
                (part, slice(row, row + part.k), slice(sds, sds + n_sd), slice(cors, cors + n_cor))
            )
            row, sds, cors = row + part.k, sds + n_sd, cors + n_cor
        return out

    def scaling(self, gram: np.ndarray) -> np.ndarray:
        B = np.zeros((self.n_theta, self.n_theta))
        for part, _, columns, own in self._walk(np.zeros(self.n_theta)):
            B[own, own] = part.scaling(gram[columns, columns])
        return B

    def held(self, theta: np.ndarray) -> np.ndarray:
        return np.concatenate([part.held(own) for part, own, _, _ in self._walk(theta)])

    def boundary(self, theta: np.ndarray) -> np.ndarray:
        return np.concatenate([part.boundary(own) for part, own, _, _ in self._walk(theta)])

    def restricted(self, columns: np.ndarray) -> Covariance:
        parts, first = [], 0
        for part in self.parts:
            own = [int(a) - first for a in columns if first <= a < first + part.k]
            first += part.k
            if own:
                parts.append(part.restricted(np.array(own)))
        return merge(parts)

    def holding(self, first: int, second: int | None = None) -> Coordinates:
        parts: list[Coordinates] = []
        held = None
        for part, _, columns, own in self._walk(np.zeros(self.n_theta)):
            if columns.start <= first < columns.stop:
                inner = part.holding(
                    first - columns.start, None if second is None else second - columns.start
                )
                held = own.start + (inner.held or 0)
                parts.append(inner)
            else:
                parts.append(Coordinates(part))
        return Sided(self, held, tuple(parts))
