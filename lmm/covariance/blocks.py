"""Several structures side by side on one grouping factor: ``(1|g) + (0+x|g)`` is one term with two blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lmm.covariance.base import Covariance
from lmm.covariance.coordinates import Coordinates, Sided


def merge(parts: list[Covariance]) -> Covariance:
    """One structure for the columns of ``parts`` laid side by side; a single part stays as it is."""
    return parts[0] if len(parts) == 1 else Blocks(tuple(parts))


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

    def chart(self, theta: np.ndarray, gram: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        T, dT = np.zeros((self.k, self.k)), np.zeros((self.n_theta, self.k, self.k))
        second: np.ndarray | None = None
        for part, own, columns, at in self._walk(theta):
            T[columns, columns], dT[at, columns, columns], bent = part.chart(own, gram[columns, columns])
            if bent is not None:
                second = np.zeros((self.n_theta, self.n_theta, self.k, self.k)) if second is None else second
                second[at, at, columns, columns] = bent
        return T, dT, second

    def move(self, theta: np.ndarray, gram: np.ndarray, step: np.ndarray) -> np.ndarray:
        walk = self._walk(theta)
        return np.concatenate([part.move(own, gram[columns, columns], step[at]) for part, own, columns, at in walk])

    def start(self, G: np.ndarray, gram: np.ndarray) -> np.ndarray:
        walk = self._walk(np.zeros(self.n_theta))
        return np.concatenate([part.start(G[columns, columns], gram[columns, columns]) for part, _, columns, _ in walk])

    def second(self, theta: np.ndarray) -> np.ndarray | None:
        seconds = [(part.second(own), columns, at) for part, own, columns, at in self._walk(theta)]
        if all(second is None for second, _, _ in seconds):
            return None
        out = np.zeros((self.n_theta, self.n_theta, self.k, self.k))
        for second, columns, at in seconds:
            if second is not None:
                out[at, at, columns, columns] = second
        return out

    def from_matrix(self, G: np.ndarray) -> np.ndarray:
        zeros = np.zeros(self.n_theta)
        return np.concatenate([part.from_matrix(G[columns, columns]) for part, _, columns, _ in self._walk(zeros)])

    def canonical(self, theta: np.ndarray) -> np.ndarray:
        return np.concatenate([part.canonical(own) for part, own, _, _ in self._walk(theta)])

    def descent(self, theta: np.ndarray, D: np.ndarray) -> tuple[float, np.ndarray]:
        best, direction = 0.0, np.zeros((self.k, self.k))
        for part, own, columns, _ in self._walk(theta):
            slope, inner = part.descent(own, D[columns, columns])
            if slope < best:
                best, direction = slope, np.zeros((self.k, self.k))
                direction[columns, columns] = inner
        return best, direction

    def theta_names(self, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
        return [n for part, _, own, _ in self._walk(np.zeros(self.n_theta)) for n in part.theta_names(columns[own])]

    def pairs(self) -> list[tuple[int, int]]:
        walk = self._walk(np.zeros(self.n_theta))
        return [(i + own.start, j + own.start) for part, _, own, _ in walk for i, j in part.pairs()]

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
                inner = part.holding(first - columns.start, None if second is None else second - columns.start)
                held = own.start + (inner.held or 0)
                parts.append(inner)
            else:
                parts.append(Coordinates(part))
        return Sided(self, held, tuple(parts))
