"""What every covariance structure promises, over the registry and beyond it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lmm.covariance import STRUCTURES, Blocks, Covariance, Diagonal, Unstructured, merge
from tests.covariance.examples import (
    NEW,
    Mirror,
    MovingAverage,
    RandomWalk,
    correlated_pairs,
)

ALL: list[Covariance] = [
    *(structure(k) for structure in (Unstructured, Diagonal) for k in range(1, 6)),
    Blocks((Unstructured(1), Unstructured(1))),
    Blocks((Unstructured(2), Diagonal(1))),
    Blocks((Diagonal(2), Unstructured(3))),
    Blocks((Unstructured(1), Blocks((Diagonal(1), Unstructured(2))))),
]
LINEAR: list[Covariance] = [
    *ALL,
    *(NEW[name](k) for name in ("walk", "mirror") for k in (2, 3, 5)),  # type: ignore[call-arg]
    Blocks((Mirror(3), Unstructured(2))),
    Blocks((Diagonal(1), RandomWalk(2))),
]
WITH_NEW: list[Covariance] = [
    *LINEAR,
    *(
        structure(k)
        for structure in STRUCTURES.values()
        if not structure.over_coordinates
        for k in (2, 3, 5)
    ),  # type: ignore[call-arg]
    MovingAverage(2),
    MovingAverage(4),
    Blocks((MovingAverage(3), Unstructured(1))),
]
every = pytest.mark.parametrize("structure", ALL, ids=str)
linear = pytest.mark.parametrize("structure", LINEAR, ids=str)
any_at_all = pytest.mark.parametrize("structure", WITH_NEW, ids=str)


def some_theta(structure: Covariance, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([structure.n_theta, structure.k, seed]).normal(
        size=structure.n_theta
    )


def some_gram(k: int, seed: int = 0) -> np.ndarray:
    """The mean of z z' of columns in different units, off their origin."""
    rng = np.random.default_rng([k, seed])
    z = (rng.normal(size=(200, k)) + 2.0) * 10.0 ** rng.uniform(-2, 2, k)
    return z.T @ z / 200


def matrix(structure: Covariance, theta: np.ndarray) -> np.ndarray:
    T = structure.factor(theta)
    return T @ T.T


def differences(function, x: np.ndarray, h: float = 1e-6) -> np.ndarray:
    """Central differences, parameter first."""
    return np.array([(function(x + h * e) - function(x - h * e)) / (2 * h) for e in np.eye(len(x))])


def in_structure(structure: Covariance) -> np.ndarray:
    """Which entries of G the structure leaves free, (k, k)."""
    free = np.zeros((structure.k, structure.k), dtype=bool)
    for piece in structure.pieces():
        free[np.ix_(piece, piece)] = True
    return free


@every
def test_factor_is_lower_triangular_and_has_the_shape(structure: Covariance) -> None:
    T = structure.factor(some_theta(structure))
    assert T.shape == (structure.k, structure.k)
    assert np.array_equal(T, np.tril(T))
    assert (T @ T.T)[~in_structure(structure)].sum() == 0


@any_at_all
def test_structure_is_hashable_and_equal_to_its_copy(structure: Covariance) -> None:
    copy = replace(structure)
    assert copy == structure
    assert hash(copy) == hash(structure)


@any_at_all
def test_jacobian_and_second_are_the_derivatives_of_factor(structure: Covariance) -> None:
    theta = some_theta(structure)
    assert structure.jacobian(theta) == pytest.approx(
        differences(structure.factor, theta), abs=1e-8
    )
    second = structure.second(theta)
    bent = differences(structure.jacobian, theta)
    assert (np.zeros_like(bent) if second is None else second) == pytest.approx(bent, abs=1e-7)


@any_at_all
def test_the_covariance_and_its_derivatives_are_those_of_the_factor(structure: Covariance) -> None:
    theta = some_theta(structure)
    assert structure.covariance(theta) == pytest.approx(matrix(structure, theta), rel=1e-14)
    slopes, bends = structure.covariance_slopes(theta), structure.covariance_bends(theta)
    assert slopes == pytest.approx(differences(structure.covariance, theta), abs=1e-8)
    assert bends == pytest.approx(differences(structure.covariance_slopes, theta), abs=1e-7)


