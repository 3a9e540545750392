"""Six pictures on a page, and every picture of every kind of model."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import lmm
from lmm.plots.overview import influential
from lmm.plots.quantiles import uniform_quantiles
from tests.plots import fits
from tests.plots.test_effects import points, segments
from tests.plots.test_rows import band_of
from tests.results.posterior_fits import KnownPosterior

TITLES = ["Residuals against fitted values", "Size of residuals"]


def data():
    d = fits.table()
    d["count"] = np.random.default_rng(1).poisson(np.exp(0.3 * d.x + 0.5))
    d["positive"] = np.exp(0.3 * d.y)
    d["many"] = np.random.default_rng(2).integers(1, 9, len(d))
    d["hits"] = np.random.default_rng(3).binomial(d["many"], 0.4)
    d["twice"] = 2.0 * d.x
    d["grade"] = np.clip(np.round(d.y), -1, 3).astype(int)
    d["mark"] = np.array(["low", "middle", "high"])[np.digitize(d.y, [0.0, 2.0])]
    return d


MODELS = {
    "no fixed effects": {"formula": "y ~ 0 + (1 | g)"},
    "diagonal": {"formula": "y ~ x + (x || g)", "REML": False},
    "nested": {"formula": "y ~ x + (1 | h / f)"},
    "crossed, weights": {"formula": "y ~ x * f + (x | g) + (1 | h)", "weights": "w"},
    "offset": {"formula": "y ~ x + offset(z) + (1 | g)"},
    "offset as an array": {"formula": "y ~ x + (1 | g)", "offset": np.linspace(0, 1, 240)},
    "dependent columns": {"formula": "y ~ x + twice + (1 | g)"},
    "slope alone": {"formula": "y ~ x + (0 + x | g)"},
    "em": {"formula": "y ~ x + (1 | g)", "method": "em"},
    "poisson": {"formula": "count ~ x + (1 | g)", "family": "poisson"},
    "negative binomial": {"formula": "count ~ x + (1 | g)", "family": "negative_binomial"},
    "gamma": {"formula": "positive ~ x + (1 | g)", "family": lmm.families.Gamma("log")},
    "binomial": {"formula": "cbind(hits, many - hits) ~ x + (1 | g)", "family": "binomial"},
    "binary": {"formula": "I(y > 1) ~ x + (1 | g)", "family": "binomial", "nAGQ": 0},
    "ordinal": {"formula": "grade ~ x + (1 | g)", "family": "ordinal"},
    "transformed": {"formula": "log(positive) ~ scale(x) + (1 | g)"},
}


@pytest.fixture(scope="module", params=list(MODELS))
def model(request):
    d = data()
    d.loc[5, "x"] = np.nan if "offset as" not in request.param else 0.0
    return fits.quiet(
        MODELS[request.param]["formula"],
        d,
        **{k: v for k, v in MODELS[request.param].items() if k != "formula"},
    )


def test_every_picture_of_every_model_is_drawn_or_refused_in_words(model):
    plot = model.plot
    rows = model.nobs
    for name in (
        "ranef",
        "ranef_qq",
        "shrinkage",
        "residuals",
        "scale_location",
        "residuals_by_group",
    ):
        getattr(plot, name)()
        plt.close("all")
    plot.qq(nsim=20)
    plot.simulated_responses(nsim=5)
    ax = plot.residuals()
    if ax.get_title() == "Binned residuals":
        assert len(ax.lines) == 4
    else:
        assert len(ax.collections[0].get_offsets()) == rows
    if model.params.drop("Intercept", errors="ignore").notna().any():
        plot.coefficients()
        if (
            "offset" in repr(model.design.frame.offset_given)
            or model.design.frame.offset_given is True
        ):
            with pytest.raises(lmm.PredictionError, match="offset"):
                plot.predictions("x")
        else:
            assert plot.predictions("x").get_xlabel() == "x"
    else:
        with pytest.raises(lmm.ArgumentError, match="no fixed effects"):
            plot.coefficients()
        with pytest.raises(lmm.ArgumentError, match="x='x'"):
            plot.predictions("x")


@pytest.mark.parametrize(
    "model", ["crossed, weights", "no fixed effects", "binary", "ordinal"], indirect=True
)
def test_six_panels_are_on_a_page(model):
    figure = model.plot.check(rng=1, nsim=20)
    assert isinstance(figure, Figure)
    titles = [ax.get_title() for ax in figure.axes]
    assert len(titles) == 6 and titles[2] == TITLES[1]
    binary = set(np.unique(model.design.y)) == {0.0, 1.0}
    assert titles[1] == ("Binned residuals" if binary else TITLES[0])
    assert all(ax.texts[0].get_text() for ax in figure.axes[:4])  # what to look for
    assert titles[3].startswith("Normality" if model.family is None else "Distribution")
    ordinal = model.family is not None and model.family.name == "ordinal"
    assert titles[5] == ("Largest random effects" if ordinal else "Influence of rows")
    figure.canvas.draw()


def test_influence_by_leverage_names_the_rows_of_largest_cooks_distance():
    fit = fits.sleep()
    ax = influential(fit, labels=3)
    largest = fit.cooks_distance().sort_values(ascending=False).index[:3]
    assert [t.get_text() for t in ax.texts[:3]] == [str(i) for i in largest]
    x, y = points(ax, "_largest")
    np.testing.assert_allclose(x, fit.leverage()[largest])
    residual = fit.residuals(scaled=True)[largest] / np.sqrt(1.0 - fit.leverage()[largest])
    np.testing.assert_allclose(y, residual)
    edge = next(line for line in ax.lines if line.get_label() == "_cook")
    h, r = edge.get_data()
    np.testing.assert_allclose(r**2 * h / (1 - h) / 2, 0.5)


def test_simulated_residuals_are_drawn_in_their_own_band():
    fit = fits.ticks()
    found = fit.simulated_residuals(60, rng=1)
    axes = fit.plot.simulated_residuals(found)
    np.testing.assert_allclose(points(axes[0])[1], np.sort(found.values))
    np.testing.assert_allclose(axes[1].collections[0].get_offsets()[:, 1], found.values)
    rank = axes[1].collections[0].get_offsets()[:, 0]
    assert (np.argsort(rank) == np.argsort(found.fitted, kind="stable")).all()
    lower, upper = band_of(axes[0], "each")
    # random effects tie the rows together, so that the band is wider than that of independent values
    n = len(found.values)
    assert np.max(upper[:, 1] - lower[:, 1]) > 1.5 * 2 * 1.96 * 0.5 / np.sqrt(n)
    assert not uniform_quantiles(found, None, None, 0, 0.95).collections


def test_a_posterior_has_quantiles_for_intervals():
    reference = lmm.lmer("Reaction ~ Days + (Days | Subject)", lmm.datasets.load("sleepstudy"))
    fit = lmm.lmer(
        "Reaction ~ Days + (Days | Subject)",
        lmm.datasets.load("sleepstudy"),
        method=KnownPosterior(reference, length=500, spread=0.1),
    )
    axes = fit.plot.ranef(level=0.8)
    draws = fit.draws.effects("Subject")[..., 1].reshape(-1, 18)
    order = np.argsort(fit.ranef()["Subject"]["Intercept"].to_numpy())
    np.testing.assert_allclose(
        segments(axes[1])[:, :, 0], np.quantile(draws, [0.1, 0.9], axis=0)[:, order].T
    )
    assert "posterior mean" in axes[0].get_xlabel()
    ax = fit.plot.coefficients(level=0.9, intercept=True)
    np.testing.assert_allclose(segments(ax)[:, :, 0], fit.confint(level=0.9).iloc[-2:])
    fit.plot.predictions("Days", interval="prediction")
    fit.plot.by_group(levels=[308])
    fit.plot.shrinkage()
    fit.plot.check(nsim=20)
    with pytest.raises(lmm.ArgumentError):
        fit.plot.profile()
    with pytest.raises(lmm.ArgumentError):
        fit.plot.bootstrap()


def test_a_posterior_without_draws_of_effects_has_normal_intervals():
    reference = lmm.lmer("Reaction ~ Days + (1 | Subject)", lmm.datasets.load("sleepstudy"))
    fit = lmm.lmer(
        "Reaction ~ Days + (1 | Subject)",
        lmm.datasets.load("sleepstudy"),
        method=KnownPosterior(reference, length=500, effects=False),
    )
    half = np.ptp(segments(fit.plot.ranef())[:, :, 0], axis=1) / 2
    np.testing.assert_allclose(
        np.sort(half), np.sort(1.959964 * np.sqrt(fit.ranef_cov()["Subject"][:, 0, 0])), rtol=1e-6
    )


def test_styles_are_left_alone_and_followed():
    before = dict(plt.rcParams)
    fits.sleep().plot.check(nsim=20)
    assert dict(plt.rcParams) == before
    with plt.style.context("dark_background"):
        ax = fits.sleep().plot.qq(nsim=20)
        assert (
            next(line for line in ax.lines if line.get_label() == "_expected").get_color()
            == "white"
        )


def test_the_accessor_names_its_pictures_and_functions_are_the_same():
    import lmm.plots as plots

    text = repr(fits.sleep().plot)
    names = [name for name in plots.__all__ if name != "Plots"]
    assert all(name in text for name in names)
    assert {name for name in dir(plots.Plots) if not name.startswith("_")} == set(names)
    np.testing.assert_allclose(
        points(plots.ranef(fits.radon()))[0], points(fits.radon().plot.ranef())[0]
    )
