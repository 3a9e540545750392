"""Conjugate gradients row by row, and quadrature of the logarithm from their coefficients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import logm

from lmm.linalg.conjugate import conjugate_gradients, log_quadratics
from lmm.linalg.devices import backend


def matrix(q: int, condition: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((q, q)))[0]
    return (Q * np.geomspace(1.0, condition, q)) @ Q.T


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e4])
def test_solutions_meet_the_tolerance_row_by_row(condition: float) -> None:
    S = matrix(60, condition)
    b = (
        np.random.default_rng(2).standard_normal((5, 60))
        * np.array([1.0, 1e-6, 1e6, 0.0, 3.0])[:, None]
    )
    found = conjugate_gradients(np, lambda v: v @ S, b, 1e-10)
    size = np.linalg.norm(b, axis=1)
    assert np.all(np.linalg.norm(found.x @ S - b, axis=1) <= 2e-10 * size)
    assert np.all(found.relative <= 1e-10)
    assert not found.x[3].any()


def test_a_good_start_takes_fewer_steps_to_the_same_place() -> None:
    S, b = matrix(80, 100.0), np.random.default_rng(3).standard_normal((3, 80))
    cold = conjugate_gradients(np, lambda v: v @ S, b, 1e-8)
    warm = conjugate_gradients(
        np, lambda v: v @ S, b, 1e-8, np.linalg.solve(S, b.T).T * (1.0 + 1e-6)
    )
    assert 0 < warm.steps < cold.steps / 2
    np.testing.assert_allclose(warm.x, cold.x, rtol=0, atol=1e-7)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    S, b = matrix(50, 50.0), np.random.default_rng(4).standard_normal((4, 50))
    all_rows = conjugate_gradients(np, lambda v: v @ S, b, 1e-9)
    alone = conjugate_gradients(np, lambda v: v @ S, b[2:3], 1e-9)
    # the iteration magnifies rounding of the products, in which BLAS treats one row otherwise than four
    np.testing.assert_allclose(alone.x[0], all_rows.x[2], rtol=1e-6, atol=1e-8)


def test_quadrature_of_the_logarithm() -> None:
    """To the square of the tolerance, nearly: Gauss quadrature doubles the digits."""
    S, b = matrix(70, 30.0), np.random.default_rng(5).standard_normal((6, 70))
    found = conjugate_gradients(np, lambda v: v @ S, b, 1e-6)
    exact = np.einsum("ri,ij,rj->r", b, np.real(logm(S)), b)
    np.testing.assert_allclose(
        log_quadratics(found.alpha, found.beta, np.sum(b * b, axis=1)), exact, rtol=1e-8
    )


def test_the_identity_has_a_logarithm_of_zero() -> None:
    b = np.ones((2, 9))
    found = conjugate_gradients(np, lambda v: v, b, 1e-8)
    assert found.steps == 1
    np.testing.assert_allclose(
        log_quadratics(found.alpha, found.beta, np.full(2, 9.0)), 0.0, atol=1e-14
    )


def test_compiled_loop_equals_the_eager_one() -> None:
    S, b = matrix(40, 20.0), np.random.default_rng(6).standard_normal((3, 40))

    def kernel(xp, S, b):  # noqa: ANN001, ANN202
        return conjugate_gradients(xp, lambda v: v @ S, b, 1e-9)

    eager, compiled = kernel(np, S, b), backend.call(kernel, S, b)
    assert abs(int(compiled.steps) - eager.steps) <= 1  # rounding may tip the last one
    np.testing.assert_allclose(compiled.x, eager.x, rtol=1e-7, atol=1e-9)
