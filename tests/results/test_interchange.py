"""A fit in marginaleffects and in maketables, the real packages; numbers against R by the delta method."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

import lmm
from lmm.results.files import marginal_effects
from tests.results.fits import fit as shipped
from tests.results.fits import frame

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference"
RECORD = json.loads((REFERENCE / "marginal_effects.json").read_text())

#: the models of make_marginal_effects.R
MODELS = {
    "lmm": ("y ~ a * x + b + (1 | g)", {}),
    "transformed": ("y ~ a + poly(x, 2) + log(e) + (1 | g)", {}),
    "weighted": ("y ~ a * b + x + (1 | g)", {"weights": "w"}),
    "binomial": ("cbind(s, k - s) ~ a * b + x + (1 | g)", {"family": "binomial"}),
    "probit": (
        "cbind(s, k - s) ~ a + x + z + (1 | g)",
        {
            "family": lmm.families.Binomial("probit"),
            "control": lmm.Control(curvature="expected"),
        },  # lme4's approximation
    ),
    "poisson": ("count ~ a + x + offset(log(e)) + (1 | g)", {"family": "poisson"}),
    "ordinal": ("rating ~ a + x + (1 | g)", {"family": lmm.families.Ordinal()}),
}


@cache
def data() -> pd.DataFrame:
    table = pd.read_csv(REFERENCE / "unbalanced.csv")
    return table.assign(rating=pd.cut(table.y, [-np.inf, 1, 2.2, 3.4, np.inf], labels=list("1234")))


@cache
def fit(name: str) -> lmm.Fit:
    formula, arguments = MODELS[name]
    return (lmm.glmer if "family" in arguments else lmm.lmer)(formula, data(), **arguments)


def compares_levels() -> None:
    """marginaleffects 0.6.0 asks categorical columns for a method that polars 2 has no longer."""
    polars = pytest.importorskip("polars")
    if int(polars.__version__.split(".")[0]) >= 2:
        pytest.skip(
            "marginaleffects 0.6.0 needs polars before 2 for new data and comparisons of factors"
        )


def close(result, want: dict, se: float = 1e-4) -> None:
    """Estimates and standard errors within 1e-4, as shares of the standard error and of themselves."""
    estimate, error = np.array(result["estimate"]), np.array(result["std_error"])
    want_se = np.atleast_1d(want["std_error"])
    np.testing.assert_allclose((estimate - np.atleast_1d(want["estimate"])) / want_se, 0, atol=1e-4)
    np.testing.assert_allclose(error, want_se, rtol=se)


@pytest.fixture
def me(request):
    """marginaleffects, with its own derivatives by JAX (compiled per shape) in two of the models, by differences in the rest."""
    package = pytest.importorskip("marginaleffects")
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    package.autodiff(None if name in ("lmm", "binomial") else False)
    yield package
    package.autodiff(None)


@pytest.mark.parametrize("values", [[1, 2, 3], ["1", "2", "3"], [1.0, 2.0, 3.0]])
def test_categories_of_new_data_are_matched_by_their_text(me, values):
    compares_levels()
    polars = pytest.importorskip("polars")
    rng = np.random.default_rng(0)
    k = rng.integers(1, 4, 90)
    for labels in (pd.Categorical(k), k.astype(str)):
        rows = pd.DataFrame(
            {"y": k**2 + rng.normal(size=90), "k": labels, "g": rng.integers(0, 9, 90)}
        )
        model = lmm.lmer("y ~ k + (1|g)", rows, control=lmm.Control(max_evaluations=3))
        right = model.predict({"k": ["1", "2", "3"]}, re_form=False)
        np.testing.assert_allclose(
            me.predictions(model.marginaleffects(), newdata=polars.DataFrame({"k": values}))[
                "estimate"
            ],
            right,
        )
    with pytest.raises(lmm.errors.PredictionError, match="never saw: '0', '4'"):
        me.predictions(model.marginaleffects(), newdata=polars.DataFrame({"k": [0, 4]}))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "ordinal"])
def test_predictions_and_slopes(me, name):
    compares_levels()
    model, want = fit(name).marginaleffects(), RECORD[name]
    close(me.predictions(model, newdata=data().head(5)), want["predictions"])
    close(
        me.predictions(fit(name).marginaleffects(type="link"), newdata=data().head(5)), want["link"]
    )
    close(me.avg_predictions(model), want["avg_predictions"])
    close(me.avg_predictions(model, by="a"), want["avg_predictions_by"])
    close(
        me.comparisons(model, variables={"x": 1}, newdata=data().head(5)),
        want["comparisons_number"],
    )
    close(me.avg_comparisons(model, variables={"x": 1}), want["avg_comparisons_number"])
    # the package differentiates slopes by differences of differences: its own step leaves three digits of a standard error
    close(me.avg_slopes(model, variables="x", eps_vcov=2e-5), want["avg_slopes"], se=2e-4)
    close(me.slopes(model, variables="x", by="a", eps_vcov=2e-5), want["avg_slopes_by"], se=2e-4)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "ordinal"])
def test_comparisons_of_levels(me, name):
    compares_levels()
    model, want = fit(name).marginaleffects(), RECORD[name]
    close(me.avg_comparisons(model, variables="a"), want["avg_comparisons_factor"])
    close(
        me.avg_comparisons(model, variables="a", comparison="ratio"), want["avg_comparisons_ratio"]
    )


def test_categories_of_an_ordinal_fit(me):
    model = fit("ordinal").marginaleffects()
    mine = me.avg_predictions(model).sort("group")
    close(mine, RECORD["ordinal"]["avg_predictions"], se=1e-3)  # clmm's Hessian is by differences
    assert sorted(set(mine["group"])) == list("1234") and sum(mine["estimate"]) == pytest.approx(1)
    assert me.avg_slopes(fit("ordinal").marginaleffects(type="link"), variables="x")["estimate"][
        0
    ] == pytest.approx(fit("ordinal").fixef()["x"])


def test_hypotheses_and_covariances(me):
    one = shipped("sleep")
    model = one.marginaleffects()
    mine = me.hypotheses(model, hypothesis="Days = 10")
    assert mine["estimate"][0] == pytest.approx(one.fixef()["Days"] - 10)
    assert mine["std_error"][0] == pytest.approx(one.bse["Days"], rel=1e-5)
    assert mine["p_value"][0] == pytest.approx(
        2 * ndtr(-abs(one.fixef()["Days"] - 10) / one.bse["Days"])
    )
    machines = shipped("machines")
    adjusted = me.avg_predictions(machines.marginaleffects(), by="Machine", vcov="kenward_roger")[
        "std_error"
    ]
    np.testing.assert_allclose(adjusted, machines.emmeans("Machine")["std_error"], rtol=1e-5)
    assert "std_error" not in me.avg_predictions(model, vcov=False).columns


def test_rows_types_and_names(me):
    d = data().assign(
        **{
            "my x": data().x,
            "text": data().b.astype(object),
            "flag": data().z.astype(bool),
            "dose": data().k % 3,
            "group": "u",
        }
    )
    d.loc[[2, 7], "y"] = np.nan
    one = lmm.lmer(
        "log(y + 9) ~ `my x` + text + flag + C(dose) + scale(e) + (1|g)", d, subset="k > 1"
    )
    model = one.marginaleffects()
    assert me.predictions(model).height == one.nobs == model.get_modeldata().height
    np.testing.assert_allclose(me.predictions(model)["estimate"], one.predict(re_form=False))
    grid = me.datagrid(model=model, dose=[0, 2], flag=[True, False])
    want = one.predict(
        pd.DataFrame(grid.to_dict(as_series=False)).astype({"text": object}), re_form=False
    )
    np.testing.assert_allclose(me.predictions(model, newdata=grid)["estimate"], want)
    assert me.predictions(model, newdata="mean").height == 1
    assert me.avg_comparisons(model, variables="flag")["estimate"][0] == pytest.approx(
        one.fixef().filter(like="flag").iloc[0]
    )
    assert me.predictions(model, by="text").height == 2


def test_dropped_columns_and_no_fixed_effects(me):
    with pytest.warns(lmm.RankWarning):
        one = lmm.lmer("y ~ x + twice + (1|g)", data().assign(twice=2 * data().x))
    np.testing.assert_allclose(
        me.predictions(one.marginaleffects())["estimate"], one.predict(re_form=False)
    )
    none = lmm.lmer("y ~ 0 + (1|g)", data().assign(y=data().y - data().y.mean()))
    assert me.predictions(none.marginaleffects())["estimate"].abs().max() == 0


SCRIPT = """
import sys
import jax
jax.config.update("jax_enable_x64", sys.argv[1] == "on")
import lmm, marginaleffects as me
cake = lmm.datasets.load("cake")
fit = lmm.glmer("cbind(incidence, size - incidence) ~ period + (1|herd)", lmm.datasets.load("cbpp"), family="binomial")
model = fit.marginaleffects()
print(repr(me.avg_predictions(model, by="period")["std_error"].to_list()))
print(repr(lmm.lmer("angle ~ recipe + (1|replicate)", cake).llf), repr(fit.update(nAGQ=5).llf))
"""


def test_jax_precision_of_the_process_does_not_matter():
    pytest.importorskip("marginaleffects")
    outputs = []
    for setting in ("on", "off"):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, setting],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        outputs.append(
            np.array(
                [
                    float(word)
                    for word in run.stdout.replace("[", " ")
                    .replace("]", " ")
                    .replace(",", " ")
                    .split()
                ]
            )
        )
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-9)


def test_what_cannot_be_handed_over():
    pytest.importorskip("marginaleffects")
    with pytest.raises(lmm.ArgumentError, match="'response'"):
        shipped("sleep").marginaleffects(type="respons")
    z = np.arange(180.0)
    with pytest.raises(lmm.ArgumentError, match="'z' is an array"):
        lmm.lmer("Reaction ~ Days + z + (1|Subject)", frame("sleepstudy")).marginaleffects()
    assert len(z) == 180


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    marginal_effects._adapter_class.cache_clear()
    with pytest.raises(lmm.ArgumentError, match=r"lmm\[interop\]"):
        shipped("sleep").marginaleffects()
    marginal_effects._adapter_class.cache_clear()


# ---- maketables ----


def cells(table) -> pd.DataFrame:
    return table.df.droplevel(0) if hasattr(table, "df") else table


def test_table_of_fits_as_they_are():
    maketables = pytest.importorskip("maketables")
    table = maketables.ETable([shipped("sleep"), fit("binomial")], model_stats=["N", "ll", "aic"])
    text = table.make(type="tex")
    assert "Reaction" in text and "10.467" in text and "180" in text
    assert f"{fit('binomial').fixef()['x']:.3f}" in text


def test_table_with_random_effects():
    maketables = pytest.importorskip("maketables")
    table = cells(
        maketables.ETable(
            [shipped("sleep").maketables(ddf="satterthwaite"), fit("binomial").maketables()]
        )
    )
    first = table.iloc[:, 0]
    assert (
        first["SD (Days | Subject)"] == "5.922"
        and first["Cor (Days, Intercept | Subject)"] == "0.066"
    )
    assert (
        first["SD (residual)"] == "25.592"
        and first["Levels of Subject"] == "18"
        and first["Observations"] == "180"
    )
    assert first["Days"].startswith("10.467***")  # p = 3e-6 by 17 degrees of freedom
    assert (
        table.iloc[:, 1]["SD (Intercept | g)"]
        == f"{fit('binomial').varcorr().to_frame()['sdcor'].iloc[0]:.3f}"
    )
    assert isinstance(maketables.ETable(shipped("sleep").maketables()).make(type="tex"), str)


def test_columns_of_a_regression_table():
    one = shipped("sleep")
    table = one.maketables(ddf="satterthwaite").coefficients
    assert list(table.columns) == ["b", "se", "t", "p", "ci90l", "ci90u", "ci95l", "ci95u"]
    # R: qt(0.975, 17) = 2.109816
    np.testing.assert_allclose((table["ci95u"] - table["b"]) / table["se"], 2.109816, rtol=1e-5)
    plain = one.maketables().coefficients
    assert plain["p"].isna().all()
    np.testing.assert_allclose((plain["ci95u"] - plain["b"]) / plain["se"], 1.959964, rtol=1e-6)
    assert one.maketables().__maketables_stat__("no such") is None
    assert one.maketables().__maketables_stat__("ll") == pytest.approx(one.llf)
