"""Numbers that carry their first and second derivatives: a formula written once gives exact derivatives of a factor.

A jet of m variables holds a value (...), its gradient (..., m) and its Hessian (..., m, m), and follows the product and
chain rules (Griewank & Walther, 2008, Evaluating Derivatives, ch. 13).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Jet:
    """A value with derivatives by m variables."""

    __array_priority__ = 1000  # an array on the left leaves the product to the jet
    __slots__ = ("first", "second", "value")

    def __init__(self, value: np.ndarray, first: np.ndarray, second: np.ndarray):
        self.value, self.first, self.second = np.asarray(value, dtype=float), first, second

    def __add__(self, other: Jet | np.ndarray | float) -> Jet:
        if isinstance(other, Jet):
            return Jet(
                self.value + other.value, self.first + other.first, self.second + other.second
            )
        value = self.value + other
        grown = np.zeros((*value.shape, 1))
        return Jet(value, self.first + grown, self.second + grown[..., None])

    __radd__ = __add__

    def __neg__(self) -> Jet:
        return Jet(-self.value, -self.first, -self.second)

    def __sub__(self, other: Jet | np.ndarray | float) -> Jet:
        return self + (-other)

    def __mul__(self, other: Jet | np.ndarray | float) -> Jet:
        if not isinstance(other, Jet):
            other = np.asarray(other, dtype=float)
            wide = other[..., None]
            return Jet(self.value * other, self.first * wide, self.second * wide[..., None])
        a, b = self.value[..., None], other.value[..., None]
        cross = self.first[..., :, None] * other.first[..., None, :]
        return Jet(
            self.value * other.value,
            a * other.first + b * self.first,
            a[..., None] * other.second
            + b[..., None] * self.second
            + cross
            + np.swapaxes(cross, -1, -2),
        )

    __rmul__ = __mul__


def of_function(x: np.ndarray, value: np.ndarray, slope: np.ndarray, bend: np.ndarray) -> list[Jet]:
    """The jets of f(x_i) by x (m,), given f, f' and f'' at each x_i."""
    axes = np.eye(len(x))
    return [Jet(value[i], slope[i] * e, bend[i] * np.outer(e, e)) for i, e in enumerate(axes)]


def stacked(rows: Sequence[Jet]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (k,) as a matrix (k, k) with its derivatives (m, k, k) and (m, m, k, k)."""
    value = np.stack([row.value for row in rows])
    first = np.stack([row.first for row in rows])
    second = np.stack([row.second for row in rows])
    return value, np.moveaxis(first, -1, 0), np.moveaxis(second, (-2, -1), (0, 1))
