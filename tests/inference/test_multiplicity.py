"""The studentized range and adjusted p-values, against R, SciPy and their definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import studentized_range

from lmm.inference.tests import multiplicity
from lmm.inference.tests.contrast_coefficients import coefficients, polynomials

RECORD = json.loads((Path(__file__).parents[1] / "reference" / "emmeans.json").read_text())


def infinite(df: list) -> list[float]:
    return [np.inf if v is None else v for v in df]


def test_tail_is_that_of_r():
    r = RECORD["tukey"]
    got = [
        multiplicity.studentized_range_tail(*point)
        for point in zip(r["q"], r["k"], infinite(r["df"]), strict=True)
    ]
    np.testing.assert_allclose(
        got, r["upper"], atol=3e-4
    )  # R's own rule is that far off at 2 degrees of freedom
    usual = np.array(infinite(r["df"])) > 10
    np.testing.assert_allclose(np.array(got)[usual], np.array(r["upper"])[usual], atol=1e-6)


@pytest.mark.parametrize(
    ("q", "k", "df"), [(3.5, 3, 10), (1.0, 5, 2.5), (12.0, 2, 2), (5.0, 10, 30), (8.0, 4, 3)]
)
def test_tail_is_scipys_to_rounding(q, k, df):
    assert multiplicity.studentized_range_tail(q, k, df) == pytest.approx(
        studentized_range.sf(q, k, df), abs=1e-12
    )


def test_far_tail_keeps_its_digits():
    # a range of two normals is |z| sqrt(2): P(R > w) = 2 Phi(-w / sqrt 2)
    for w in (2.0, 10.0, 30.0):
        assert multiplicity.studentized_range_tail(w, 2, np.inf) == pytest.approx(
            2 * ndtr(-w / np.sqrt(2)), rel=1e-10
        )
    t = multiplicity.studentized_range_tail(40.0, 2, 50.0)
    assert t == pytest.approx(multiplicity.two_sided(40 / np.sqrt(2), 50.0), rel=1e-9)


def test_quantiles():
    r = RECORD["quantiles"]
    got = [
        multiplicity.studentized_range_quantile(*point)
        for point in zip(r["level"], r["k"], infinite(r["df"]), strict=True)
    ]
    np.testing.assert_allclose(got, r["q"], rtol=1e-4)
    assert multiplicity.studentized_range_tail(
        got[7], r["k"][7], infinite(r["df"])[7]
    ) == pytest.approx(1 - r["level"][7], abs=1e-11)


def test_adjustments():
    p = np.array([0.01, 0.04, 0.03, np.nan, 0.5])
    t, df = np.full(5, np.nan), np.full(5, np.inf)

    def of(method):
        return multiplicity.adjusted(p, t, df, method, 3)

    np.testing.assert_allclose(of("bonferroni"), [0.04, 0.16, 0.12, np.nan, 1.0])
    np.testing.assert_allclose(of("holm"), [0.04, 0.09, 0.09, np.nan, 0.5])
    np.testing.assert_allclose(of("fdr"), [0.04, 0.16 / 3, 0.16 / 3, np.nan, 0.5])
    np.testing.assert_allclose(of("sidak"), 1 - (1 - p) ** 4)
    np.testing.assert_allclose(of("none"), p)


def test_critical_values_belong_to_the_p_values():
    df = np.array([5.0, 40.0, np.inf])
    for method, n, means in (
        ("tukey", 6, 4),
        ("dunnett", 3, 4),
        ("bonferroni", 3, 0),
        ("sidak", 3, 0),
    ):
        t = multiplicity.critical_values(0.9, df, method, n, means)
        for one, v in zip(t, df, strict=True):
            family = np.full(n, one)
            p = multiplicity.adjusted(
                multiplicity.two_sided(family, np.full(n, v)), family, np.full(n, v), method, means
            )
            np.testing.assert_allclose(p, 0.1, rtol=1e-8)


def test_dunnett_holds_its_level():
    # comparisons of 3 normal means with a fourth: correlations 1/2; Monte Carlo error 0.001
    z = np.random.default_rng(4).standard_normal((100_000, 4))
    largest = np.abs((z[:, 1:] - z[:, :1]) / np.sqrt(2)).max(axis=1)
    critical = multiplicity.critical_values(0.95, np.array([np.inf]), "dunnett", 3, 4)[0]
    assert np.mean(largest > critical) == pytest.approx(0.05, abs=0.004)


def test_polynomials_are_orthogonal_whole_numbers():
    M = polynomials(4)
    np.testing.assert_array_equal(M, [[-3, -1, 1, 3], [1, -1, -1, 1], [-1, 3, -3, 1]])
    for k in (2, 3, 5, 6, 9):
        M = polynomials(k)
        np.testing.assert_array_equal(M, np.round(M))
        gram = M @ M.T
        np.testing.assert_allclose(gram - np.diag(np.diag(gram)), 0, atol=1e-8 * gram.max())


@pytest.mark.parametrize(
    "kind", ["pairwise", "revpairwise", "trt.vs.ctrl", "consec", "eff", "poly"]
)
def test_contrasts_sum_to_zero(kind):
    names, M = coefficients(kind, list("abcde"))
    assert len(names) == len(M)
    np.testing.assert_allclose(M.sum(axis=1), 0, atol=1e-12)
