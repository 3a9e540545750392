"""Lowess against R's, densities against what they must be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lmm
from lmm.inference.criticism.smoothing import bandwidth, density, lowess

RECORDS = json.loads((Path(__file__).parents[1] / "reference" / "lowess.json").read_text())


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: f"{r['span']:.2g}, {r['iterations']}")
def test_lowess_is_that_of_r(record):
    data = lmm.datasets.load("sleepstudy")
    x = (data.Reaction + 10 * data.Days).to_numpy()
    y = (data.Reaction - 250 - 10 * data.Days).abs().to_numpy()
    at, curve = lowess(x, y, record["span"], record["iterations"], points=len(x))
    expected = dict(zip(np.round(record["x"], 6), record["y"], strict=True))
    assert len(at) == len(expected)
    np.testing.assert_allclose(curve, [expected[v] for v in np.round(at, 6)], rtol=1e-8, atol=1e-8)


def test_lowess_keeps_a_straight_line_and_forgets_an_outlier():
    x = np.linspace(0.0, 1.0, 300)
    y = 2.0 - 3.0 * x
    at, curve = lowess(x, y, points=21)
    assert len(at) == 21
    np.testing.assert_allclose(curve, 2.0 - 3.0 * at, atol=1e-12)
    y[150] += 100.0
    at, robust = lowess(x, y, points=21)
    assert (
        np.abs(robust - (2.0 - 3.0 * at)).max()
        < 1e-6
        < np.abs(lowess(x, y, iterations=0, points=21)[1] - (2.0 - 3.0 * at)).max()
    )


def test_lowess_of_few_distinct_values_is_their_means():
    x = np.repeat([0.0, 1.0], 50)
    y = np.concatenate([np.arange(50.0), np.arange(50.0) + 7.0])
    at, curve = lowess(x, y, span=0.3, iterations=0)
    assert at.tolist() == [0.0, 1.0]
    np.testing.assert_allclose(curve, [24.5, 31.5])


def test_density_integrates_to_one_and_cells_change_little():
    rng = np.random.default_rng(1)
    values = rng.normal(size=5_000)
    at = np.linspace(-6.0, 6.0, 601)
    curve = density(values, at)
    assert np.trapezoid(curve, at) == pytest.approx(1.0, abs=1e-6)
    z = (at[:, None] - values) / bandwidth(values)
    plain = np.exp(-0.5 * z * z).sum(axis=1) / (
        len(values) * bandwidth(values) * np.sqrt(2 * np.pi)
    )
    assert np.abs(curve - plain).max() < 2e-3 * plain.max()


def test_bandwidth_is_silvermans():
    values = np.arange(100.0)
    assert bandwidth(values) == pytest.approx(
        0.9 * min(values.std(ddof=1), 49.5 / 1.34) * 100**-0.2
    )
    assert bandwidth(np.ones(5)) == 1.0
