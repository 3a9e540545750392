"""Pictures of profiles, bootstrap and influence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import lmm
from lmm.plots.profile_pictures import Traces, contour
from tests.plots import fits
from tests.plots.test_effects import segments

REGIONS = json.loads(
    (Path(__file__).parents[1] / "reference" / "profile_contours.json").read_text()
)


def test_zeta_is_drawn_over_each_parameter_with_its_intervals():
    fit, found = fits.sleep(), fits.profile()
    axes = fit.plot.profile(found)
    assert [ax.get_title() for ax in axes] == list(found.parameters)
    for name, ax in zip(found.parameters, axes, strict=True):
        x, zeta = ax.lines[0].get_data()
        np.testing.assert_allclose(found.value(name, zeta), x)
        ends = np.array([c.get_segments()[0] for c in ax.collections])
        for level in (0.5, 0.8, 0.9, 0.95, 0.99):
            limits = found.confint(level).loc[name]
            for limit in limits:
                assert np.abs(ends[:, 1, 0] - limit).min() < 1e-6 * max(1.0, abs(limit))


def test_absolute_zeta_has_bars():
    ax = fits.sleep().plot.profile(fits.profile(), "Days", absolute=True)
    assert ax.get_ylabel() == "|ζ|" and ax.lines[0].get_ydata().min() >= 0.0
    assert [t.get_text() for t in ax.texts] == ["50 %", "80 %", "90 %", "95 %", "99 %"]


def test_pairs_are_a_square_with_names_on_the_diagonal():
    found = fits.profile()
    axes = fits.sleep().plot.profile_pairs(found, ["sigma", "Intercept", "Days"])
    assert axes.shape == (3, 3)
    assert [axes[i, i].texts[0].get_text() for i in range(3)] == ["sigma", "Intercept", "Days"]
    regions = [line for line in axes[2, 1].lines if line.get_label() == "95 %"]
    x, y = regions[0].get_data()
    limits = found.confint(0.95)
    assert x.min() < limits.loc["Intercept", "lower"] < limits.loc["Intercept", "upper"] < x.max()
    assert y.min() < limits.loc["Days", "lower"] < limits.loc["Days", "upper"] < y.max()
    inner = np.hypot(
        *next(line for line in axes[1, 2].lines if line.get_label() == "50 %").get_data()
    )
    assert inner == pytest.approx(1.1774, rel=0.2)  # on the scale of zeta


@pytest.mark.parametrize("record", REGIONS, ids=lambda r: " and ".join(r["pair"]))
def test_joint_regions_are_those_of_lme4(record):
    """Both interpolate between the traces; lme4's have fewer points and its own spline, hence one per cent of the radius."""
    names = [
        name.replace("(Intercept)", "Intercept") if name == "(Intercept)" else name
        for name in record["pair"]
    ]
    traces = Traces(fits.profile(), names)
    for radius, theirs in zip(record["levels"], record["points"], strict=True):
        x, y = contour(traces.along(0, 1), traces.along(1, 0), radius)
        fine = np.column_stack(
            [np.interp(np.linspace(0, 1, 4_001), np.linspace(0, 1, len(v)), v) for v in (x, y)]
        )
        other = np.array(theirs)[:, ::-1]
        distance = np.sqrt(((other[:, None] - fine) ** 2).sum(axis=2)).min(axis=1)
        assert distance.max() < 0.01 * radius


def test_regions_beyond_a_profile_are_left_out():
    short = fits.sleep().profile(["sigma", "Days"], level=0.9)
    axes = fits.sleep().plot.profile_pairs(short)
    assert {line.get_label() for line in axes[1, 0].lines if "%" in line.get_label()} == {"50 %"}
    with pytest.raises(lmm.ArgumentError, match="two parameters"):
        fits.sleep().plot.profile_pairs(short, ["sigma"])
    with pytest.raises(lmm.ArgumentError, match="too short"):
        fits.sleep().plot.profile_pairs(fits.sleep().profile(["sigma", "Days"], level=0.6))


def test_replicates_are_counted_with_the_estimate_and_an_interval():
    fit = fits.sleep()
    found = fit.bootstrap(60, rng=1)
    axes = fit.plot.bootstrap(found, ["sigma", "Days"], level=0.8, type="basic")
    limits = found.confint(0.8, "basic")
    for name, ax in zip(["sigma", "Days"], axes, strict=True):
        lines = {
            label: [line.get_xdata()[0] for line in ax.lines if line.get_label() == label]
            for label in ("_limit", "_estimate")
        }
        np.testing.assert_allclose(lines["_limit"], limits.loc[name])
        np.testing.assert_allclose(lines["_estimate"], [found.estimates[name]])
        area = sum(bar.get_height() * bar.get_width() for bar in ax.patches)
        assert area == pytest.approx(1.0)
    assert "60 parametric" in axes[0].figure._suptitle.get_text()


def test_influence_names_the_largest():
    fit = fits.sleep()
    found = fit.influence()
    axes = fit.plot.influence(found, labels=2)
    np.testing.assert_allclose(segments(axes[0])[:, 1, 1], found.cooks_distance)
    largest = found.cooks_distance.sort_values(ascending=False).index[:2]
    assert [t.get_text() for t in axes[0].texts] == [str(name) for name in largest]
    marks = [line for line in axes[1].lines if line.get_marker() == "|"]
    for line, name in zip(marks, found.dfbetas.columns, strict=True):
        np.testing.assert_allclose(line.get_xdata(), found.dfbetas[name])
    assert len(axes[1].texts) == 2 and "18 levels of Subject" in axes[0].get_xlabel()


def test_a_region_ends_where_a_variance_is_zero():
    fit = fits.quiet("Yield ~ 1 + (1 | Batch)", lmm.datasets.load("Dyestuff2"), REML=False)
    axes = fit.plot.profile_pairs()
    for line in axes[2, 0].lines:
        assert line.get_xdata().min() >= 0.0
    assert (
        min(line.get_xdata().min() for line in axes[0, 1].lines if "%" in line.get_label()) < -2.0
    )  # sigma may be smaller
    assert min(
        line.get_ydata().min() for line in axes[0, 1].lines if "%" in line.get_label()
    ) == pytest.approx(0.0, abs=1e-6)
