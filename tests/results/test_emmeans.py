"""Estimated marginal means, contrasts and trends: against R's emmeans, and against averages of predictions."""

from __future__ import annotations

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm
from tests.results.fits import fit as shipped
from tests.results.fits import frame
from tests.results.posterior_fits import KnownPosterior

REFERENCE = Path(__file__).parents[1] / "reference"
RECORD = json.loads((REFERENCE / "emmeans.json").read_text())["cases"]

#: lme4's approximation, which differs where the link is not canonical
LME4 = {"control": lmm.Control(curvature="expected")}
#: the models of make_emmeans.R: formula, data, arguments
MODELS = {
    "cake": ("angle ~ recipe * temperature + (1 | recipe:replicate)", "cake", {}),
    "cake_numeric": ("angle ~ recipe * temp + (1 | recipe:replicate)", "cake", {}),
    "oats": ("yield ~ Variety + factor(nitro) + (1 | Block/Variety)", "Oats", {}),
    "machines": ("score ~ Machine + (Machine | Worker)", "Machines", {}),
    "unbalanced": ("y ~ a * b + x + (1 | g)", "unbalanced", {}),
    "weighted": ("y ~ a * b + x + (1 | g)", "unbalanced", {"weights": "w"}),
    "curved": ("y ~ a + poly(x, 2) + log(e) + (1 | g)", "unbalanced", {}),
    "two_values": ("y ~ a * z + (1 | g)", "unbalanced", {}),
    "hole": ("y ~ a * b + (1 | g)", "unbalanced", {"subset": "(a != 'r') | (b != 'v')"}),
    "cbpp": (
        "cbind(incidence, size - incidence) ~ period + (1 | herd)",
        "cbpp",
        {"family": "binomial"},
    ),
    "probit": (
        "cbind(s, k - s) ~ a * b + x + (1 | g)",
        "unbalanced",
        {"family": lmm.families.Binomial("probit"), **LME4},
    ),
    "counts": ("count ~ a * b + x + offset(log(e)) + (1 | g)", "unbalanced", {"family": "poisson"}),
    "counts_argument": (
        "count ~ a * b + x + (1 | g)",
        "unbalanced",
        {"family": "poisson", "offset": "log(e)"},
    ),
}
ESTIMATES = {
    "emmean",
    "estimate",
    "odds.ratio",
    "ratio",
    "prob",
    "rate",
    "response",
    "temp.trend",
    "x.trend",
}
#: emmeans' columns by ours
COLUMNS = {
    "std_error": ("SE",), "df": ("df",), "lower": ("lower.CL", "asymp.LCL"), "upper": ("upper.CL", "asymp.UCL"),
    "statistic": ("t.ratio", "z.ratio"), "p_value": ("p.value",),
}  # fmt: skip


@cache
def data(name: str) -> pd.DataFrame:
    """A shipped table, or the simulated one of make_emmeans.R."""
    return pd.read_csv(REFERENCE / "unbalanced.csv") if name == "unbalanced" else frame(name)


@cache
def fit(name: str) -> lmm.Fit:
    """Our own fit of a model."""
    formula, table, arguments = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lmm.RankWarning)
        return (lmm.glmer if "family" in arguments else lmm.lmer)(formula, data(table), **arguments)


def numbers(values: list) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in np.atleast_1d(values)], dtype=float)


@pytest.mark.parametrize("name", RECORD)
def test_against_emmeans(name):
    case = {key: value for key, value in RECORD[name]["case"].items() if value not in (None, {})}
    one = fit(case["model"])
    ddf = {"asymptotic": None}.get(case.get("ddf"), case.get("ddf", "auto"))
    ask = {key: case[key] for key in ("by", "at", "contrast", "adjust", "weights") if key in case}
    if "trend" in case:
        mine = one.emtrends(case["trend"], case["specs"], ddf=ddf, **ask)
    else:
        mine = one.emmeans(case["specs"], ddf=ddf, type=case.get("type", "link"), **ask)
    theirs = RECORD[name]["rows"]
    # standard errors of generalized models come from lme4's finite differences; ptukey is good to 1e-4 at 10 degrees of freedom
    rtol = 2e-4 if one.family is not None else 2e-5
    value = numbers(theirs[next(iter(ESTIMATES & set(theirs)))])
    own = next(
        c
        for c in ("emmean", "response", "estimate", "ratio", "odds_ratio", "temp_trend", "x_trend")
        if c in mine
    )
    np.testing.assert_allclose(mine[own], value, rtol=rtol, atol=1e-6)
    for column, names in COLUMNS.items():
        for their in names:
            if their in theirs and column in mine:
                want, got = numbers(theirs[their]), mine[column].to_numpy(dtype=float)
                got = np.where(np.isinf(got), np.nan, got) if column == "df" else got
                tukey = (
                    5e-4
                    if column in ("p_value", "lower", "upper") and mine.attrs["adjust"] == "tukey"
                    else 0.0
                )
                np.testing.assert_allclose(
                    got, want, rtol=max(rtol, tukey), atol=1e-6, err_msg=column
                )


