"""Probabilities of intervals: values against integrals, derivatives against differences, where differences of F would fail."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from scipy.integrate import quad

from lmm.families.ordered.cumulative import DISTRIBUTIONS, Distribution, Normal

WIDTHS = (1e-9, 1e-5, 1e-3, 0.05, 0.3, 1.0, 3.0, 9.0, 40.0)
#: the nearer ends of the intervals; the extreme value distribution's upper tail is doubly exponential
PLACES = {
    "logit": (0.0, 0.3, 5.0, 30.0),
    "probit": (0.0, 0.3, 4.9, 5.1, 25.0, 80.0),
    "cloglog": (0.0, 0.3, 2.0),
}
links = pytest.mark.parametrize("link", DISTRIBUTIONS)


def intervals(link: str, narrowest: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends a, b and widths: on either side of zero, around it, and with one end alone."""
    places = np.array([sign * m for m in PLACES[link] for sign in (1, -1)])
    out = []
    for g in (g for g in WIDTHS if g > narrowest):
        out += [(m + g, m, g) for m in places if link != "cloglog" or m + g < 5] + [
            (m, m - g, g) for m in places
        ]
        out.append((g / 3, -2 * g / 3, g))
    out += [(m, -np.inf, np.inf) for m in places] + [(np.inf, m, np.inf) for m in places]
    a, b, g = np.array(out, dtype=float).T
    return a, b, g


def differences(f, a: np.ndarray, b: np.ndarray, h: float = 1e-4) -> np.ndarray:
    """Central differences of fourth order in eta, which lowers both ends."""
    return (
        8 * (f(a - h, b - h) - f(a + h, b + h))
        - (f(a - 2 * h, b - 2 * h) - f(a + 2 * h, b + 2 * h))
    ) / (12 * h)


def close(mine: np.ndarray, other: np.ndarray, tolerance: float) -> None:
    np.testing.assert_array_less(np.abs(mine - other), tolerance * (1.0 + np.abs(other)))


@links
def test_derivatives_in_eta(link: str) -> None:
    d = DISTRIBUTIONS[link]
    a, b, g = intervals(link)
    d1, d2, d3 = d.derivatives(a, b, g)
    close(d1, differences(lambda x, y: d.log_probability(x, y, g), a, b), 1e-8)
    close(d2, differences(lambda x, y: d.derivatives(x, y, g)[0], a, b), 1e-8)
    close(d3, differences(lambda x, y: d.derivatives(x, y, g)[1], a, b), 1e-8)
    assert (d2 <= 0).all()


@links
def test_derivatives_in_the_ends(link: str) -> None:
    d = DISTRIBUTIONS[link]
    a, b, g = intervals(link, narrowest=1e-4)
    e = d.ends(a, b, g)
    close(e.eta_a, differences(lambda x, y: d.ends(x, y, g).a, a, b), 1e-6)
    close(e.eta_b, differences(lambda x, y: d.ends(x, y, g).b, a, b), 1e-6)
    close(e.eta_eta_a, differences(lambda x, y: d.ends(x, y, g).eta_a, a, b), 1e-6)
    close(e.eta_eta_b, differences(lambda x, y: d.ends(x, y, g).eta_b, a, b), 1e-6)
    inner = np.isfinite(g)
    a, b, g = a[inner], b[inner], g[inner]
    e = d.ends(a, b, g)
    h = 1e-3 * np.minimum(g, 1.0)

    def along(f) -> np.ndarray:
        """Differences in the upper end alone."""
        return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)

    close(e.a, along(lambda s: d.log_probability(a + s, b, g + s)), 1e-6)
    close(e.ab, along(lambda s: d.ends(a + s, b, g + s).b), 1e-6)
    close(-e.eta_a - e.ab, along(lambda s: d.ends(a + s, b, g + s).a), 1e-6)