@any_at_all
def test_chart_gives_the_same_matrix_and_the_derivative_along_move(structure: Covariance) -> None:
    theta, gram = some_theta(structure), some_gram(structure.k)
    T, dT, _ = structure.chart(theta, gram)
    G = matrix(structure, theta)
    assert T @ T.T == pytest.approx(G, rel=1e-9, abs=1e-9 * np.abs(G).max())
    dG = dT @ T.T + np.swapaxes(dT @ T.T, 1, 2)
    numeric = differences(
        lambda s: matrix(structure, structure.move(theta, gram, s)), np.zeros(structure.n_theta)
    )
    assert dG == pytest.approx(numeric, rel=1e-5, abs=1e-6 * np.abs(numeric).max())


@any_at_all
def test_a_step_of_zero_stays_and_the_curvature_along_move_is_the_charts(
    structure: Covariance,
) -> None:
    theta, gram = some_theta(structure), some_gram(structure.k)
    zero = np.zeros(structure.n_theta)
    G = matrix(structure, theta)
    assert matrix(structure, structure.move(theta, gram, zero)) == pytest.approx(
        G, abs=1e-9 * np.abs(G).max()
    )
    T, dT, second = structure.chart(theta, gram)
    step = np.random.default_rng(5).normal(size=structure.n_theta)
    there = np.tensordot(step, dT, 1)
    bent = 2 * there @ there.T
    if second is not None:
        along = np.einsum("i,j,ijab->ab", step, step, second)
        bent = bent + along @ T.T + T @ along.T
    h = 1e-4
    ahead, back = (
        matrix(structure, structure.move(theta, gram, sign * h * step)) for sign in (1, -1)
    )
    numeric = (ahead - 2 * G + back) / h**2
    assert numeric == pytest.approx(
        bent, rel=1e-4, abs=1e-5 * np.abs(bent).max() + 1e-7 * np.abs(G).max() / h
    )


@linear
def test_chart_moves_off_a_singular_matrix(structure: Covariance) -> None:
    """At theta = 0 a step still leads somewhere: G grows with the square of it."""
    gram = some_gram(structure.k)
    step = some_theta(structure, seed=4)
    G = matrix(structure, structure.move(np.zeros(structure.n_theta), gram, step))
    assert np.trace(G @ gram) > 0
    doubled = matrix(structure, structure.move(np.zeros(structure.n_theta), gram, 2 * step))
    assert doubled == pytest.approx(4 * G, rel=1e-8, abs=1e-9 * np.abs(G).max())


@any_at_all
def test_from_matrix_returns_members_exactly(structure: Covariance) -> None:
    G = matrix(structure, some_theta(structure))
    assert matrix(structure, structure.from_matrix(G)) == pytest.approx(G, rel=1e-9, abs=1e-12)


@linear
def test_from_matrix_is_nearest_otherwise(structure: Covariance) -> None:
    """No member drawn at random, near or far, is nearer to an indefinite matrix."""
    rng = np.random.default_rng(structure.k)
    wanted = rng.normal(size=(structure.k, structure.k))
    wanted = wanted + wanted.T
    wanted -= (np.linalg.eigvalsh(wanted)[0] + 0.5) * np.eye(
        structure.k
    )  # smallest eigenvalue -0.5
    theta = structure.from_matrix(wanted)
    free = in_structure(structure)

    def distance(at: np.ndarray) -> float:
        return float(np.sum((matrix(structure, at) - wanted)[free] ** 2))

    best = distance(theta)
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(50):
            assert distance(theta + scale * rng.normal(size=len(theta))) >= best - 1e-12


@every
def test_canonical_keeps_the_matrix_and_is_the_same_for_all_that_share_it(
    structure: Covariance,
) -> None:
    theta = some_theta(structure)
    canonical = structure.canonical(theta)
    T = structure.factor(canonical)
    assert T @ T.T == pytest.approx(matrix(structure, theta), rel=1e-12, abs=1e-13)
    assert (np.diagonal(T) >= 0).all()
    assert structure.canonical(-theta) == pytest.approx(canonical, abs=1e-13)
    assert structure.canonical(canonical) == pytest.approx(canonical, abs=1e-13)


