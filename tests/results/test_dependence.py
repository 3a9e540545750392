"""Predictions and means that a rank-deficient fit cannot make are missing, and said to be."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm


def rows() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    n = 120
    d = pd.DataFrame(
        {
            "x": rng.normal(2, 1, n),
            "f": rng.choice(list("abc"), n),
            "s": rng.choice(["u", "v"], n),
            "g": np.arange(n) % 10,
        }
    )
    d = d[~((d.f == "a") & (d.s == "u"))].reset_index(drop=True)
    eta = 0.3 * d.x + 0.5 * (d.f == "b") + 0.4 * rng.normal(size=10)[d.g]
    d["x2"] = 2.0 * d.x - 1.0
    d["y"], d["k"] = eta + rng.normal(size=len(d)), rng.poisson(np.exp(eta))
    d["b"], d["o"] = (
        rng.binomial(1, 1 / (1 + np.exp(-eta))),
        np.digitize(eta + rng.logistic(size=len(d)), [-0.5, 0.5, 1.5]),
    )
    d["t"] = np.exp(0.5 * eta) * rng.gamma(5, 0.2, len(d))
    return d


FAMILIES = [
    ("y", None),
    ("k", "poisson"),
    ("k", "negative_binomial"),
    ("b", "binomial"),
    ("o", "ordinal"),
    ("t", "gamma"),
]


def fitted(formula: str, family: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if family == "gamma":
            family = lmm.families.Gamma(link="log")
        return (
            lmm.lmer(formula, rows())
            if family is None
            else lmm.glmer(formula, rows(), family=family)
        )


@pytest.mark.parametrize(("response", "family"), FAMILIES)
def test_predictions(response: str, family: Any) -> None:
    fit = fitted(f"{response} ~ x + x2 + f * s + (1|g)", family)
    data = rows().head(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = fit.predict(data)
    np.testing.assert_allclose(same, fit.predict().iloc[:3], rtol=1e-8)
    for bad in (data.assign(x2=5.0), data.assign(x=5.0), data.assign(f="a", s="u")):
        with pytest.warns(lmm.RankWarning, match="3 of 3 rows cannot be predicted"):
            assert np.isnan(fit.predict(bad).to_numpy(dtype=float)).all()
    if family != "ordinal":
        mixed = pd.concat([data, data.assign(x2=5.0)], ignore_index=True)
        for interval in ("confidence", "prediction"):
            with pytest.warns(lmm.RankWarning, match="3 of 6 rows"):
                found = fit.predict(mixed, re_form=False, se_fit=True, interval=interval)
            assert (
                np.isfinite(found.iloc[:3]).to_numpy().all()
                and found.iloc[3:].isna().to_numpy().all()
            )


@pytest.mark.parametrize(("response", "family"), FAMILIES)
def test_marginal_means(response: str, family: Any) -> None:
    """The empty cell has no mean, nor have averages over it; the rest are those of cells that were seen."""
    fit = fitted(f"{response} ~ f * s + x + (1|g)", family)
    cells = fit.emmeans(["f", "s"])
    missing = (cells["f"] == "a") & (cells["s"] == "u")
    assert (cells["emmean"].isna() == missing).all() and "not estimable" in repr(cells)
    assert (fit.emmeans("f")["emmean"].isna() == (fit.emmeans("f")["f"] == "a")).all()
    pairs = fit.emmeans("f", by="s", contrast="pairwise")
    assert (
        pairs["estimate"].isna() == ((pairs["s"] == "u") & pairs["contrast"].str.contains("a"))
    ).all()


def test_an_ordinal_model_without_an_intercept_has_all_its_means_and_tests() -> None:
    """The thresholds take the place of the column that was dropped."""
    wine = lmm.datasets.load("wine")
    with pytest.warns(lmm.RankWarning):
        bare = lmm.glmer("rating ~ 0 + temp + contact + (1|judge)", wine, family="ordinal")
    whole = lmm.glmer("rating ~ temp + contact + (1|judge)", wine, family="ordinal")
    np.testing.assert_allclose(bare.predict(wine), whole.predict(wine), atol=1e-4)
    one, other = (fit.emmeans("temp", contrast="pairwise") for fit in (bare, whole))
    assert one["estimate"].to_numpy() == pytest.approx(other["estimate"].to_numpy(), abs=1e-4)
    for type in (2, 3):
        assert bare.anova(type=type)["chisq"].to_numpy() == pytest.approx(
            whole.anova(type=type)["chisq"].to_numpy(), rel=1e-3
        )


def test_a_covariate_with_tiny_units_stays_estimable() -> None:
    """Rounding in the dependencies does not count as one."""
    data = rows().assign(z=lambda d: np.random.default_rng(0).normal(size=len(d)) * 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lmm.lmer("y ~ x + x2 + z + (1|g)", data)
        big = lmm.lmer("y ~ x + x2 + z + (1|g)", data.assign(z=data.z * 1e24))
    for f, unit in ((fit, 1.0), (big, 1e24)):
        assert np.isfinite(f.predict(data.head(4).assign(z=data.z.head(4) * unit * 50))).all()
