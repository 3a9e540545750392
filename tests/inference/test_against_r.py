"""Tables of lmerTest and pbkrtest, held-back designs among them: split plots, nested, crossed, three-way, empty cells, singular."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.inference.reference import METHODS, RECORDS, fit_of, table
from tests.reference_data import plain

pytestmark = pytest.mark.filterwarnings("ignore::lmm.errors.LmmWarning")
#: lme4's optimiser stops where a variance parameter is off by 1e-3 of its standard error: what that leaves in figures that
#: depend on it to first order (degrees of freedom) and to second (tests)
LOOSE, TIGHT = 5e-4, 5e-5
CASES = [(name, method) for name in RECORDS for method in METHODS if method in RECORDS[name]]
each = pytest.mark.parametrize(("name", "method"), CASES)
#: here lmerTest takes A to contain B:x, which shares no variable with it, and tests B:x before A
ANOTHER_QUESTION = {("no_intercept", 2)}
#: type 2 tests are written with treatment contrasts whatever the coding: those of lmerTest with that coding
WRITTEN = {("cake_sum", 2): "cake_unbalanced"}


@each
def test_coefficients(name: str, method: str) -> None:
    theirs: Any = table(RECORDS[name][method]["coef"])
    mine = fit_of(name).coef_table(ddf=method).dropna()
    assert len(mine) == len(theirs)
    assert mine["estimate"].to_numpy() == pytest.approx(
        theirs["Estimate"].to_numpy(), rel=LOOSE, abs=LOOSE * mine["std_error"].max()
    )
    assert mine["std_error"].to_numpy() == pytest.approx(theirs["Std. Error"].to_numpy(), rel=LOOSE)
    assert mine["df"].to_numpy() == pytest.approx(theirs["df"].to_numpy(), rel=LOOSE)
    assert mine["p_value"].to_numpy() == pytest.approx(
        theirs["Pr(>|t|)"].to_numpy(), rel=50 * LOOSE, abs=1e-12
    )


@each
def test_joint_hypothesis(name: str, method: str) -> None:
    fit = fit_of(name)
    p = len(fit.design.names)
    L = np.eye(p)[1:] if p > 1 else np.eye(1)
    mine = fit.contrast(
        pd.DataFrame(L, columns=list(fit.design.names)), ddf=method, joint=True
    ).iloc[0]
    _, _, num_df, den_df, f, _ = RECORDS[name][method]["joint"]
    assert mine["num_df"] == num_df
    assert mine["f_value"] == pytest.approx(f, rel=TIGHT)
    assert mine["den_df"] == pytest.approx(den_df, rel=LOOSE)


@pytest.mark.parametrize("name", [name for name in RECORDS if "kenward_roger" in RECORDS[name]])
def test_adjusted_covariance(name: str) -> None:
    theirs = np.array(RECORDS[name]["kenward_roger"]["vcov"])
    mine = fit_of(name).vcov(ddf="Kenward-Roger").to_numpy()
    assert mine == pytest.approx(theirs, rel=LOOSE, abs=LOOSE * np.abs(theirs).max())


@pytest.mark.parametrize("type", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "method"), [case for case in CASES if "anova" in RECORDS[case[0]][case[1]]]
)
def test_analysis_of_variance(name: str, method: str, type: int) -> None:
    theirs = table(RECORDS[WRITTEN.get((name, type), name)][method]["anova"][str(type)])
    mine = fit_of(name).anova(type=type, ddf=method)
    mine.index = pd.Index([plain(label) for label in mine.index])
    theirs.index = pd.Index([plain(label) for label in theirs.index])
    assert set(mine.index) == set(theirs.index)
    if (name, type) in ANOTHER_QUESTION:
        mine, theirs = mine.loc[["A"]], theirs.loc[["A"]]
    mine = mine.loc[theirs.index]
    assert mine["num_df"].tolist() == theirs["NumDF"].fillna(0).tolist()
    for ours, column, rel in (
        ("f_value", "F value", TIGHT),
        ("den_df", "DenDF", LOOSE),
        ("sum_sq", "Sum Sq", LOOSE),
        ("mean_sq", "Mean Sq", LOOSE),
    ):
        assert mine[ours].to_numpy() == pytest.approx(
            theirs[column].to_numpy(), rel=rel, nan_ok=True
        )