def test_mean_is_the_average_of_predictions():
    one = fit("unbalanced")
    grid = (
        pd.MultiIndex.from_product([["p", "q", "r"], ["u", "v"]], names=["a", "b"])
        .to_frame(index=False)
        .assign(x=data("unbalanced").x.mean())
    )
    want = one.predict(grid, re_form=False).groupby(grid["a"]).mean()
    means = one.emmeans("a")
    np.testing.assert_allclose(means["emmean"], want, rtol=1e-12)
    assert means["a"].tolist() == ["p", "q", "r"]
    np.testing.assert_allclose(one.emmeans()["emmean"], want.mean())


def test_contrast_is_the_difference_of_the_means():
    one = fit("cbpp")
    means = one.emmeans("period")["emmean"].to_numpy()
    pairs = one.emmeans("period", contrast="pairwise")
    assert pairs["contrast"].tolist()[:2] == ["1 - 2", "1 - 3"]
    np.testing.assert_allclose(pairs["estimate"].iloc[0], means[0] - means[1])
    odds = one.emmeans("period", contrast="pairwise", type="response")
    np.testing.assert_allclose(np.log(odds["odds_ratio"]), pairs["estimate"])
    np.testing.assert_allclose(odds["p_value"], pairs["p_value"])
    np.testing.assert_allclose(np.log(odds["upper"]), pairs["upper"])


def test_specs_in_words_are_those_in_lists():
    one = fit("cake")
    pd.testing.assert_frame_equal(
        one.emmeans("recipe | temperature"), one.emmeans(["recipe"], by=["temperature"])
    )
    pd.testing.assert_frame_equal(
        one.emmeans("pairwise ~ recipe | temperature"),
        one.emmeans("recipe", by="temperature", contrast="pairwise"),
    )
    pd.testing.assert_frame_equal(
        one.emmeans("recipe * temperature"), one.emmeans(["recipe", "temperature"])
    )


def test_nothing_estimable():
    d = data("unbalanced").assign(number=lambda f: f.a.map({"p": 0.0, "q": 1.0, "r": 2.0}))
    with pytest.warns(lmm.RankWarning):
        one = lmm.lmer("y ~ a + number + (1|g)", d)
    assert one.emmeans("a")["emmean"].isna().all()
    pairs = one.emmeans("a", contrast="pairwise")
    assert pairs["estimate"].isna().all() and pairs["p_value"].isna().all()
    assert "estimable" in repr(pairs)


def test_a_copy_of_a_factor_is_taken_at_its_own_level():
    d = data("unbalanced").assign(copy=lambda f: f.a)
    with pytest.warns(lmm.RankWarning):
        one = lmm.lmer("y ~ a + copy + (1|g)", d)
    right = lmm.lmer("y ~ a + (1|g)", d).emmeans("a")
    np.testing.assert_allclose(one.emmeans("a")["emmean"], right["emmean"], rtol=1e-6)


def test_own_coefficients():
    one = fit("oats")
    mine = one.emmeans("nitro", contrast={"half": [-1, -1, 1, 1]})
    means = one.emmeans("nitro")["emmean"].to_numpy()
    np.testing.assert_allclose(mine["estimate"], means @ [-1, -1, 1, 1])
    with pytest.raises(lmm.ArgumentError, match="4 finite"):
        one.emmeans("nitro", contrast={"half": [-1, 1]})


def test_coding_does_not_matter():
    sums = fit("unbalanced").update(contrasts={"a": "sum", "b": "helmert"})
    for ask in ({"specs": "a"}, {"specs": "a | b", "contrast": "pairwise"}):
        for column in ("std_error", "df"):
            np.testing.assert_allclose(
                sums.emmeans(**ask)[column], fit("unbalanced").emmeans(**ask)[column], rtol=1e-5
            )


def test_offset_is_at_its_mean_unless_given():
    one = fit("counts")
    d = data("unbalanced")
    at_e = one.emmeans("a", at={"e": [2.0]})["emmean"]
    np.testing.assert_allclose(
        at_e - one.emmeans("a")["emmean"], np.log(2.0) - np.log(d.e).mean(), rtol=1e-10
    )


def test_method_of_the_degrees_of_freedom():
    assert fit("cake").emmeans("recipe").attrs["ddf"] == "kenward_roger"
    assert fit("cake").update(REML=False).emmeans("recipe").attrs["ddf"] == "satterthwaite"
    assert fit("cbpp").emmeans("period").attrs["ddf"] is None
    assert "Kenward-Roger" in repr(fit("cake").emmeans("recipe"))
    assert (
        "estimable" in repr(fit("hole").emmeans("a"))
        and "tukey" in fit("oats").emmeans("nitro", contrast="pairwise")._repr_html_()
    )


