"""The subproblem by its optimality conditions, and the search on functions with known minima."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lmm.search.trust_region import Outcome, Point, minimize, step_within


def hessians() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    spectra = {
        "definite": [1.0, 2.0, 3.0, 5.0, 8.0],
        "badly conditioned": [1e-6, 1e-2, 1.0, 1e2, 1e6],
        "indefinite": [-3.0, -1.0, 0.5, 2.0, 4.0],
        "singular": [0.0, 0.0, 1.0, 2.0, 3.0],
        "negative": [-5.0, -4.0, -3.0, -2.0, -1.0],
        "nothing": [0.0] * 5,
    }
    return {name: (Q * values) @ Q.T for name, values in spectra.items()}


@pytest.mark.parametrize("radius", [1e-3, 0.3, 1.0, 50.0])
@pytest.mark.parametrize("name", hessians())
def test_step_meets_the_optimality_conditions(name: str, radius: float) -> None:
    """More & Sorensen: (H + mu I) s = -g with mu >= 0, H + mu I >= 0, and mu (radius - |s|) = 0."""
    H = hessians()[name]
    g = np.random.default_rng(1).normal(size=5)
    step, promised = step_within(g, H, radius)
    length = np.linalg.norm(step)
    assert length <= radius * (1 + 1e-9)
    assert promised == pytest.approx(-(g @ step + 0.5 * step @ H @ step), rel=1e-9)
    assert promised > 0
    mu = -float(step @ (H @ step + g)) / length**2
    scale = np.abs(H).max() + np.linalg.norm(g) / radius
    assert mu >= -1e-9 * scale
    assert np.linalg.eigvalsh(H)[0] + mu >= -1e-9 * scale
    assert np.linalg.norm(H @ step + mu * step + g) <= 1e-6 * np.linalg.norm(g)
    assert length >= 0.998 * radius or abs(mu) <= 1e-9 * scale


@pytest.mark.parametrize("radius", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("name", hessians())
def test_no_point_of_the_ball_is_better(name: str, radius: float) -> None:
    H = hessians()[name]
    rng = np.random.default_rng(2)
    g = rng.normal(size=5)
    _, promised = step_within(g, H, radius)
    points = rng.normal(size=(4000, 5))
    points *= radius * rng.uniform(size=(4000, 1)) ** 0.2 / np.linalg.norm(points, axis=1)[:, None]
    values = points @ g + 0.5 * np.einsum("ni,ij,nj->n", points, H, points)
    assert promised >= -values.min() * (1 - 2e-3)


def test_hard_case_goes_to_the_edge() -> None:
    """The gradient has no part along the direction of negative curvature, or none at all."""
    H = np.diag([-2.0, 1.0, 3.0])
    step, promised = step_within(np.array([0.0, 1.0, 1.0]), H, 2.0)
    assert np.linalg.norm(step) == pytest.approx(2.0, rel=1e-9)
    mu = 2.0
    assert step[1:] == pytest.approx([-1 / (1 + mu), -1 / (3 + mu)], rel=1e-6)
    step, promised = step_within(np.zeros(3), H, 2.0)
    assert np.abs(step) == pytest.approx([2.0, 0.0, 0.0], abs=1e-9)
    assert promised == pytest.approx(4.0)


def test_newton_step_within_the_radius_is_taken_whole() -> None:
    H, g = np.diag([2.0, 4.0]), np.array([1.0, -1.0])
    step, promised = step_within(g, H, 10.0)
    assert step == pytest.approx([-0.5, 0.25])
    assert promised == pytest.approx(0.375)


def search(f: Callable, start: list[float], **settings) -> Outcome:
    """``f(x)`` gives value, gradient and Hessian; plain coordinates."""

    def evaluate(x: np.ndarray) -> Point:
        return Point(x, *f(x))

    settings = {"tolerance": 1e-12, "max_evaluations": 200, "radius": 1.0, **settings}
    return minimize(evaluate, lambda x, s: x + s, np.array(start), **settings)


def quadratic(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    H = np.array([[3.0, 1.0], [1.0, 2.0]])
    d = x - np.array([4.0, -7.0])
    return float(0.5 * d @ H @ d), H @ d, H


def rosenbrock(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    a, b = x
    gradient = np.array([-400 * a * (b - a * a) - 2 * (1 - a), 200 * (b - a * a)])
    H = np.array([[1200 * a * a - 400 * b + 2, -400 * a], [-400 * a, 200.0]])
    return float(100 * (b - a * a) ** 2 + (1 - a) ** 2), gradient, H


def saddle(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Two minima of -1 at (0, +-1), a saddle at the origin."""
    a, b = x
    return (
        float(a * a + b**4 - 2 * b * b),
        np.array([2 * a, 4 * b**3 - 4 * b]),
        np.diag([2.0, 12 * b * b - 4]),
    )