@every
def test_canonical_of_a_singular_matrix(structure: Covariance) -> None:
    theta = some_theta(structure)
    names = structure.theta_names(tuple("abcdef"[: structure.k]))
    theta[[i for i, name in enumerate(names) if name == ("a",)]] = (
        0.0  # first pivot zero, what is below it is not
    )
    T = structure.factor(structure.canonical(theta))
    assert T @ T.T == pytest.approx(matrix(structure, theta), rel=1e-12, abs=1e-13)
    assert (np.diagonal(T) >= 0).all()
    assert not structure.canonical(np.zeros(structure.n_theta)).any()


@every
def test_start_is_positive_definite_within_bounds_and_follows_the_units(
    structure: Covariance,
) -> None:
    rng = np.random.default_rng(structure.k)
    gram = some_gram(structure.k)
    unit = 1 / np.sqrt(np.diagonal(gram))
    S = 10.0 ** rng.uniform(-3, 3, structure.k)
    for eigenvalues in (
        np.full(structure.k, -1.0),
        rng.normal(size=structure.k),
        np.full(structure.k, 1e7),
    ):
        Q = np.linalg.qr(rng.normal(size=(structure.k, structure.k)))[0]
        G = (Q * eigenvalues) @ Q.T * np.outer(unit, unit)
        first = matrix(structure, structure.start(G, gram))
        scaled = first / np.outer(unit, unit)
        assert np.linalg.eigvalsh(scaled)[0] > 1e-6
        # a share of the variance: neither nothing nor a millionfold
        assert 1e-4 < np.trace(first @ gram) < 1e6 * structure.k
        other = matrix(structure, structure.start(G / np.outer(S, S), gram * np.outer(S, S)))
        assert other * np.outer(S, S) == pytest.approx(
            first, rel=1e-5, abs=1e-6 * np.sqrt(np.outer(*2 * [np.diagonal(first)])).max()
        )


@pytest.mark.parametrize("k", [2, 3, 5])
def test_unstructured_start_follows_any_change_of_basis(k: int) -> None:
    """Moving the origin of a slope mixes it with the intercept; the start is the same model all the same."""
    rng = np.random.default_rng(k)
    z = rng.normal(size=(300, k)) + 1.0
    A = rng.normal(size=(k, k)) + 2 * np.eye(k)
    G = np.diag(rng.normal(size=k))
    structure = Unstructured(k)
    first = matrix(structure, structure.start(G, z.T @ z / 300))
    inverse = np.linalg.inv(A)
    other = matrix(structure, structure.start(inverse @ G @ inverse.T, A.T @ z.T @ z @ A / 300))
    assert A @ other @ A.T == pytest.approx(first, rel=1e-7, abs=1e-8)


@linear
def test_descent_finds_what_random_directions_find(structure: Covariance) -> None:
    """At theta = 0 all of G is null space: the slope is negative exactly when some G >= 0 of the structure descends."""
    rng = np.random.default_rng(structure.k)
    zero = np.zeros(structure.n_theta)
    for shift in (-10.0, 0.0, 10.0):
        D = rng.normal(size=(structure.k, structure.k))
        D = D + D.T + shift * np.eye(structure.k)
        slope, dG = structure.descent(zero, D, np.eye(structure.k))
        found = [matrix(structure, rng.normal(size=structure.n_theta)) for _ in range(400)]
        steepest = min(float(np.sum(D * G)) / np.trace(G) for G in found)
        assert slope <= max(steepest, 0.0) + 1e-12
        if slope < 0:
            assert dG == pytest.approx(matrix(structure, structure.from_matrix(dG)), abs=1e-12)
            assert np.sum(D * dG) == pytest.approx(slope * np.trace(dG), rel=1e-10)
            assert np.linalg.eigvalsh(dG)[0] >= -1e-12
        else:
            assert steepest >= 0
        assert (slope < 0) or shift >= 0


@any_at_all
def test_no_descent_without_a_null_space(structure: Covariance) -> None:
    theta = structure.from_matrix(np.eye(structure.k))
    slope, dG = structure.descent(theta, -np.eye(structure.k), np.eye(structure.k))
    assert slope == 0.0
    assert not dG.any()