def test_averages_over_an_interaction_say_so():
    assert "interaction" in repr(fit("unbalanced").emmeans("a"))
    assert "interaction" not in repr(fit("unbalanced").emmeans("a | b")) + repr(
        fit("curved").emmeans("a")
    ) + repr(fit("oats").emmeans("nitro"))


def test_slope_where_it_is_asked_for():
    one = fit("curved")
    mine = one.emtrends("x", "x", at={"x": [0.0, 3.0]}, ddf=None)
    d = pd.DataFrame({"a": "p", "x": [-1e-4, 1e-4, 3 - 1e-4, 3 + 1e-4], "e": 1.0})
    eta = one.predict(d, re_form=False).to_numpy()
    np.testing.assert_allclose(mine["x_trend"], (eta[1::2] - eta[::2]) / 2e-4, rtol=1e-6)


def test_booleans_texts_numbers_and_awkward_names():
    d = data("unbalanced").assign(
        **{
            "my b": lambda f: f.b.astype(object),
            "flag": lambda f: f.z.astype(bool),
            "dose": lambda f: f.k % 3,
        }
    )
    one = lmm.lmer("y ~ `my b` + flag + C(dose) + (1|g)", d)
    assert one.emmeans("my b")["my b"].tolist() == ["u", "v"]
    assert one.emmeans("flag")["flag"].tolist() == [False, True]
    assert one.emmeans(["dose"])["dose"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(
        one.emmeans("flag", contrast="consec", ddf=None)["estimate"],
        one.fixef().filter(like="flag").iloc[0],
    )
    at = one.emmeans("dose", at={"dose": [2, 0]})
    assert at["dose"].tolist() == [2, 0]


def test_missing_rows_and_tables_of_other_kinds():
    pl = pytest.importorskip("polars")
    d = data("unbalanced").copy()
    d.loc[[3, 8], "x"] = np.nan
    one = lmm.lmer("y ~ a * b + x + (1|g)", d, subset="k > 1")
    other = lmm.lmer("y ~ a * b + x + (1|g)", pl.from_dict(d[d.k > 1].to_dict("list")))
    np.testing.assert_allclose(one.emmeans("a")["emmean"], other.emmeans("a")["emmean"], rtol=1e-6)


def test_posterior():
    one = shipped("sleep_ml").update(method=KnownPosterior(shipped("sleep_ml"), length=500))
    mine = one.emmeans("Days", at={"Days": [0, 9]})
    draws = one.estimate.draws.beta.reshape(-1, 2) @ np.array([1.0, 9.0])
    np.testing.assert_allclose(mine["lower"].iloc[1], np.quantile(draws, 0.025))
    assert "df" not in mine and "p_value" not in one.emmeans(
        "Days", at={"Days": [0, 9]}, contrast="consec"
    )


def test_errors_name_what_there_is():
    one = fit("unbalanced")
    wrong = {
        "Did you mean 'a'": {"specs": "aa"},
        "'equal'": {"specs": "a", "weights": "even"},
        "p, q, r": {"specs": "a", "at": {"a": "w"}},
        "at= names 'u'": {"specs": "a", "at": {"u": 1}},
        "pairwise": {"specs": "a", "contrast": "pairwize"},
        "all pairs": {"specs": "a", "contrast": "eff", "adjust": "tukey"},
        "adjust=": {"specs": "a", "contrast": "eff", "adjust": "tuckey"},
        "'link'": {"specs": "a", "type": "prob"},
    }
    for text, arguments in wrong.items():
        with pytest.raises(lmm.ArgumentError, match=text):
            one.emmeans(**arguments)
    with pytest.raises(lmm.ArgumentError, match="no covariate"):
        one.emtrends("a")


@pytest.mark.parametrize("empty", [1, 2, 3])
def test_tukeys_family_are_the_means_that_can_be_estimated(empty: int) -> None:
    """Pairs of five levels, some of them without observations in an interaction: as if there were only the others."""
    rng = np.random.default_rng(7)
    n = 300
    d = pd.DataFrame(
        {"f": rng.choice(list("abcde"), n), "s": rng.choice(["u", "v"], n), "g": np.arange(n) % 15}
    )
    d["y"] = 0.3 * (d.f == "b") + rng.normal(size=15)[d.g] * 0.5 + rng.normal(size=n)
    d = d[~((d.s == "v") & d.f.isin(list("cde")[:empty]))]
    with pytest.warns(lmm.RankWarning):
        fit = lmm.lmer("y ~ f * s + (1|g)", d)
    pairs = fit.emmeans("f", contrast="pairwise", ddf=None)
    seen = pairs[pairs["estimate"].notna()]
    means = 5 - empty
    assert len(seen) == means * (means - 1) // 2
    from scipy.stats import studentized_range

    right = studentized_range.sf(np.sqrt(2.0) * seen["statistic"].abs(), means, np.inf)
    assert seen["p_value"].to_numpy() == pytest.approx(right, abs=1e-6)