def test_quadratic() -> None:
    outcome = search(quadratic, [0.0, 0.0])
    assert outcome.converged
    assert outcome.point.theta == pytest.approx([4.0, -7.0], abs=1e-7)
    assert outcome.evaluations <= 8


def test_a_search_that_leads_to_a_known_minimum_is_given_up() -> None:
    whole = search(rosenbrock, [-1.2, 1.0])
    again = search(rosenbrock, [-1.2, 1.0], known=whole.point.objective)
    assert not again.converged and again.message == "leads to the minimum that is known"
    assert again.evaluations < whole.evaluations and again.point.objective > whole.point.objective
    for known in (0.2, -0.2):  # it ends elsewhere: lower, or higher
        assert search(rosenbrock, [-1.2, 1.0], known=known).point.objective == whole.point.objective


@pytest.mark.parametrize("start", [[-1.2, 1.0], [5.0, -5.0], [-10.0, 10.0]])
def test_curved_valley(start: list[float]) -> None:
    outcome = search(rosenbrock, start)
    assert outcome.converged
    assert outcome.point.theta == pytest.approx([1.0, 1.0], abs=1e-6)
    objectives = [line["objective"] for line in outcome.trace if line["accepted"]]
    assert all(b <= a for a, b in zip(objectives, objectives[1:], strict=False))


@pytest.mark.parametrize("start", [[0.0, 0.0], [3.0, 0.0], [0.5, 0.01]])
def test_saddle_is_left(start: list[float]) -> None:
    outcome = search(saddle, start)
    assert outcome.converged
    assert outcome.point.objective == pytest.approx(-1.0, abs=1e-10)


def test_infinite_values_are_stepped_back_from() -> None:
    def logarithm(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        if x[0] <= 0:
            return np.inf, np.zeros(1), np.eye(1)
        return float(x[0] - np.log(x[0])), 1 - 1 / x, np.diag(1 / x**2)

    outcome = search(logarithm, [0.9], radius=5.0)
    assert outcome.converged
    outcome = search(logarithm, [30.0], radius=100.0)
    assert outcome.converged
    assert outcome.point.theta == pytest.approx([1.0], abs=1e-6)
    assert any(
        not np.isfinite(line["objective"]) and not line["accepted"] for line in outcome.trace
    )


def test_limit_of_evaluations() -> None:
    outcome = search(rosenbrock, [-1.2, 1.0], max_evaluations=4)
    assert not outcome.converged
    assert outcome.evaluations == 4
    assert outcome.message == "stopped at the limit of 4 evaluations"
    assert len(outcome.trace) == 4


def test_wrong_gradient_is_not_called_converged() -> None:
    def uphill(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        value, gradient, H = quadratic(x)
        return value, -gradient, H

    outcome = search(uphill, [0.0, 0.0])
    assert not outcome.converged


def test_escape_is_asked_at_the_end_and_followed() -> None:
    asked: list[np.ndarray] = []

    def escape(point: Point) -> list[np.ndarray]:
        asked.append(point.theta)
        return [np.array([9.0, 9.0]), np.array([0.0, 0.5])] if abs(point.theta[1]) < 1e-3 else []

    def flat(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The saddle with a Hessian that does not see it."""
        value, gradient, _ = saddle(x)
        return value, gradient, np.diag([2.0, 12 * x[1] ** 2 + 1])

    outcome = search(flat, [1.0, 0.0], escape=escape)
    assert outcome.converged
    assert outcome.point.objective == pytest.approx(-1.0, abs=1e-8)
    assert len(asked) == 2
    stuck = search(flat, [1.0, 0.0], escape=lambda point: [np.array([9.0, 9.0])])
    assert not stuck.converged
    assert "boundary" in stuck.message


def test_refine_replaces_the_hessian_near_the_end() -> None:
    """A model Hessian ten times too large converges slowly; the exact one near the end makes up for it."""

    def stiff(x: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        value, gradient, H = quadratic(x)
        return value, gradient, 10 * H

    def refine(point: Point) -> Point:
        return Point(point.theta, point.objective, point.gradient, quadratic(point.theta)[2])

    slow, quick = search(stiff, [3.0, -6.0]), search(stiff, [3.0, -6.0], refine=refine)
    assert slow.converged and quick.converged
    assert quick.evaluations < slow.evaluations / 3


def test_callback_sees_every_line_of_the_trace() -> None:
    lines: list[dict] = []
    outcome = search(rosenbrock, [-1.2, 1.0], callback=lines.append)
    assert lines == list(outcome.trace)
    assert len(lines) == outcome.evaluations
    assert set(lines[0]) == {"objective", "theta", "decrease", "radius", "accepted"}