def test_descent_looks_only_into_the_null_space() -> None:
    """G has rank one: D is negative on its range, which is no descent, until it is negative across it too."""
    range_, null = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
    structure = Unstructured(2)
    theta = structure.from_matrix(np.outer(range_, range_))
    D = -5.0 * np.outer(range_, range_) + 2.0 * np.outer(null, null)
    eye = np.eye(2)
    assert structure.descent(theta, D, eye)[0] == pytest.approx(2.0)
    slope, dG = structure.descent(theta, D - 3.0 * np.outer(null, null), eye)
    assert slope == pytest.approx(-1.0)
    assert dG == pytest.approx(np.outer(null, null), abs=1e-7)
    diagonal = Diagonal(2)
    assert diagonal.descent(np.array([1.0, 0.0]), np.diag([-5.0, 2.0]), eye)[0] >= 0
    slope, dG = diagonal.descent(np.array([1.0, 0.0]), np.diag([-5.0, -2.0]), eye)
    assert slope == -2.0
    assert np.array_equal(dG, np.diag([0.0, 1.0]))


def test_blocks_take_the_steepest_of_their_parts() -> None:
    structure = Blocks((Unstructured(1), Diagonal(2)))
    slope, dG = structure.descent(
        np.zeros(3), np.array([[-1.0, 9.0, 9.0], [9.0, 3.0, 9.0], [9.0, 9.0, -4.0]]), np.eye(3)
    )
    assert slope == -4.0
    assert np.array_equal(dG, np.diag([0.0, 0.0, 1.0]))


@every
def test_boundary_is_zero_exactly_where_the_matrix_is_singular(structure: Covariance) -> None:
    theta = structure.canonical(some_theta(structure))
    distances = structure.boundary(theta)
    assert (distances > 0).all()
    assert len(distances) == structure.k
    assert structure.boundary(np.zeros(structure.n_theta)).max() == 0.0
    names = structure.theta_names(tuple("abcdef"[: structure.k]))
    for i, name in enumerate(names):
        if len(name) == 1:
            on_it = theta.copy()
            on_it[i] = 0.0
            assert structure.boundary(on_it).min() == 0.0
            assert np.linalg.eigvalsh(matrix(structure, on_it))[0] == pytest.approx(0.0, abs=1e-12)


@every
def test_standardised_does_not_depend_on_units(structure: Covariance) -> None:
    """The theta of columns with root mean square one, whatever unit they came in."""
    theta, gram = structure.canonical(some_theta(structure)), some_gram(structure.k)
    unit = np.sqrt(np.diagonal(gram))
    found = structure.standardised(theta, gram)
    assert structure.factor(found) == pytest.approx(
        unit[:, None] * structure.factor(theta), rel=1e-12
    )
    S = 10.0 ** np.random.default_rng(0).uniform(-3, 3, structure.k)
    other = structure.standardised(theta, np.diag(1 / S**2))
    assert structure.factor(other) == pytest.approx(structure.factor(theta) / S[:, None], rel=1e-12)
    assert structure.standardised(other, gram * np.outer(S, S)) == pytest.approx(found, rel=1e-12)


@every
def test_theta_names_say_where_each_parameter_stands(structure: Covariance) -> None:
    columns = tuple("abcdef"[: structure.k])
    names = structure.theta_names(columns)
    assert len(names) == structure.n_theta
    for i, name in enumerate(names):
        T = structure.factor(np.eye(structure.n_theta)[i])
        (row,), (column,) = np.nonzero(T)
        assert name == ((columns[row],) if row == column else (columns[row], columns[column]))
    below = {(columns[i], columns[j]) for i, j in correlated_pairs(structure)}
    assert {name for name in names if len(name) == 2} == below


def test_orders_are_lme4s() -> None:
    """Theta runs down the columns of the lower triangle; so do the correlations that are printed."""
    columns = ("Intercept", "x", "z")
    names = [("Intercept",), ("x", "Intercept"), ("z", "Intercept"), ("x",), ("z", "x"), ("z",)]
    assert Unstructured(3).theta_names(columns) == names
    assert correlated_pairs(Unstructured(3)) == [(1, 0), (2, 0), (2, 1)]
    assert Blocks((Diagonal(1), Unstructured(2))).theta_names(columns) == [
        ("Intercept",),
        ("x",),
        ("z", "x"),
        ("z",),
    ]
    assert correlated_pairs(Blocks((Diagonal(1), Unstructured(2)))) == [(2, 1)]
    assert Diagonal(3).theta_names(columns) == [("Intercept",), ("x",), ("z",)]


def test_merge_leaves_a_single_part_as_it_is() -> None:
    assert merge([Unstructured(2)]) == Unstructured(2)
    assert merge([Unstructured(1), Diagonal(2)]) == Blocks((Unstructured(1), Diagonal(2)))
