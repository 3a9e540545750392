"""Structured residuals of rows in files: the columns that the model uses are read into memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.model.marginal import clusters
from lmm.stream import whole_rows


@pytest.fixture(scope="module")
def fev() -> pd.DataFrame:
    data = lmm.datasets.load("fev")
    return data.sample(frac=1.0, random_state=1).reset_index(drop=True)  # subjects in many chunks


@pytest.fixture(scope="module")
def path(fev: pd.DataFrame, tmp_path_factory: Any) -> Path:
    path = Path(tmp_path_factory.mktemp("files")) / "fev.parquet"
    fev.assign(left="never read").to_parquet(path, row_group_size=50)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"residual": "us(AVISIT | USUBJID)", "weights": "WEIGHT"},
        {"residual": "ou(VISITN | USUBJID)", "subset": "VISITN > 1"},
        {"dispformula": "~ AVISIT + offset(VISITN / 10)"},
    ],
)
def test_a_file_gives_the_fit_of_the_table(
    fev: pd.DataFrame, path: Path, options: dict[str, Any]
) -> None:
    formula = "FEV1 ~ RACE + ARMCD * AVISIT"
    expected = lmm.lmer(formula, fev, **options)
    for data in (path, lmm.Source(path, chunk=37)):
        fit = lmm.lmer(formula, data, **options)
        assert fit.nobs == expected.nobs
        assert fit.llf == pytest.approx(expected.llf, abs=1e-8)
        tables = [own.coef_table(ddf="kenward_roger") for own in (fit, expected)]
        np.testing.assert_allclose(*tables, rtol=1e-6)
    assert "left" not in fit.design.frame.table
    again = fit.update("FEV1 ~ ARMCD")
    assert again.llf == pytest.approx(expected.update("FEV1 ~ ARMCD").llf, abs=1e-8)


def test_what_cannot_be_read_is_said(path: Path, monkeypatch: Any) -> None:
    with pytest.raises(lmm.errors.LmmError, match="FEV2"):
        lmm.lmer("FEV2 ~ ARMCD", path, residual="us(AVISIT | USUBJID)")
    monkeypatch.setattr(whole_rows, "MOST_MEMORY", 1000)
    with pytest.raises(
        lmm.CapacityError,
        match="4 columns of 800 rows.*need the rows in memory|need the rows in memory.*4 columns of 800",
    ):
        lmm.lmer("FEV1 ~ ARMCD", path, residual="us(AVISIT | USUBJID)")


def test_triangles_of_pieces_have_the_products_of_all_lines(monkeypatch: Any) -> None:
    w = np.random.default_rng(1).normal(size=(1000, 3))
    rows = np.arange(1000).reshape(500, 2)
    whole = clusters._root(w, rows).reshape(-1, 6)
    monkeypatch.setattr(clusters, "BLOCK", 1)
    pieces = clusters._root(w, rows).reshape(-1, 6)
    lines = w.reshape(500, 6)
    for root in (whole, pieces):
        np.testing.assert_allclose(root.T @ root, lines.T @ lines, rtol=1e-12, atol=1e-10)
    assert len(pieces) == 6
