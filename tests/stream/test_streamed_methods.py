"""Every method of a fit of chunks: the same answer as in memory, or a refusal that says what to do."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.errors import ArgumentError

pytest.importorskip("pyarrow.parquet")
FORMULA = "y ~ x*size + kind + (x | g) + (1 | h)"

#: what is computed from sums
WORK = {
    "fixef": lambda f, d: f.fixef(),
    "ranef": lambda f, d: f.ranef(),
    "ranef_cov": lambda f, d: f.ranef_cov(),
    "coef": lambda f, d: f.coef(),
    "varcorr": lambda f, d: str(f.varcorr()),
    "varcorr_se": lambda f, d: f.varcorr_se(),
    "vcov": lambda f, d: f.vcov(full=True),
    "params": lambda f, d: f.params,
    "bse": lambda f, d: f.bse,
    "tvalues": lambda f, d: f.tvalues,
    "pvalues": lambda f, d: f.pvalues,
    "llf": lambda f, d: pd.Series([f.llf, f.aic, f.bic, f.deviance, f.sigma]),
    "reml_criterion": lambda f, d: f.reml_criterion,
    "df": lambda f, d: (f.df_model, f.df_resid, f.nobs),
    "objective": lambda f, d: f.objective(f.theta),
    "is_singular": lambda f, d: f.is_singular(),
    "re_pca": lambda f, d: [str(v)[:40] for v in f.re_pca().values()],
    "convergence": lambda f, d: f.convergence.converged,
    "draws": lambda f, d: f.draws is None,
    "elbo": lambda f, d: np.isnan(f.estimate.elbo),
    "messages": lambda f, d: f.messages,
    "trace": lambda f, d: list(f.trace),
    "predict": lambda f, d: f.predict(d[:5], se_fit=True, interval="prediction"),
    "update": lambda f, d: f.update(". ~ . - kind", REML=False).fixef(),
    "coef_table": lambda f, d: f.coef_table(ddf="kenward_roger"),
    "summary": lambda f, d: {
        k: v for k, v in f.summary("satterthwaite").tables.items() if k in ("random", "fixed")
    },
    "anova 1": lambda f, d: f.anova(1),
    "anova 2": lambda f, d: f.anova(2),
    "anova 3": lambda f, d: f.anova(3, ddf="kenward_roger"),
    "contrast": lambda f, d: f.contrast(np.eye(len(f.fixef()))[:2]),
    "ranova": lambda f, d: f.ranova(),
    "drop1": lambda f, d: f.drop1(),
    "confint": lambda f, d: f.confint(),
    "conf_int": lambda f, d: f.conf_int(),
    "profile": lambda f, d: f.profile("sigma").confint(),
    "r2": lambda f, d: f.r2(),
    "icc": lambda f, d: f.icc(by_group=True),
    "vif": lambda f, d: f.vif(),
    "emmeans": lambda f, d: str(f.emmeans("size")),
    "emtrends": lambda f, d: str(f.emtrends("x", "size")),
    "maketables": lambda f, d: type(f.maketables()).__name__,
    "endog_names": lambda f, d: f.endog_names,
    "tidy": lambda f, d: f.tidy(("fixed", "ran_pars", "ran_vals"), conf_int=True),
    "glance": lambda f, d: f.glance(),
    "compare_methods": lambda f, d: type(f.compare_methods(["reml", "ml"])).__name__,
    "family": lambda f, d: f.family is None,
    "sigma": lambda f, d: f.sigma,
    "theta": lambda f, d: f.theta,
    "plan": lambda f, d: str(f.design.plan),
    "anova": lambda f, d: lmm.anova(f, f.update(". ~ . - kind")),
    "_repr_html_": lambda f, d: "Fixed effects" in f._repr_html_(),
}
#: what needs the rows
REFUSE = {
    "fittedvalues": lambda f, d: f.fittedvalues,
    "resid": lambda f, d: f.resid,
    "residuals": lambda f, d: f.residuals("pearson"),
    "predict own rows": lambda f, d: f.predict(),
    "simulate": lambda f, d: f.simulate(2, rng=1),
    "augment": lambda f, d: f.augment(),
    "refit": lambda f, d: f.refit(d["y"]),
    "refit_many": lambda f, d: f.refit_many(np.zeros((5, 2))),
    "bootstrap": lambda f, d: f.bootstrap(5, rng=1),
    "influence": lambda f, d: f.influence(),
    "drop1 F": lambda f, d: f.drop1("F"),
    "step": lambda f, d: f.step(),
    "simulated_residuals": lambda f, d: f.simulated_residuals(),
    "leverage": lambda f, d: f.leverage(),
    "cooks_distance": lambda f, d: f.cooks_distance(),
    "rstudent": lambda f, d: f.rstudent(),
    "check": lambda f, d: f.check(),
    "marginaleffects": lambda f, d: f.marginaleffects(),
    "emmeans by frequency": lambda f, d: f.emmeans("size", weights="proportional"),
    "Z": lambda f, d: f.design.Z,
    "X": lambda f, d: np.asarray(f.design.X),
    "data": lambda f, d: f.design.frame.data,
    "with_response": lambda f, d: f.design.with_response(d["y"]),
}
#: methods that hand a fit to a package of that name
OPTIONAL = {"marginaleffects", "maketables"}
#: of other kinds of fit, or tested elsewhere
ELSEWHERE = {
    "residual_cov",
    "save",
    "aic",
    "bic",
    "deviance",
    "df_model",
    "df_resid",
    "nobs",
    "cov_params",
    "dispersion",
    "dispersion_se",
    "family_parameters",
    "thresholds",
    "overdispersion",
    "plot",
    "write_predictions",
}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n = 1200
    g, h, x = rng.integers(0, 30, n), rng.integers(0, 15, n), rng.normal(3, 1, n)
    size = np.array(["small", "large", "medium"])[rng.integers(0, 3, n)]
    y = (
        2
        + x
        + rng.normal(0, 1, 30)[g]
        + rng.normal(0, 1, 30)[g] * x
        + rng.normal(0, 1, 15)[h]
        + (size == "large")
        + rng.normal(0, 1, n)
    )
    kind = pd.Categorical(np.array(["c", "a"])[rng.integers(0, 2, n)], categories=["c", "a"])
    return pd.DataFrame(
        {"y": y, "x": x, "g": g, "h": h, "size": size, "kind": kind, "w": rng.uniform(0.5, 2, n)}
    )


@pytest.fixture(scope="module", params=[None, "w"], ids=["plain", "weighted"])
def fits(request, rows, tmp_path_factory) -> tuple[lmm.Fit, lmm.Fit]:
    path = tmp_path_factory.mktemp("data") / "rows.parquet"
    rows.to_parquet(path)
    return lmm.lmer(FORMULA, lmm.Source(path, chunk=250), weights=request.param), lmm.lmer(
        FORMULA, rows, weights=request.param
    )


def equal(a, b) -> None:
    if isinstance(b, dict):
        assert list(a) == list(b)
        for key in b:
            equal(a[key], b[key])
    elif isinstance(b, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, rtol=1e-5, atol=1e-6)
    elif isinstance(b, pd.Series):
        pd.testing.assert_series_equal(a, b, rtol=1e-5, atol=1e-6)
    elif isinstance(b, (float, np.ndarray)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    else:
        assert a == b


@pytest.mark.parametrize("name", WORK)
def test_it_is_the_same_as_in_memory(name, fits, rows):
    if name in OPTIONAL:
        pytest.importorskip(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        equal(*(WORK[name](fit, rows) for fit in fits))


@pytest.mark.parametrize("name", REFUSE)
def test_what_needs_the_rows_says_what_to_do(name, fits, rows):
    if name in OPTIONAL:
        pytest.importorskip(name)
    with pytest.raises(ArgumentError, match=r"fit.write_predictions\(path\)"):
        REFUSE[name](fits[0], rows)


def test_every_public_method_is_here():
    known = {name.split()[0] for name in (*WORK, *REFUSE)} | ELSEWHERE
    public = {name for name, _ in inspect.getmembers(lmm.Fit) if not name.startswith("_")}
    assert public <= known


def test_plots_that_need_no_rows(fits):
    pytest.importorskip("matplotlib")
    assert fits[0].plot.ranef() is not None
    with pytest.raises(ArgumentError, match="write_predictions"):
        fits[0].plot.residuals()


def test_it_pickles_and_is_equal_to_itself(fits):
    again = pickle.loads(pickle.dumps(fits[0]))
    assert again == fits[0] and again != fits[1]
    assert again.design.n == fits[0].design.n and again.nobs == 1200
    assert again.update(REML=False).llf == pytest.approx(fits[1].update(REML=False).llf)


def test_another_method_of_estimation(rows, tmp_path):
    rows.to_parquet(tmp_path / "rows.parquet")
    a, b = (
        lmm.lmer("y ~ x + (1 | g)", data, method="em") for data in (tmp_path / "rows.parquet", rows)
    )
    assert a.fixef().to_numpy() == pytest.approx(b.fixef().to_numpy(), rel=1e-6)


def test_neither_arrow_nor_families_are_imported_for_a_linear_model_in_memory():
    code = (
        "import sys, lmm\nfit = lmm.lmer('Reaction ~ Days + (Days|Subject)', lmm.datasets.load('sleepstudy'))\nstr(fit.summary())\n"
        "print(sorted({'duckdb', 'lmm.stream.sources', 'lmm.stream.partial', 'lmm.families.by_name'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert out.stdout == "[]\n"
