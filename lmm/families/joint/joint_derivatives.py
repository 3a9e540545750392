"""Derivatives of a joint log density in its m predictors, composed by the chain rule from those of the family.

With v(x) the family's log density, x = (eta_cond, eta_disp), u = eta_zi and p = 1 - q = logit^-1(u), a row has

    l = log q + v                                            y > 0, and
    l = log p                                                y = 0 of a hurdle,
    l = log(p + q e^v) = log(e^u + e^v) - log(1 + e^u)       y = 0 otherwise.

Let s = logit^-1(u - v) be the probability that such a zero is an excess one, t = 1 - s, k = s t (t - s). Then

    l_u = s - p,    l_uu = s t - p q,    l_uuu = k - p q (q - p),
    l_i = t v_i,    l_ui = -s t v_i,     l_uui = -k v_i,
    l_ij = t v_ij + s t v_i v_j,         l_uij = -s t v_ij + k v_i v_j,
    l_ijk = t v_ijk + s t (v_ij v_k + v_ik v_j + v_jk v_i) - k v_i v_j v_k.

The other two cases are t = 1, s = k = 0, and t = s = k = 0 with -log p in the place of log q.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from lmm.families.joint.joint_density import JointDensity


class Slopes(NamedTuple):
    """Derivatives of the log density of n rows: first (m, n), second (m, m, n), third (m, m, m, n) or None."""

    first: np.ndarray
    second: np.ndarray
    third: np.ndarray | None


def log_density(
    density: JointDensity, y: np.ndarray, etas: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """l (n,)."""
    return np.asarray(density.log_density(y, list(etas), weights))


def second_order(
    density: JointDensity, y: np.ndarray, etas: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """r = dl / deta (m, n) and W = -d2l / deta deta' (m, m, n)."""
    found = slopes(density, y, etas, weights, False)
    return found.first, -found.second


def weighted_slopes(
    density: JointDensity, y: np.ndarray, etas: np.ndarray, weights: np.ndarray, C: np.ndarray
) -> np.ndarray:
    """The gradient (m, n) in the predictors of sum_ab C_ab W_ab, C (m, m, n)."""
    third = slopes(density, y, etas, weights, True).third
    assert third is not None
    return -np.einsum("abn,abcn->cn", C, third)


def slopes(
    density: JointDensity, y: np.ndarray, etas: np.ndarray, weights: np.ndarray, third: bool
) -> Slopes:
    """Derivatives to second order, with ``third`` to third."""
    inside = weights if density.weighs_inside else None
    found = family_slopes(density, y, etas, inside, third)
    if density.inflated:
        found = inflated(density, y, etas, inside, found)
    if density.weighs_inside:
        return found
    return Slopes(
        found.first * weights,
        found.second * weights,
        None if found.third is None else found.third * weights,
    )


def family_slopes(
    density: JointDensity, y: np.ndarray, etas: np.ndarray, weights: np.ndarray | None, third: bool
) -> Slopes:
    """Derivatives of the family's log density v in (eta_cond, eta_disp), or in eta_cond alone."""
    inner, eta, phi = density.inner, density.of(etas, "cond"), density.phi(etas)
    if density.is_hurdle:
        y = np.where(y == 0.0, 1.0, y)
    at = inner.derivatives(y, eta, weights, phi)
    k, n = 1 + int(inner.has_dispersion), len(y)
    first, second = np.empty((k, n)), np.empty((k, k, n))
    cubed = np.empty((k, k, k, n)) if third else None
    first[0], second[0, 0] = at.d1, at.d2
    if cubed is not None:
        cubed[0, 0, 0] = at.d3
    if k == 1:
        return Slopes(first, second, cubed)
    own, a = inner.dispersion_slopes(y, eta, weights, phi, third), inner.dispersion_power
    first[1] = a * own.first
    second[0, 1] = second[1, 0] = a * own.eta
    second[1, 1] = a**2 * own.second
    if cubed is not None:
        cubed[0, 0, 1] = cubed[0, 1, 0] = cubed[1, 0, 0] = a * own.eta_eta
        cubed[0, 1, 1] = cubed[1, 0, 1] = cubed[1, 1, 0] = a**2 * own.eta_second
        cubed[1, 1, 1] = a**3 * own.third
    return Slopes(first, second, cubed)


def inflated(
    density: JointDensity, y: np.ndarray, etas: np.ndarray, weights: np.ndarray | None, v: Slopes
) -> Slopes:
    """Derivatives of l in all predictors, from those of v."""
    z = density.names.index("zi")
    x = [a for a in range(density.m) if a != z]
    zero, u = y == 0.0, etas[z]
    p, q = special.expit(u), special.expit(-u)
    if density.is_hurdle:
        s, t = np.where(zero, 1.0, 0.0), np.where(zero, 0.0, 1.0)
    else:
        own = density.inner.log_density(y, density.of(etas, "cond"), weights, density.phi(etas))
        s = np.where(zero, special.expit(u - own), 0.0)
        t = np.where(zero, special.expit(own - u), 1.0)
    both = s * t
    first, second = np.empty((density.m, len(y))), np.empty((density.m, density.m, len(y)))
    first[z], first[x] = s - p, t * v.first
    second[z, z] = both - p * q
    second[z, x] = second[x, z] = -both * v.first
    outer = v.first[:, None] * v.first[None]
    second[np.ix_(x, x)] = t * v.second + both * outer
    if v.third is None:
        return Slopes(first, second, None)
    bent = both * (t - s)
    third = np.empty((density.m, *second.shape))
    third[z, z, z] = bent - p * q * (q - p)
    third[z, z, x] = third[z, x, z] = third[x, z, z] = -bent * v.first
    mixed = -both * v.second + bent * outer
    third[np.ix_([z], x, x)] = mixed[None]
    third[np.ix_(x, [z], x)] = mixed[:, None]
    third[np.ix_(x, x, [z])] = mixed[:, :, None]
    product = v.second[:, :, None] * v.first[None, None]
    products = product + np.swapaxes(product, 1, 2) + np.moveaxis(product, 2, 0)
    cube = outer[:, :, None] * v.first[None, None]
    third[np.ix_(x, x, x)] = t * v.third + both * products - bent * cube
    return Slopes(first, second, third)
