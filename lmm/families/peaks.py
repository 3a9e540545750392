"""Families whose deviance is found from their density: the largest one over all means, by Newton's method."""

from __future__ import annotations

import numpy as np

from lmm.families.base import Array, Family, Phi, Weights, ones

#: coordinates beyond which a density has come to its limit
FARTHEST = 100.0
#: logarithms of dispersions among which the likeliest is looked for
GRID = np.linspace(-7.0, 9.0, 17)


class Peaked(Family):
    """A family with a unimodal likelihood in the coordinate c of the mean, whose peak has no closed form."""

    def _of_mean(self, mu: Array) -> Array:
        """c of means."""
        return np.log(mu)

    def _top(self, y: Array, w: Array | float, phi: Phi) -> Array:
        """Largest ``_kernel`` over c at each y, by Newton's method with halving from ``initial_mu``."""
        weights = None if isinstance(w, float) else w
        c = self._of_mean(self.initial_mu(y, weights))
        value = self._kernel(y, c, w, phi)
        for _ in range(60):
            d1, d2, _ = self._score(y, c, w, phi)
            concave = d2 < 0.0
            step = np.where(concave, -d1 / np.where(concave, d2, -1.0), np.sign(d1))
            step = np.clip(step, -4.0, 4.0)
            step = np.clip(c + step, -FARTHEST, FARTHEST) - c
            if not (np.abs(step) > 1e-9).any():
                break
            for _halving in range(30):
                new = self._kernel(y, c + step, w, phi)
                worse = ~(new >= value)
                if not worse.any():
                    break
                step = np.where(worse, 0.5 * step, step)
            c = np.where(worse, c, c + step)
            value = np.where(worse, value, new)
        return value

    @np.errstate(all="ignore")
    def saturated(self, y: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        y = np.asarray(y, dtype=float)
        return self._top(y, ones(weights), phi) + self.constant(y, weights, phi)

    def unit_deviance(self, y: Array, mu: Array, weights: Weights = None, phi: Phi = 1.0) -> Array:
        y = np.asarray(y, dtype=float)
        w = ones(weights)
        with np.errstate(all="ignore"):
            lost = self._top(y, w, phi) - self._kernel(y, self._of_mean(mu), w, phi)
        return 2.0 * np.maximum(lost, 0.0)

    @np.errstate(all="ignore")
    def likeliest(self, y: Array, mu: Array, weights: Weights = None) -> float:
        """The phi of the largest likelihood at means mu, found between those of a grid by parabolas."""
        c, w = self._of_mean(mu), ones(weights)

        def total(rho: float) -> float:
            phi = float(np.exp(rho))
            value = self._kernel(y, c, w, phi) + self.constant(y, weights, phi)
            return float(np.sum(value))

        values = np.array([total(rho) for rho in GRID])
        best = int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))
        at, width = float(GRID[best]), float(GRID[1] - GRID[0])
        for _ in range(3):
            low, mid, high = total(at - width), total(at), total(at + width)
            bend = low - 2.0 * mid + high
            if not bend < 0.0:
                break
            at += width * float(np.clip(0.5 * (low - high) / bend, -1.0, 1.0))
            width /= 4.0
        return float(np.exp(at))
