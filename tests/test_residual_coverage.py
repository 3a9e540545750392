"""The simulation of tests where residuals vary: what it draws and counts, and that the page's claims hold in its results."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks import residual_coverage


@pytest.fixture(scope="module")
def kept() -> pd.DataFrame:
    return pd.DataFrame(json.loads(residual_coverage.RESULT.read_text())["records"])


def test_one_record_per_coefficient_and_method() -> None:
    study = residual_coverage.visits(10, "ar1")
    records = residual_coverage.simulate(study, 2)
    assert len(records) == 2 * len(residual_coverage.TITLES)
    draw = np.array([study.draw(np.random.default_rng(i)) for i in range(4000)])
    first = study.frame.index[study.frame["id"] == 0]
    time = study.frame.loc[first, "time"].to_numpy()
    R = 0.6 ** np.abs(np.subtract.outer(time, time))
    np.testing.assert_allclose(np.cov(draw[:, first].T), R, atol=6 / np.sqrt(4000))


def test_the_page_says_what_was_found(kept: pd.DataFrame) -> None:
    assert set(kept["design"]) == {study.name for study in residual_coverage.designs()}
    error = 1.0 - kept.set_index(["design", "column", "method"])["coverage"]
    wide = error.unstack("method")
    assert (wide["normal"] > wide["kenward_roger"]).all()
    assert wide["normal"].max() > 0.25
    known = wide[wide.index.get_level_values("design") != "us, 10 subjects"]
    assert known["kenward_roger"].between(0.03, 0.07).all()
    failed = kept[kept["failed"] > 0]["design"].unique()
    assert list(failed) == ["us, 10 subjects"]
