"""The covariance parameters of all terms of a problem: theta (m,) in one vector, factors and covariances per term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lmm.covariance import Covariance


class Structured:
    """Anything with one covariance structure per term."""

    structures: tuple[Covariance, ...]
    names: tuple[str, ...]
    #: size of the linear predictor, relative to which random effects are small or large
    eta_scale: float = 1.0

    def whitened(self, estimate: Any) -> Any:
        """The problem with independent residuals that an estimate of the covariances of residuals leaves: itself where they are so."""
        return self

    def named(self, estimate: Any) -> Any:
        """An estimate of the problem as tables read it."""
        return estimate

    def constant(self) -> np.ndarray | None:
        """Coefficients (p,) of the fixed columns whose predictor is one in every row, None where there are none."""
        if not self.names:
            return None
        if "Intercept" in self.names:
            return np.eye(len(self.names))[self.names.index("Intercept")]
        return self.spanned_constant()

    def spanned_constant(self) -> np.ndarray | None:
        """:meth:`constant` where no column is an intercept."""
        raise NotImplementedError

    @property
    def n_theta(self) -> int:
        """Covariance parameters."""
        return sum(s.n_theta for s in self.structures)

    def split(self, theta: np.ndarray) -> list[np.ndarray]:
        """theta of each term."""
        stops = np.cumsum([s.n_theta for s in self.structures])
        return np.split(np.asarray(theta, dtype=float), stops[:-1])

    def factors(self, theta: np.ndarray) -> list[np.ndarray]:
        """T (k, k) per term."""
        return [s.factor(own) for s, own in zip(self.structures, self.split(theta), strict=True)]

    def covariances(self, theta: np.ndarray) -> list[np.ndarray]:
        """G = T T' (k, k) per term."""
        parts = zip(self.structures, self.split(theta), strict=True)
        return [s.covariance(own) for s, own in parts]

    def canonical(self, theta: np.ndarray) -> np.ndarray:
        """The representative of theta that is reported."""
        return np.concatenate(
            [s.canonical(own) for s, own in zip(self.structures, self.split(theta), strict=True)]
        )

    def theta_of(self, G: Sequence[np.ndarray]) -> np.ndarray:
        """theta (m,) of covariances (k, k) per term, nearest where they do not have the structure."""
        return np.concatenate(
            [s.from_matrix(own) for s, own in zip(self.structures, G, strict=True)]
        )
