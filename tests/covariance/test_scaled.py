"""Structures that are standard deviations times correlations: the ends of their ranges, and what is reported."""

from __future__ import annotations

import numpy as np
import pytest

from lmm.covariance import STRUCTURES, Covariance
from lmm.covariance.scaled import Scaled, angle_between

SCALED = [
    structure(k)  # type: ignore[call-arg]
    for structure in STRUCTURES.values()
    if issubclass(structure, Scaled) and not structure.over_coordinates
    for k in (2, 3, 5)
]
each = pytest.mark.parametrize("structure", SCALED, ids=str)


def some_theta(structure: Scaled, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([structure.k, seed])
    return structure.canonical(rng.normal(size=structure.n_theta))


@each
def test_correlations_are_within_their_range_and_variances_are_those_of_the_deviations(structure):
    theta = some_theta(structure)
    G = structure.covariance(theta)
    d = np.broadcast_to(theta[: structure.n_sd], structure.k)
    np.testing.assert_allclose(np.diagonal(G), d**2, rtol=1e-13)
    R = G / np.outer(d, d)
    assert np.linalg.eigvalsh(R)[0] > 0.0
    low, high = structure.correlation_range()
    assert low < R[1, 0] < high


@each
def test_canonical_theta_is_found_again_and_is_the_same_for_all_that_share_the_covariance(
    structure,
):
    theta = some_theta(structure)
    T = structure.factor(theta)
    np.testing.assert_allclose(structure.from_factor(T), theta, atol=1e-7)
    turned = theta.copy()
    turned[structure.n_sd :] += 2.0 * np.pi
    turned[: structure.n_sd] *= -1.0
    np.testing.assert_allclose(structure.canonical(turned), theta, atol=1e-12)
    np.testing.assert_allclose(structure.covariance(turned), T @ T.T, atol=1e-13)


@each
def test_a_variance_of_zero_and_a_correlation_of_one_are_at_the_boundary(structure):
    theta = some_theta(structure)
    assert (structure.boundary(theta) > 1e-3).all()
    for i in range(structure.n_sd):
        on_it = theta.copy()
        on_it[i] = 0.0
        assert structure.boundary(on_it)[i] == 0.0
        assert structure.held(on_it)[i]
        assert np.linalg.eigvalsh(structure.covariance(on_it))[0] == pytest.approx(0.0, abs=1e-12)
        found = structure.from_factor(structure.factor(on_it))
        np.testing.assert_allclose(
            structure.covariance(found), structure.covariance(on_it), atol=2e-8
        )
    for i in range(structure.n_sd, structure.n_theta):
        on_it = theta.copy()
        on_it[i] = 0.0 if "cs" in structure.name else 0.5 * np.pi
        assert structure.boundary(on_it)[i] == pytest.approx(0.0, abs=1e-15)
        assert np.linalg.eigvalsh(structure.covariance(on_it))[0] == pytest.approx(0.0, abs=1e-12)
        ahead, back = on_it.copy(), on_it.copy()
        ahead[i] += 0.3
        back[i] -= 0.3
        np.testing.assert_allclose(
            structure.covariance(ahead), structure.covariance(back), atol=1e-13
        )


@each
def test_angles_count_for_nothing_where_every_variance_is_zero(structure):
    theta = some_theta(structure)
    theta[: structure.n_sd] = 0.0
    assert structure.held(theta).all()
    assert not structure.covariance(theta).any()


@each
def test_a_descent_out_of_nothing_is_along_a_member(structure):
    zero = np.zeros(structure.n_theta)
    slope, dG = structure.descent(zero, -np.ones((structure.k, structure.k)), np.eye(structure.k))
    assert slope < 0.0
    np.testing.assert_allclose(structure.covariance(structure.from_matrix(dG)), dG, atol=1e-9)
    slope, dG = structure.descent(zero, np.eye(structure.k), np.eye(structure.k))
    assert slope == 0.0
    assert not dG.any()


@each
def test_reported_values_have_exact_slopes_and_give_the_covariance_back(structure):
    theta = some_theta(structure)
    values, slopes = structure.report(theta)
    for i, e in enumerate(np.eye(len(theta)) * 1e-6):
        ahead, back = (structure.report(theta + sign * e)[0] for sign in (1, -1))
        np.testing.assert_allclose((ahead - back) / 2e-6, slopes[:, i], atol=1e-8)
    np.testing.assert_allclose(
        structure.matrix(values), structure.covariance(theta), rtol=1e-9, atol=1e-12
    )


@each
def test_the_factor_of_the_priors_is_lower_triangular_and_of_the_same_correlations(structure):
    theta = some_theta(structure)
    G = structure.covariance(theta)
    d = np.sqrt(np.diagonal(G))
    z = structure.partials(G / np.outer(d, d))
    L = structure.constrain(theta[: structure.n_sd], z, np)
    assert np.array_equal(L, np.tril(L))
    np.testing.assert_allclose(L @ L.T, G, rtol=1e-9, atol=1e-12)


@each
def test_a_held_coordinate_is_what_it_stands_for(structure):
    """Of a standard deviation itself, of a correlation the arcsine."""
    T = structure.factor(some_theta(structure))
    values = structure.describe(T @ T.T)
    for q, value in zip(structure.quantities(), values, strict=True):
        held = structure.holding(q.row, None if q.kind == "sd" else q.column)
        x = held.enter(T)
        assert held.held is not None
        assert x[held.held] == pytest.approx(
            value if q.kind == "sd" else np.arcsin(value), abs=1e-7
        )
        back, _, _ = held.at(x)
        np.testing.assert_allclose(back @ back.T, T @ T.T, atol=1e-7)


@each
def test_one_column_alone_has_a_variance_and_no_more(structure):
    one: Covariance = structure.restricted(np.array([0]))
    assert one.n_theta == one.k == 1


def test_angles_near_a_correlation_of_one_keep_their_digits():
    w = 0.5 * np.pi - 1e-9
    u, v = np.array([1.0, 0.0]), np.array([np.sin(w), np.cos(w)])
    assert 0.5 * np.pi - angle_between(u, v) == pytest.approx(1e-9, rel=1e-6)
    assert angle_between(u, np.zeros(2)) == 0.0
