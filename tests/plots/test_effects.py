"""Pictures of effects: what is drawn is what the fit says."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import lmm
from lmm.plots.axes import handed_back
from lmm.plots.random_effects import standardised
from tests.plots import fits


def points(ax, label=None):
    """x and y of the first line of markers, or of the one with a label."""
    lines = [
        line
        for line in ax.lines
        if line.get_linestyle() == "None" and label in (None, line.get_label())
    ]
    return np.asarray(lines[0].get_xdata(), dtype=float), np.asarray(
        lines[0].get_ydata(), dtype=float
    )


def segments(ax, which=0):
    """Ends (m, 2, 2) of a collection of lines."""
    return np.array(ax.collections[which].get_segments())


def test_a_caterpillar_has_the_modes_in_order_with_their_intervals():
    fit = fits.sleep()
    axes = fit.plot.ranef(level=0.9)
    modes, cov = fit.ranef()["Subject"], fit.ranef_cov()["Subject"]
    order = np.argsort(modes["Intercept"].to_numpy())
    assert [ax.get_title() for ax in axes] == ["Intercept", "Days"]
    for j, ax in enumerate(axes):
        x, y = points(ax)
        np.testing.assert_allclose(x, modes.iloc[order, j])
        np.testing.assert_allclose(y, np.arange(18))
        margin = 1.6448536 * np.sqrt(cov[order, j, j])
        np.testing.assert_allclose(
            segments(ax)[:, :, 0], np.column_stack([x - margin, x + margin]), rtol=1e-6
        )
        assert "90 %" in ax.get_xlabel()
    assert [t.get_text() for t in axes[0].get_yticklabels()] == list(modes.index[order])
    assert axes[0].get_ylabel() == "Subject" and axes[1].get_ylabel() == ""


def test_a_caterpillar_is_sorted_as_asked():
    fit = fits.sleep()
    modes = fit.ranef()["Subject"]
    x, _ = points(fit.plot.ranef(column="Days", sort="Days"))
    np.testing.assert_allclose(x, np.sort(modes["Days"]))
    ax = fit.plot.ranef(column="Intercept", sort=False)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(modes.index[::-1])


def test_many_levels_are_counted_and_not_named():
    ax = fits.radon().plot.ranef()
    assert ax.get_ylabel() == "county (85 levels)" and len(ax.get_yticks()) == 0
    assert len(segments(ax)) == 85


def test_each_grouping_factor_has_a_panel():
    axes = fits.ticks().plot.ranef()
    assert [ax.get_title() for ax in axes] == ["Intercept, BROOD", "Intercept, LOCATION"]
    assert fits.ticks().plot.ranef("LOCATION").get_title() == "Intercept, LOCATION"


def test_long_names_are_shortened():
    data = fits.table()
    names = np.array([f"a level with a rather long name, number {i}" for i in range(20)])
    fit = fits.quiet("y ~ x + (1 | g)", data.assign(g=names[data.g]))
    labels = [t.get_text() for t in fit.plot.ranef().get_yticklabels()]
    assert (
        all(len(label) <= 28 and label.endswith(tuple("0123456789")) for label in labels)
        and len(set(labels)) == 20
    )


def test_standardised_effects_have_the_variance_that_the_model_gives_them():
    """Over simulated data the standardised modes have variance one, few rows per level or many."""
    rng = np.random.default_rng(8)
    data = fits.table(n=300, levels=30)
    data["g"] = np.sort(np.minimum(rng.geometric(0.08, 300) - 1, 29))
    fit = fits.quiet("y ~ x + (1 | g)", data)
    y = fit.simulate(200, rng=2)
    control = lmm.Control(evaluate_only=True)
    z = [
        standardised(
            fit.update(data=data.assign(y=y.iloc[:, i]), start=fit.theta, control=control), 0
        )[:, 0]
        for i in range(60)
    ]
    rms = np.sqrt(np.mean(np.square(z), axis=0))
    assert np.mean(rms) == pytest.approx(1.0, abs=0.06) and rms.min() > 0.7 and rms.max() < 1.3


def test_the_quantile_plot_of_effects_draws_them_in_order():
    fit = fits.sleep()
    axes = fit.plot.ranef_qq()
    for j, ax in enumerate(axes):
        x, y = points(ax)
        np.testing.assert_allclose(y, np.sort(standardised(fit, 0)[:, j]))
        assert (np.diff(x) > 0).all() and x.sum() == pytest.approx(0.0, abs=1e-9)


def test_effects_outside_the_band_are_named():
    data = fits.table()
    data.loc[data.g == 7, "y"] += 15.0
    ax = fits.quiet("y ~ x + (1 | g)", data).plot.ranef_qq()
    assert ax.texts[0].get_text() == "7"
    assert not fits.quiet("y ~ x + (1 | g)", fits.table()).plot.ranef_qq().texts


def test_a_variance_of_zero_is_said_and_not_drawn():
    fit = fits.quiet("Yield ~ 1 + (1 | Batch)", lmm.datasets.load("Dyestuff2"))
    assert "zero" in fit.plot.ranef_qq().texts[0].get_text()
    x, _ = points(fit.plot.ranef())
    np.testing.assert_allclose(x, 0.0, atol=1e-12)
    fit.plot.shrinkage()


def test_shrinkage_goes_from_least_squares_by_subject_to_the_models_coefficients():
    fit = fits.sleep()
    ax = fit.plot.shrinkage()
    data = lmm.datasets.load("sleepstudy")
    own = np.array(
        [np.polyfit(rows.Days, rows.Reaction, 1)[::-1] for _, rows in data.groupby("Subject")]
    )
    np.testing.assert_allclose(np.column_stack(points(ax, "its rows alone")), own, rtol=1e-9)
    np.testing.assert_allclose(
        np.column_stack(points(ax, "model")), fit.coef()["Subject"], rtol=1e-9
    )
    np.testing.assert_allclose(np.column_stack(points(ax, "population")), [fit.fixef()])
    arrows = ax.collections[0]
    np.testing.assert_allclose(
        np.column_stack([arrows.U, arrows.V]), fit.coef()["Subject"] - own, rtol=1e-7, atol=1e-7
    )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Intercept", "Days")


def test_shrinkage_of_intercepts_is_a_line_per_level():
    fit = fits.radon()
    ax = fit.plot.shrinkage()
    x, _ = points(ax, "model")
    np.testing.assert_allclose(x, np.sort(fit.coef()["county"]["Intercept"]))
    left = lmm.datasets.load("radon")
    left = (
        left.assign(rest=left.log_radon - fit.fixef()["floor"] * left.floor)
        .groupby("county")["rest"]
        .mean()
    )
    x, _ = points(ax, "its rows alone")
    np.testing.assert_allclose(np.sort(x), np.sort(left))


def test_shrinkage_takes_columns_by_name():
    ax = fits.machines().plot.shrinkage(x="Machine[T.C]", y="Machine[T.B]")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Machine[T.C]", "Machine[T.B]")
    with pytest.raises(lmm.ArgumentError, match="x and y"):
        fits.machines().plot.shrinkage(x="Intercept", y="Intercept")


def test_shrinkage_of_counts_says_which_levels_have_nothing_to_say():
    fit = fits.ticks()
    ax = fit.plot.shrinkage("BROOD")
    empty = lmm.datasets.load("grouseticks").groupby("BROOD")["TICKS"].sum().eq(0).sum()
    assert f"{empty} of 118 levels" in ax.get_title() and "log scale" in ax.get_xlabel()


def test_coefficients_are_drawn_with_normal_intervals():
    fit = fits.herds()
    ax = fit.plot.coefficients(level=0.8)
    x, y = points(ax)
    np.testing.assert_allclose(x, fit.params.iloc[1:])
    margin = 1.2815516 * fit.bse.iloc[1:]
    np.testing.assert_allclose(
        segments(ax)[:, :, 0],
        np.column_stack([fit.params.iloc[1:] - margin, fit.params.iloc[1:] + margin]),
        rtol=1e-6,
    )
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "period[T.2]",
        "period[T.3]",
        "period[T.4]",
    ] and "logit" in ax.get_xlabel()
    assert len(points(fit.plot.coefficients(intercept=True))[0]) == 4


def test_axes_go_in_and_come_out():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2)
    out = fits.sleep().plot.ranef(ax=axes)
    assert list(out) == list(axes) and len(plt.get_fignums()) == 1
    with pytest.raises(lmm.ArgumentError, match="ax must be 2"):
        fits.sleep().plot.ranef(ax=axes[0])
    assert handed_back([axes[0]]) is axes[0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p: p.ranef("Subjct"), "Did you mean 'Subject'"),
        (lambda p: p.ranef(column="Day"), "Did you mean 'Days'"),
        (lambda p: p.ranef(sort="Dys"), "Did you mean 'Days'"),
        (lambda p: p.ranef(level=95), "between 0 and 1"),
        (lambda p: p.shrinkage(x="Hours"), "'Intercept', 'Days'"),
        (lambda p: p.qq(nsim=3), "20 or more"),
        (lambda p: p.qq(bands="normal"), "'simulated'"),
        (lambda p: p.predictions("Dys"), "Did you mean 'Days'"),
        (lambda p: p.by_group(levels=["999"]), "'999'"),
        (lambda p: p.residuals("pearsn"), "Did you mean 'pearson'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, message):
    with pytest.raises(lmm.ArgumentError, match=message):
        call(fits.sleep().plot)
