"""Separation: found where the likelihood has no maximum, by name, and nowhere else."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.estimators.laplace.separation import separation
from lmm.families import Binomial, NegativeBinomial, Ordinal, Poisson


def fitted(*args: Any, **kwargs: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = lmm.glmer(*args, **kwargs)
    return fit, [str(w.message) for w in caught]


def treatments() -> pd.DataFrame:
    """Three treatments in twelve groups; under c all succeed and all counts are zero."""
    rng = np.random.default_rng(0)
    g, t = np.repeat(np.arange(12), 10), np.tile(np.repeat(list("abc"), [4, 3, 3]), 12)
    b = rng.normal(0, 0.8, 12)[g]
    counts = np.where(t == "c", 0, rng.poisson(np.exp(1 + 0.6 * b)))
    return pd.DataFrame(
        {
            "k": counts,
            "y": np.where(t == "c", 1, rng.binomial(1, 1 / (1 + np.exp(-b)))),
            "t": t,
            "g": g,
        }
    )


def cells() -> pd.DataFrame:
    """Twelve cells of two factors, two of them without a success."""
    rng = np.random.default_rng(0)
    n = 240
    g, a, b = (
        np.repeat(np.arange(12), 20),
        np.tile(list("uvwxyz"), 40),
        np.where(np.arange(n) % 12 < 6, "p", "q"),
    )
    y = rng.binomial(1, 0.3, n)
    y[(a == "u") & (b == "p") | (a == "v") & (b == "q")] = 0
    return pd.DataFrame({"y": y, "a": a, "b": b, "g": g})


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", "cauchit"])
def test_every_binomial_link(link: str) -> None:
    fit, said = fitted("y ~ t + (1|g)", treatments(), family=Binomial(link=link))
    assert fit.estimate.unbounded == {"t[T.c]": (False, True)}
    assert any(
        "t[T.c] separates the successes from the failures (all are successes where t = 'c')" in text
        for text in said
    )


@pytest.mark.parametrize("family", ["poisson", "negative_binomial", "negative_binomial1"])
def test_counts(family: str) -> None:
    fit, said = fitted("k ~ t + (1|g)", treatments(), family=family)
    assert fit.estimate.unbounded == {"t[T.c]": (True, False)}
    assert any(
        "t[T.c] separates counts of zero from the others (all counts are zero where t = 'c')"
        in text
        for text in said
    )


@pytest.mark.parametrize("nAGQ", [0, 1, 9])
@pytest.mark.parametrize("family", ["logit", "probit", "cloglog", "poisson", "ordinal"])
def test_what_the_data_bound_has_the_standard_errors_of_the_other_rows(
    family: str, nAGQ: int
) -> None:
    """In the limit the rows that are separated say nothing: the fit is that without them."""
    table = treatments()
    response = "k" if family == "poisson" else "y"
    if family == "ordinal":
        if nAGQ == 0:
            pytest.skip("ordinal families have no intercept to profile out")
        table["y"] = pd.Categorical(
            np.where(table["t"] == "c", 2, table["k"].clip(0, 2)), ordered=True
        )
    given: Any = family if family in ("poisson", "ordinal") else Binomial(link=family)
    whole, _ = fitted(f"{response} ~ t + (1|g)", table, family=given, nAGQ=nAGQ)
    others, _ = fitted(f"{response} ~ t + (1|g)", table[table["t"] != "c"], family=given, nAGQ=nAGQ)
    kept = others.bse.index
    np.testing.assert_allclose(whole.bse[kept], others.bse, rtol=2e-3)
    assert whole.bse["t[T.c]"] > 1e4 and abs(whole.fixef()["t[T.c]"] / whole.bse["t[T.c]"]) < 1e-2


@pytest.mark.parametrize("link", ["sqrt", "identity"])
def test_a_mean_of_zero_in_reach_is_no_separation(link: str) -> None:
    y = np.array([0.0, 0, 0, 1, 2, 3])
    Q = np.column_stack([np.ones(6), np.repeat([0.0, 1.0], 3)])
    assert separation(Poisson(link=link), y, np.ones(6), Q, None, 1.0) is None
    found = separation(Poisson(), y, np.ones(6), Q, None, 1.0)
    assert found is not None and found.rows.tolist() == [True] * 3 + [False] * 3


def test_a_log_link_lets_failures_run_off_and_successes_not() -> None:
    Q = np.column_stack([np.ones(6), np.repeat([0.0, 1.0], 3)])
    rows = [
        separation(Binomial(link="log"), y, np.ones(6), Q, None, 1.0)
        for y in (np.array([0.0, 0, 0, 0, 1, 1]), np.array([1.0, 1, 1, 0, 1, 1]))
    ]
    assert rows[0] is not None and rows[0].rows.tolist() == [True] * 3 + [False] * 3
    assert rows[1] is None


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog"])
@pytest.mark.parametrize("thresholds", ["flexible", "equidistant"])
def test_ordinal(link: str, thresholds: str) -> None:
    """A level that is always in the upper categories; one row on the wrong side of the cut and there is a maximum."""
    rng = np.random.default_rng(8)
    g = np.repeat(np.arange(20), 20)
    y = np.digitize(
        rng.normal(size=400) + rng.normal(size=20)[g] + rng.logistic(size=400), [-3, -1, 1, 3]
    )
    data = pd.DataFrame({"y": y, "t": np.where(y >= 4, "b", "a"), "g": g})
    family = Ordinal(link=link, thresholds=thresholds)
    fit, said = fitted("y ~ t + (1|g)", data, family=family)
    assert fit.estimate.unbounded["t[T.b]"] == (False, True) and any(
        "t[T.b] separates the categories" in text for text in said
    )
    data.loc[np.flatnonzero(y == 2)[:2], "t"] = "b"
    data.loc[np.flatnonzero(y == 4)[:9], "t"] = "a"
    fit, said = fitted("y ~ t + (1|g)", data, family=family)
    assert fit.estimate.unbounded == {} and not any("separates" in text for text in said)


def test_the_empty_cells_are_named() -> None:
    """The reference cell is one of two without a success: every coefficient runs off, and the cells say why."""
    fit, said = fitted("y ~ a*b + (1|g)", cells(), family="binomial")
    assert len(fit.estimate.unbounded) == 12
    assert any(
        "all are failures where a = 'u' and b = 'p' or a = 'v' and b = 'q'" in text for text in said
    )


def sites() -> pd.DataFrame:
    """Ten raw calendar years at 25 sites."""
    rng = np.random.default_rng(11)
    site, year = np.repeat(np.arange(25), 20), np.tile(np.repeat(np.arange(2003, 2013), 2), 25)
    b, x = rng.normal(0, 1, (25, 2)), year - 2008
    k = rng.binomial(
        20, 1 / (1 + np.exp(-(0.3 + 0.05 * x + 0.7 * b[site, 0] + 0.12 * b[site, 1] * x)))
    )
    return pd.DataFrame({"k": k, "y": (k > 10).astype(int), "year": year, "site": site})


@pytest.mark.parametrize("unit", [1e-6, 1e-2, 1.0, 1e4])
def test_neither_units_nor_cancelling_coefficients_are_separation(unit: float) -> None:
    data = sites().assign(x=lambda d: (d.year - 2008) * unit, z=lambda d: d.year * unit)
    for formula in ("cbind(k, 20 - k) ~ x + (x|site)", "y ~ z + I(z^2) + (1|site)"):
        fit, said = fitted(formula, data, family="binomial")
        assert fit.estimate.unbounded == {} and not any("without bound" in text for text in said)


@pytest.mark.parametrize("link", ["logit", "cauchit"])
def test_a_heavy_tail_is_no_separation(link: str) -> None:
    rng = np.random.default_rng(3)
    x = 3 * rng.standard_t(1.5, 400)
    data = pd.DataFrame(
        {"y": rng.binomial(1, 1 / (1 + np.exp(-x))), "x": x, "g": np.repeat(np.arange(40), 10)}
    )
    fit, said = fitted("y ~ x + (1|g)", data, family=Binomial(link=link))
    assert (
        np.ptp(x) * fit.fixef()["x"] > 50
        and fit.estimate.unbounded == {}
        and not any("without bound" in text for text in said)
    )


def test_a_large_variance_has_a_limit_where_one_level_is_mixed() -> None:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(40), 10)
    data = pd.DataFrame(
        {
            "y": rng.binomial(1, 1 / (1 + np.exp(-rng.normal(0, 20, 40)[g]))),
            "same": rng.normal(size=40)[g] > 0,
            "g": g,
        }
    )
    fit, said = fitted("y ~ 1 + (1|g)", data, family="binomial", nAGQ=25)
    assert fit.theta.iloc[0] > 16 and not any("without bound" in text for text in said)
    for link in ("logit", "probit", "cloglog"):
        _, said = fitted("same ~ 1 + (1|g)", data, family=Binomial(link=link))
        assert any("The variance of g grows without bound" in text for text in said)


def test_the_screen_finds_what_the_whole_programme_finds() -> None:
    """Small random data, most of them separated: the rows near their limits at the fit are enough."""
    found = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        n = 24
        d = pd.DataFrame(
            {"a": rng.choice(list("uvw"), n), "x": rng.integers(0, 3, n), "g": np.arange(n) % 6}
        )
        d["y"] = (
            rng.binomial(1, 1 / (1 + np.exp(-2.0 * d.x + 2)))
            if seed % 2
            else rng.poisson(np.exp(0.8 * d.x - 1.8))
        )
        if d.y.nunique() < 2:
            continue
        family: Any = Binomial() if seed % 2 else Poisson()
        fit, _ = fitted("y ~ a * x + (1|g)", d, family=family)
        rows = fit.problem.rows
        whole = separation(family, rows.y, rows.weights, rows.Q, None, 1.0)
        assert (whole is not None) == bool(fit.estimate.unbounded)
        if whole is not None:
            screened = separation(family, rows.y, rows.weights, rows.Q, fit.estimate.eta, 1.0)
            assert screened is not None and np.array_equal(screened.rows, whole.rows)
            direction = rows.Q @ whole.ray
            assert (
                np.abs(direction[~whole.rows]).max() < 1e-7
                and np.abs(direction[whole.rows]).min() > 1e-7
            )
        found.append(whole is not None)
    assert 5 < sum(found) < len(found) - 5


def test_many_rows_are_taken_a_few_at_a_time() -> None:
    """More candidates than one programme takes, separated by a narrow gap or not at all."""
    rng = np.random.default_rng(1)
    x = np.sort(rng.normal(size=20_000))
    Q = np.column_stack([np.ones(len(x)), x])
    y = (np.arange(len(x)) >= 15_000).astype(float)
    found = separation(Binomial(), y, np.ones(len(x)), Q, None, 1.0)
    assert found is not None and found.rows.all()
    y[14_998] = 1.0
    assert separation(Binomial(), y, np.ones(len(x)), Q, None, 1.0) is None


def test_the_poisson_limit_does_not_depend_on_the_mean() -> None:
    """Counts of a million with a size of a million have twice the variance of Poisson counts."""
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(10), 30)
    mu = 1e6 * np.exp(0.1 * rng.normal(size=10)[g])
    data = pd.DataFrame({"k": rng.poisson(mu * rng.gamma(1e6, 1e-6, 300)), "g": g})
    fit, said = fitted("k ~ 1 + (1|g)", data, family=NegativeBinomial())
    assert 2e5 < fit.estimate.phi < 5e6 and not any("Poisson counts" in text for text in said)


CONTEXTS = [
    ("y", "binomial"),
    ("y", Binomial(link="probit")),
    ("k", "poisson"),
    ("k", "negative_binomial"),
]


@pytest.mark.parametrize(("response", "family"), CONTEXTS)
def test_after_separation_profiles_end_and_tests_say_so(response: str, family: Any) -> None:
    """The other parameters have the limits of the fit without the separated rows; the one without a maximum goes to infinity."""
    data = treatments()
    fit, _ = fitted(f"{response} ~ t + (1|g)", data, family=family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.LmmWarning)
        warnings.simplefilter("error", RuntimeWarning)
        limits = fit.confint()
        fit.summary()
        assert len(fit.check(nsim=50, rng=1).table)
    without = fitted(f"{response} ~ t + (1|g)", data[data.t != "c"], family=family)[0].confint()
    assert limits.drop("t[T.c]").to_numpy() == pytest.approx(without.to_numpy(), rel=2e-3, abs=2e-3)
    lower, upper = limits.loc["t[T.c]"]
    assert (
        (np.isfinite(lower) and upper == np.inf)
        if response == "y"
        else (lower == -np.inf and np.isfinite(upper))
    )
    for call in (fit.anova, lambda: fit.contrast("t[T.c]")):
        with pytest.warns(lmm.errors.ComparisonWarning, match="do not bound"):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error", lmm.errors.ComparisonWarning)
        fit.contrast("t[T.b] = 0")


def test_wald_tests_of_terms_keep_their_degrees_of_freedom() -> None:
    """Two of twelve cells without a success: five degrees of freedom all the same, and the covariance does not count them."""
    fit, _ = fitted("y ~ a*b + (1|g)", cells(), family="binomial")
    for type in (1, 2, 3):
        with pytest.warns(lmm.errors.ComparisonWarning, match="drop1"):
            assert fit.anova(type=type)["df"].tolist() == [5, 1, 5]
    assert fit.estimate.unbounded["Intercept"] == (True, False) and fit.estimate.unbounded[
        "b[T.q]"
    ] == (False, True)
