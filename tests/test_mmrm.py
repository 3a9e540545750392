"""mmrm(): its formula, its names, and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import lmm


@pytest.fixture(scope="module")
def fev() -> pd.DataFrame:
    return lmm.datasets.load("fev")


@pytest.mark.parametrize(
    ("formula", "fixed", "residual"),
    [
        ("FEV1 ~ ARMCD + us(AVISIT | USUBJID)", "FEV1 ~ ARMCD", "us(AVISIT | USUBJID)"),
        ("FEV1 ~ ar1h(AVISIT | USUBJID) + ARMCD", "FEV1 ~ ARMCD", "hetar1(AVISIT | USUBJID)"),
        ("FEV1 ~ csh(AVISIT | ARMCD / USUBJID)", "FEV1 ~ 1", "cs(AVISIT | ARMCD/USUBJID)"),
        ("FEV1 ~ 0 + AVISIT + un(AVISIT | USUBJID)", "FEV1 ~ 0 + AVISIT", "us(AVISIT | USUBJID)"),
    ],
)
def test_it_is_lmer_with_a_residual_structure(
    fev: pd.DataFrame, formula: str, fixed: str, residual: str
) -> None:
    one, other = lmm.mmrm(formula, fev), lmm.lmer(fixed, fev, residual=residual)
    assert one.llf == pytest.approx(other.llf, abs=1e-8)
    assert one.fixef().equals(other.fixef())
    np.testing.assert_array_equal(
        one.coef_table()["df"], other.coef_table(ddf="kenward_roger")["df"]
    )


def test_updates_keep_structure_and_degrees_of_freedom(fev: pd.DataFrame) -> None:
    fit = lmm.mmrm("FEV1 ~ RACE + ARMCD + us(AVISIT | USUBJID)", fev, ddf="satterthwaite")
    less = fit.update("~ . - RACE")
    direct = lmm.lmer("FEV1 ~ ARMCD", fev, residual="us(AVISIT | USUBJID)")
    assert less.llf == pytest.approx(direct.llf, abs=1e-8)
    np.testing.assert_allclose(
        less.coef_table()["df"], direct.coef_table(ddf="satterthwaite")["df"], rtol=1e-8
    )


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (3, "a formula is a string"),
        ("FEV1 ~ ARMCD", "has no covariance structure"),
        ("FEV1 ~ us(AVISIT | USUBJID) + cs(AVISIT | USUBJID)", "more than one covariance"),
        ("FEV1 ~ ARMCD + uns(AVISIT | USUBJID)", "'uns' is not a covariance structure"),
        ("FEV1 ~ ARMCD * us(AVISIT | USUBJID)", "can only be added"),
        ("FEV1 ~ ARMCD + us(VISIT | USUBJID)", "VISIT"),
    ],
)
def test_what_cannot_be_read_is_said(fev: pd.DataFrame, formula: object, message: str) -> None:
    with pytest.raises(lmm.LmmError, match=message):
        lmm.mmrm(formula, fev)  # type: ignore[arg-type]
