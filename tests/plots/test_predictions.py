"""Curves over the data are those that the fit predicts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib")

import lmm
from tests.plots import fits
from tests.plots.test_effects import points, segments


def curve(ax, color="#0072B2"):
    return next(
        line for line in ax.lines if line.get_color() == color and line.get_linestyle() != "None"
    ).get_xydata()


@pytest.mark.parametrize("interval", ["confidence", "prediction"])
def test_the_populations_line_has_its_band_and_the_rows(interval):
    fit = fits.sleep()
    ax = fit.plot.predictions("Days", interval=interval, level=0.8)
    at = np.linspace(0.0, 9.0, 101)
    new = {"Days": at, "Subject": ["308"] * 101}
    expected = fit.predict(new, re_form=False, interval=interval, level=0.8)
    np.testing.assert_allclose(curve(ax), np.column_stack([at, expected["fit"]]))
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx(
        (expected["lower"].min(), expected["upper"].max())
    )
    data = lmm.datasets.load("sleepstudy")
    np.testing.assert_allclose(np.column_stack(points(ax, "_data")), data[["Days", "Reaction"]])
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "Days",
        "Reaction",
    ) and f"80 % {interval}" in ax.get_title()


def test_levels_have_lines_of_their_own():
    fit = fits.sleep()
    ax = fit.plot.predictions("Days", groups=True, data=False)
    lines = [
        line
        for line in ax.lines
        if line.get_label().startswith("_level") or len(line.get_xdata()) == 41
    ]
    slopes = [np.diff(line.get_ydata())[0] / np.diff(line.get_xdata())[0] for line in lines]
    np.testing.assert_allclose(np.sort(slopes), np.sort(fit.coef()["Subject"]["Days"]))
    assert not [line for line in ax.lines if line.get_label() == "_data"]


def test_other_predictors_are_at_their_mean_or_most_frequent_category():
    fit = fits.quiet("y ~ x * f + z + (x | g)", fits.table())
    ax = fit.plot.predictions("x")
    data = fits.table()
    often = data.f.value_counts().index[0]
    at = np.linspace(data.x.min(), data.x.max(), 101)
    expected = fit.predict({"x": at, "f": [often] * 101, "z": [data.z.mean()] * 101}, re_form=False)
    np.testing.assert_allclose(curve(ax)[:, 1], expected)
    assert f"f = {often}" in ax.get_title()


def test_a_second_predictor_has_a_curve_for_each_level_or_quantile():
    fit = fits.quiet("y ~ x * f + z + (x | g)", fits.table())
    ax = fit.plot.predictions("x", by="f")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["f = a", "f = b", "f = c"]
    ax = fit.plot.predictions("x", by="z")
    low = np.quantile(fits.table().z, 0.1)
    assert ax.get_legend().get_texts()[0].get_text() == f"z = {low:.4g}"


def test_categories_are_points_with_bars():
    fit = fits.herds()
    ax = fit.plot.predictions("period", data=False)
    new = pd.DataFrame({"period": ["1", "2", "3", "4"]}).astype({"period": "category"})
    expected = fit.predict(new, re_form=False, interval="confidence")
    np.testing.assert_allclose(points(ax)[1], expected["fit"])
    np.testing.assert_allclose(segments(ax)[:, :, 1], expected[["lower", "upper"]])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "2", "3", "4"]


def test_the_link_scale_has_no_rows_and_its_own_label():
    ax = fits.ticks().plot.predictions("cHEIGHT", by="YEAR", type="link")
    assert "log" in ax.get_ylabel() and not [
        line for line in ax.lines if line.get_label() == "_data"
    ]
    x, y = curve(ax).T
    np.testing.assert_allclose(np.diff(y, 2), 0.0, atol=1e-10)  # straight


def test_an_ordinal_model_has_a_curve_per_category():
    fit = fits.wine()
    ax = fit.plot.predictions("temp")
    table = fit.predict({"temp": ["cold", "warm"], "contact": ["no", "no"]}, re_form=False)
    found = np.column_stack([line.get_ydata() for line in ax.lines])
    np.testing.assert_allclose(found, table)
    with pytest.raises(lmm.ArgumentError, match="type='link'"):
        fit.plot.predictions("temp", by="contact")
    assert (
        len(fit.plot.predictions("temp", by="contact", type="link").get_legend().get_texts()) == 2
    )
    with pytest.raises(lmm.ArgumentError, match="categories"):
        fit.plot.by_group()


def test_nested_and_crossed_levels_have_curves():
    data = fits.table()
    fit = fits.quiet("y ~ x + (x | g) + (1 | h)", data)
    axes = fit.plot.by_group("h")
    assert len(axes) == 6
    j = int(np.argmin(fit.ranef()["h"]["Intercept"]))
    ax = axes[0]
    assert ax.get_title() == str(j)
    np.testing.assert_allclose(points(ax, "data")[0], data.x[data.h == j])
    x, y = next(line for line in ax.lines if line.get_label() == "level").get_data()
    expected = fit.predict({"x": x, "h": [j] * len(x)}, re_form="~ (1 | h)")
    np.testing.assert_allclose(y, expected)
    nested = fits.quiet("strength ~ 1 + (1 | batch / cask)", lmm.datasets.load("Pastes"))
    with pytest.raises(lmm.ArgumentError, match="no predictor varies"):
        nested.plot.by_group("cask:batch")
    slopes = fits.quiet("y ~ x + (1 | h / f)", data)
    slopes.plot.by_group("f:h", columns=6)


def test_panels_by_subject_hold_their_rows_and_lines():
    fit = fits.sleep()
    axes = fit.plot.by_group()
    modes = fit.ranef()["Subject"]["Intercept"]
    assert [ax.get_title() for ax in axes] == list(modes.sort_values().index)
    data = lmm.datasets.load("sleepstudy")
    for ax in axes[[0, 9, 17]]:
        mine = data[data.Subject.astype(str) == ax.get_title()]
        np.testing.assert_allclose(np.column_stack(points(ax, "data")), mine[["Days", "Reaction"]])
        own = fit.coef()["Subject"].loc[ax.get_title()]
        line = next(line for line in ax.lines if line.get_label() == "level").get_xydata()
        np.testing.assert_allclose(line[:, 1], own["Intercept"] + own["Days"] * line[:, 0])
        everyone = next(line for line in ax.lines if line.get_label() == "population").get_xydata()
        np.testing.assert_allclose(
            everyone[:, 1], fit.params["Intercept"] + fit.params["Days"] * everyone[:, 0]
        )
    assert (
        axes[0].figure._supxlabel.get_text() == "Days"
        and "Subject" in axes[0].figure._suptitle.get_text()
    )


@pytest.mark.parametrize(
    ("formula", "along", "held"),
    [
        ("y ~ x + (x + z | g)", "x", {"z": "mean"}),
        ("y ~ x + (z || g) + (1 | h)", "x", {"z": "mean"}),
        ("y ~ x + (0 + f | g)", "x", {"f": "mode"}),
        ("y ~ x + (0 + C(h) | g)", "x", {"h": "mode"}),
        ("y ~ 1 + (x | g)", "x", {}),
        ("y ~ z + (I(x**2) + x | g)", None, {"z": "mean"}),
        ("y ~ x + g + (z | g)", "x", {"z": "mean"}),
    ],
)
def test_lines_of_levels_are_predictions_of_rows_made_by_hand(formula, along, held):
    """Predictors of random slopes alone are at the mean, or the mode, of the level's own rows."""
    data = fits.table()
    data["z"] += 2.0 * data.g  # differs between levels and between their rows
    fit = fits.quiet(formula, data)
    only = "~ " + " + ".join(
        f"({bar.columns} | g)" for bar in fit.design.formula.bars if bar.group == "g"
    )
    axes = fit.plot.by_group("g", along)
    curves = fit.plot.predictions("x", groups=True).lines if along else []
    curves = [line.get_xydata() for line in curves if line.get_label() == "_level"]
    for ax in axes:
        label = ax.get_title()
        mine = data[data.g.astype(str) == label]
        rows = {"g": mine.g.iloc[0]}
        for name, how in held.items():
            rows[name] = mine[name].mean() if how == "mean" else mine[name].mode()[0]
        x, y = next(line for line in ax.lines if line.get_label() == "level").get_data()
        at = pd.DataFrame({**rows, "x": x})
        expected = [float(fit.predict(at.iloc[[i]], re_form=only).iloc[0]) for i in (0, 20, 40)]
        np.testing.assert_allclose(np.asarray(y)[[0, 20, 40]], expected, rtol=1e-10)
        if curves:
            own = curves[[str(v) for v in fit.design.terms[0].levels].index(label)]
            np.testing.assert_allclose(own[:, 1], y, rtol=1e-10)