@links
def test_a_move_of_both_ends_is_a_move_of_eta(link: str) -> None:
    d = DISTRIBUTIONS[link]
    a, b, g = intervals(link)
    e, (d1, d2, d3) = d.ends(a, b, g), d.derivatives(a, b, g)
    for upper, lower, both in (
        (e.a, e.b, d1),
        (e.eta_a, e.eta_b, d2),
        (e.eta_eta_a, e.eta_eta_b, d3),
    ):
        np.testing.assert_array_less(np.abs(upper + lower + both), 1e-12 * (1.0 + np.abs(upper)))


@links
def test_wide_intervals_are_differences_of_distribution_functions(link: str) -> None:
    d = DISTRIBUTIONS[link]
    a, b = np.array([0.3, 1.5, 4.0, -1.0]), np.array([-1.0, 0.5, -4.0, -3.0])
    np.testing.assert_allclose(
        d.log_probability(a, b, a - b), np.log(d.link.inverse(a) - d.link.inverse(b)), rtol=1e-12
    )


def test_normal_probabilities_in_the_tail_are_integrals() -> None:
    for m in (0.0, 0.3, 4.9, 5.1, 30.0, 80.0):
        for g in WIDTHS:
            integral = quad(
                lambda s, m=m: np.exp(-m * s - 0.5 * s * s),
                0.0,
                min(g, 50.0 / max(m, 1.0)),
                epsabs=0.0,
                epsrel=1e-13,
                limit=400,
            )[0]
            exact = np.log(integral) - 0.5 * m * m - 0.5 * np.log(2 * np.pi)
            for a, b in ((m + g, m), (-m, -m - g)):
                assert Normal().log_probability(np.array([a]), np.array([b]), np.array([g]))[
                    0
                ] == pytest.approx(exact, abs=2e-13, rel=1e-13)


def test_normal_moments_do_not_jump_between_their_forms() -> None:
    """Where one form hands over to the next: at a relative width of one, and at five from zero."""
    d = Normal()
    for m, g in ((0.0, 1.0), (2.0, 1 / 3), (4.9, 1 / 5.9), (5.0, 1.0), (5.0, 40.0)):
        sides = []
        for eps in (-1e-9, 1e-9):
            b, width = np.array([m + eps]), np.array([g * (1 + eps)])
            sides.append(
                np.array([*d.derivatives(b + width, b, width), *d.ends(b + width, b, width)])
            )
        np.testing.assert_allclose(*sides, rtol=1e-7, atol=1e-7)


@links
def test_nothing_is_lost_far_out(link: str) -> None:
    """Far out, where both F underflow or are one, log P is that of the nearer end, corrected for the width."""
    d: Distribution = DISTRIBUTIONS[link]
    x = {"logit": 800.0, "probit": 1e4, "cloglog": 150.0}[link]
    one, g = np.array([-x]), np.array([2.0])
    upper = {"logit": -x, "probit": special.log_ndtr(-x), "cloglog": -x}[link]
    shrunk = {"logit": np.log1p(-np.exp(-2.0)), "probit": 0.0, "cloglog": np.log1p(-np.exp(-2.0))}[
        link
    ]
    assert d.log_probability(one, one - g, g)[0] == pytest.approx(upper + shrunk, rel=1e-12)
    for values in (
        d.derivatives(one, one - g, g),
        d.ends(one, one - g, g),
        d.derivatives(-one, -one - g, g),
    ):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("link", ["logit", "probit"])
def test_symmetric_distributions_may_be_turned_round(link: str) -> None:
    d = DISTRIBUTIONS[link]
    a, b, g = intervals(link)
    np.testing.assert_allclose(
        d.log_probability(-b, -a, g), d.log_probability(a, b, g), rtol=1e-12, atol=1e-13
    )
    for sign, mine, turned in zip(
        (-1, 1, -1), d.derivatives(a, b, g), d.derivatives(-b, -a, g), strict=True
    ):
        np.testing.assert_allclose(sign * turned, mine, rtol=1e-9, atol=1e-9)
