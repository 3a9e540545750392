"""Pictures of rows: residuals, quantiles, simulated data."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")

import lmm
from lmm.inference.criticism.smoothing import lowess
from lmm.plots.residual_pictures import binned
from lmm.plots.simulated import cells, running_quantile
from tests.plots import fits
from tests.plots.test_effects import points, segments


def test_residuals_stand_over_fitted_values_with_a_lowess():
    fit = fits.sleep()
    ax = fit.plot.residuals()
    np.testing.assert_allclose(
        ax.collections[0].get_offsets(), np.column_stack([fit.fittedvalues, fit.resid])
    )
    curve = next(line for line in ax.lines if line.get_label() == "lowess")
    np.testing.assert_allclose(
        curve.get_xydata(), np.column_stack(lowess(fit.fittedvalues, fit.resid))
    )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("fitted Reaction", "residual")


def test_weighted_residuals_have_one_variance():
    fit = fits.quiet("y ~ x + (1 | g)", fits.table(), weights="w")
    ax = fit.plot.residuals()
    np.testing.assert_allclose(ax.collections[0].get_offsets()[:, 1], fit.residuals("pearson"))
    assert ax.get_ylabel() == "Pearson residual"


def test_generalized_residuals_are_pearsons_over_the_linear_predictor():
    fit = fits.herds()
    ax = fit.plot.residuals()
    np.testing.assert_allclose(
        ax.collections[0].get_offsets(),
        np.column_stack([fit.predict(type="link"), fit.residuals("pearson")]),
    )
    assert ax.get_xlabel().startswith("linear predictor") and "logit" in ax.get_xlabel()


def test_scale_location_draws_the_root_of_scaled_residuals():
    fit = fits.sleep()
    ax = fit.plot.scale_location()
    np.testing.assert_allclose(
        ax.collections[0].get_offsets()[:, 1], np.sqrt(np.abs(fit.resid / fit.sigma))
    )
    assert ax.get_ylim()[0] == 0.0


def test_many_rows_are_counted_in_hexagons():
    rng = np.random.default_rng(0)
    data = fits.table(n=6_000, levels=50)
    fit = fits.quiet("y ~ x + (1 | g)", data)
    hexagons = fit.plot.residuals().collections[0]
    assert hexagons.get_array().sum() == 6_000
    del rng


def test_binary_residuals_are_averaged_in_bins_of_the_fixed_part():
    rng = np.random.default_rng(5)
    data = fits.table(n=3_000, levels=60)
    eta = 0.3 + data.x + rng.normal(size=60)[data.g]
    data["won"] = (rng.random(3_000) < 1.0 / (1.0 + np.exp(-eta))).astype(float)
    fit = fits.quiet("won ~ x + (1 | g)", data, family="binomial")
    ax, size = fit.plot.residuals(), fit.plot.scale_location()
    pearson, fixed = fit.residuals("pearson"), fit.predict(type="link", re_form=False)
    bins = pd.qcut(fixed, 54, labels=False)
    for one, values in ((ax, pearson), (size, pearson**2)):
        x, y = points(one, "_means")
        np.testing.assert_allclose(x, fixed.groupby(bins).mean())
        np.testing.assert_allclose(y, values.groupby(bins).mean())
        low, high = (line.get_ydata() for line in one.lines if line.get_label() == "_limits")
        outside = int(((y < low) | (y > high)).sum())
        assert outside <= 8  # of 54, 2.7 expected at most
    np.testing.assert_allclose(high[0] - low[0] > high[27] - low[27], True)
    wrong = fits.quiet("won ~ 1 + z + (1 | g)", data.assign(z=data.x**2), family="binomial")
    _, y = points(wrong.plot.residuals(), "_means")
    assert len(y) == 54
    few = binned(np.array([1.0, 1.0, 1.0, 2.0, 2.0, 3.0]), np.arange(6.0))
    assert few.size.sum() == 6 and (np.diff(few.x) > 0).all()


def test_of_many_rows_and_levels_some_are_drawn_and_it_is_said(monkeypatch):
    from lmm.plots import quantiles, random_effects, residual_pictures
    from lmm.results.rows import simulated_residuals

    data = fits.table(n=1_500, levels=100)
    data["k"] = np.random.default_rng(3).poisson(np.exp(0.3 * data.x))
    linear = fits.quiet("y ~ x + (1 | g)", data)
    counts = fits.quiet("k ~ x + (1 | g)", data, family="poisson")
    whole = next(line for line in linear.plot.residuals().lines if line.get_label() == "lowess")
    monkeypatch.setattr(quantiles, "ROWS", 1_000)
    monkeypatch.setattr(random_effects, "LEVELS", 70)
    monkeypatch.setattr(residual_pictures, "SMOOTHED", 1_000)
    monkeypatch.setattr(simulated_residuals, "SIMULATED", 10_000)
    monkeypatch.setattr(simulated_residuals, "ROWS", 100)
    part = next(line for line in linear.plot.residuals().lines if line.get_label() == "lowess")
    away = np.interp(whole.get_xdata(), *part.get_data()) - whole.get_ydata()
    assert len(part.get_xdata()) == 101 and np.abs(away[5:-5]).max() < 0.06
    ax = linear.plot.qq()
    assert ax.get_ylabel() == "studentised residual"
    observed = points(ax, "_observed")[1]
    np.testing.assert_allclose(observed, np.sort(linear.rstudent()))
    assert any("all at once" in str(c.get_label()) for c in ax.collections)
    assert linear.plot.qq(nsim=20).get_ylabel() == "scaled residual"
    caterpillar = linear.plot.ranef()
    assert (
        len(segments(caterpillar)) == 70 and caterpillar.get_ylabel() == "g (100 levels, 70 drawn)"
    )
    modes = linear.ranef()["g"]["Intercept"]
    ends = np.sort(modes)[[0, -1]]
    np.testing.assert_allclose(points(caterpillar)[0][[0, -1]], ends)
    for axes in (counts.plot.qq(nsim=20), counts.plot.simulated_residuals(nsim=20)[0]):
        assert "(500 of 1,500 rows)" in axes.texts[0].get_text()
        assert len(points(axes, "_observed")[0]) == 500
    said = counts.plot.simulated_responses(nsim=20).texts[0].get_text()
    assert "(500 of 1,500 rows)" in said


def test_a_call_draws_the_six_panels():
    figure = fits.sleep().plot(nsim=20)
    assert len(figure.axes) == 6


def test_rows_with_missing_values_are_left_out():
    data = fits.table()
    data.loc[[3, 50], "y"] = np.nan
    for action in ("omit", "exclude"):
        fit = fits.quiet("y ~ x + (x | g)", data, na_action=action)
        assert len(fit.plot.residuals().collections[0].get_offsets()) == 238
        fit.plot.residuals_by_group()
        fit.plot.simulated_responses(nsim=5)
        assert len(points(fit.plot.predictions("x"), "_data")[0]) == 238


def test_boxes_hold_the_quartiles_of_each_level():
    fit = fits.sleep()
    ax = fit.plot.residuals_by_group(sort=False)
    found = (
        fit.resid.groupby(lmm.datasets.load("sleepstudy")["Subject"].astype(str))
        .quantile([0.25, 0.5, 0.75])
        .unstack()
    )
    boxes = np.array([[bar.get_x(), bar.get_x() + bar.get_width()] for bar in ax.patches])
    np.testing.assert_allclose(boxes[::-1], found[[0.25, 0.75]].to_numpy())
    np.testing.assert_allclose(segments(ax, 1)[::-1, 0, 0], found[0.5].to_numpy())
    whisker = segments(ax, 0)[::-1, :, 0]
    reach = 1.5 * (found[0.75] - found[0.25]).to_numpy()
    assert (whisker[:, 0] >= found[0.25] - reach - 1e-9).all() and (
        whisker[:, 1] <= found[0.75] + reach + 1e-9
    ).all()
    outside = points(ax, "_beyond")[0]
    assert len(outside) == sum(
        ((r < w[0]) | (r > w[1])).sum()
        for w, (_, r) in zip(whisker, fit.resid.groupby(np.repeat(np.arange(18), 10)), strict=True)
    )


def test_boxes_of_many_levels_are_lines():
    ax = fits.radon().plot.residuals_by_group()
    assert not ax.patches and ax.get_ylabel() == "county (85 levels)"
    low = fits.radon().resid.groupby(lmm.datasets.load("radon")["county"]).min()
    np.testing.assert_allclose(np.sort(segments(ax, 0)[:, 0, 0]), np.sort(low))


def band_of(ax, label):
    """x, lower and upper edge of a filled band."""
    found = next(c for c in ax.collections if label in str(c.get_label()))
    vertices = found.get_paths()[0].vertices
    half = len(vertices) // 2
    return vertices[1:half], vertices[half + 1 : -1][::-1]


def test_quantiles_of_residuals_lie_in_bands_that_simulated_fits_fill():
    fit = fits.quiet("y ~ x + (x | g)", fits.table(), weights="w")
    ax = fit.plot.qq(rng=1)
    x, y = points(ax)
    np.testing.assert_allclose(y, np.sort(fit.residuals("pearson", scaled=True)))
    lower, upper = band_of(ax, "all at once")
    assert (lower[:, 1] <= upper[:, 1]).all()
    inside = [(np.interp(lower[:, 0], x, np.sort(one)) >= lower[:, 1]).all() for one in [y]]
    assert inside == [True]  # data from a normal model


def test_quantiles_betray_heavy_tails():
    data = fits.table()
    data["y"] += 3.0 * np.random.default_rng(5).standard_t(2, len(data))
    fit = fits.quiet("y ~ x + (1 | g)", data)
    ax = fit.plot.qq(rng=1)
    x, y = points(ax)
    lower, upper = band_of(ax, "all at once")
    assert (y < np.interp(x, lower[:, 0], lower[:, 1])).any() or (
        y > np.interp(x, upper[:, 0], upper[:, 1])
    ).any()


def test_bands_are_the_same_for_a_seed():
    fit = fits.sleep()
    one, two, three = (band_of(fit.plot.qq(rng=seed, nsim=30), "each")[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, three)
    assert not fit.plot.qq(bands=None).collections


def test_simulated_densities_stand_beside_the_observed_one():
    fit = fits.sleep()
    ax = fit.plot.simulated_responses(nsim=7)
    assert len(ax.lines) == 8 and ax.get_xlabel() == "Reaction" and "7" in ax.get_title()
    for line in ax.lines:
        x, y = line.get_data()
        assert np.trapezoid(y, x) == pytest.approx(1.0, abs=0.02)


def test_counts_are_shown_as_shares_of_rows():
    fit = fits.ticks()
    ax = fit.plot.simulated_responses(nsim=40)
    heights = np.array([bar.get_height() for bar in ax.patches])
    names = [t.get_text() for t in ax.get_xticklabels()]
    counts = lmm.datasets.load("grouseticks")["TICKS"]
    assert (
        heights.sum() == pytest.approx(1.0)
        and heights[0] == pytest.approx((counts == 0).mean())
        and names[:2] == ["0", "1"]
    )
    assert len(heights) == len(names) <= 30
    herds = fits.herds().plot.simulated_responses(nsim=20)
    incidence = lmm.datasets.load("cbpp")["incidence"]
    assert herds.patches[1].get_height() == pytest.approx(
        (incidence == 1).mean()
    ) and herds.get_xlabel().startswith("successes in")


def test_cells_cover_every_count_once():
    rng = np.random.default_rng(0)
    y = rng.negative_binomial(0.5, 0.01, 500).astype(float)
    edges, names = cells(y, y[:, None] * 3)
    assert (
        len(names) == len(edges) - 1
        and edges[0] == 0
        and (np.diff(edges) >= 1).all()
        and names[-1].startswith("≥")
    )
    assert (np.diff(edges, 2) >= 0).all()


def test_ordered_categories_keep_their_names():
    ax = fits.wine().plot.simulated_responses(nsim=20)
    shares = lmm.datasets.load("wine")["rating"].value_counts(normalize=True, sort=False)
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], shares)
    assert [t.get_text() for t in ax.get_xticklabels()] == [str(c) for c in shares.index]


def test_running_quantiles_of_uniform_values_are_level():
    rng = np.random.default_rng(4)
    x = np.linspace(0, 1, 20_000)
    for q in (0.25, 0.5, 0.75):
        at, curve = running_quantile(x, rng.random(20_000), q)
        assert np.abs(curve - q).max() < 0.03 and at.min() > 0.1 and at.max() < 0.9


def test_bands_of_an_approximate_posterior():
    """A method whose ``sigma`` says how it is estimated, not what it is."""
    pytest.importorskip("optax")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lmm.lmer(
            "Reaction ~ Days + (1 | Subject)", lmm.datasets.load("sleepstudy"), method="vi"
        )
    assert len(fit.plot.qq(nsim=20).collections) > 0