def test_some_levels_by_name_and_some_of_many():
    axes = fits.sleep().plot.by_group(levels=[330, "308"])
    assert [ax.get_title() for ax in axes] == ["330", "308"]
    axes = fits.radon().plot.by_group()
    assert len(axes) == 36 and axes[0].figure._suptitle.get_text().startswith(
        "36 of 85 levels of county"
    )


def test_a_random_slope_alone_offsets_and_polynomials_are_replayed():
    data = fits.table()
    for formula in (
        "y ~ poly(x, 2) + (0 + x | g)",
        "y ~ x + offset(z) + (1 | g)",
        "y ~ I(x**2) + x + (x || g)",
        "y ~ C(h) * x + (1 | g)",
    ):
        fit = fits.quiet(formula, data)
        ax = fit.plot.predictions("x", groups=True)
        assert np.isfinite(curve(ax)).all()
        fit.plot.by_group("g", "x", levels=[0, 1])


def test_every_kind_of_column_is_varied_and_held():
    data = fits.table()
    rng = np.random.default_rng(3)
    data["yes"] = rng.random(len(data)) > 0.4
    data["size"] = pd.Categorical(data.f, categories=["c", "a", "b", "never"], ordered=True)
    data["price in $"] = data.x + data.z
    fit = fits.quiet("y ~ C(h) + yes + size + `price in $` + (1 | g)", data)
    for x, ticks in {
        "h": list("012345"),
        "yes": ["False", "True"],
        "size": ["c", "a", "b"],
    }.items():
        ax = fit.plot.predictions(x, groups=True)
        assert [t.get_text() for t in ax.get_xticklabels()] == ticks
        assert len(fit.plot.predictions("price in $", by=x).get_legend().get_texts()) == len(ticks)
        fit.plot.by_group("g", x, levels=[3])
    ax = fit.plot.predictions("price in $")
    assert ax.get_xlabel() == r"price in \$"  # no mathematics
    expected = fit.predict(
        {
            "h": [data.h.mode()[0]],
            "yes": [True],
            "size": [data.f.mode()[0]],
            "price in $": [curve(ax)[0, 0]],
        },
        re_form=False,
    )
    assert curve(ax)[0, 1] == pytest.approx(float(expected.iloc[0]))
