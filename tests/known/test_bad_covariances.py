"""What can be wrong with ``covariance=``, each with an error of ours that names the grouping factor and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import lmm
from lmm.known import given_covariance
from tests.known.matrices import LEVELS, data, kinship

K = kinship()


def changed(i: int, j: int, value: float, both: bool = True) -> pd.DataFrame:
    out = K.copy()
    out.iloc[i, j] = value
    if both:
        out.iloc[j, i] = value
    return out


def relabelled(frame: pd.DataFrame, index: list[str], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(frame.to_numpy(), index, columns)


TWICE = ["a01", *LEVELS[1:]]
BAD: dict[str, tuple[Any, str]] = {
    "no labels": (K.to_numpy(), r"matrix without labels.*lmm.KnownCovariance\(K, levels\)"),
    "sparse without labels": (sp.eye_array(24), "matrix without labels"),
    "a number": (3.0, "must be a DataFrame"),
    "no symmetry": (changed(0, 1, 9.0, both=False), "not symmetric: between 'a00' and 'a01'"),
    "indefinite": (changed(0, 1, 9.0), r"smallest eigenvalue is -8\.\d"),
    "missing": (changed(2, 3, np.nan), "2 entries of K are missing or infinite"),
    "lost levels": (K.iloc[2:, 2:], "no row for 2 levels of id in the data: 'a00', 'a01'"),
    "labels twice": (relabelled(K, TWICE, TWICE), "labels more than once: 'a01'"),
    "other columns": (relabelled(K, LEVELS, ["b", *LEVELS[1:]]), "index and columns must have"),
    "more rows": (K.iloc[:, 1:], "24 rows and 23 columns"),
    "text": (K.astype(str) + "a", "must be a matrix of numbers"),
    "not square": (lmm.KnownCovariance(np.ones((2, 3)), ["a", "b"]), r"shape \(2, 3\)"),
    "too few labels": (lmm.KnownCovariance(K.to_numpy(), LEVELS[:4]), "4 levels for a matrix of 24"),
    "no list": (lmm.KnownCovariance(K.to_numpy(), 3), "must be the labels of the rows"),
    "missing labels": (lmm.KnownCovariance(np.eye(2), ["a", None]), "has missing labels"),
    "improper": (
        lmm.Precision(np.eye(24) - np.ones((24, 24)) / 24.0, LEVELS),
        "Q is singular",
    ),
    "no precision": (lmm.Precision(changed(0, 1, 9.0), LEVELS), "Q is no covariance"),
    "lopsided": (lmm.Precision(changed(0, 1, 9.0, both=False), LEVELS), "Q is not symmetric"),
    "no factor": (lmm.Factor(np.zeros((24, 2)), LEVELS), "L is zero in every entry"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_covariance_is_refused(name: str) -> None:
    covariance, message = BAD[name]
    with pytest.raises(lmm.ArgumentError, match=rf"covariance\['id'\].*{message}"):
        lmm.lmer("y ~ x + (1|id)", data(), covariance={"id": covariance})


def test_groups_that_the_formula_does_not_have() -> None:
    with pytest.raises(lmm.ArgumentError, match=r"no grouping factor 'Id'; it has id.*'id'"):
        lmm.lmer("y ~ x + (1|id)", data(), covariance={"Id": K})
    with pytest.raises(lmm.ArgumentError, match="covariance.* must be a mapping"):
        lmm.lmer("y ~ x + (1|id)", data(), covariance=K)  # type: ignore[arg-type]


FITS: dict[str, tuple[Callable[..., object], dict[str, Any], str]] = {
    "method": (lmm.lmer, {"method": "em"}, "not for"),
    "residual": (lmm.lmer, {"residual": "diag(g)"}, "residual= and covariance= together"),
    "quadrature": (lmm.glmer, {"family": "poisson", "nAGQ": 5}, "use nAGQ=1"),
    "second order": (lmm.glmer, {"family": "poisson", "nAGQ": "laplace2"}, "use nAGQ=1"),
    "dispersion": (lmm.lmer, {"dispformula": "~ x"}, "dispformula= and covariance= together"),
    "zeros": (lmm.glmer, {"family": "poisson", "ziformula": "~ x"}, "and covariance= together"),
    "generalized method": (lmm.glmer, {"family": "poisson", "method": "pql"}, "not for"),
}


@pytest.mark.parametrize("name", FITS)
def test_methods_that_have_no_place_for_it(name: str) -> None:
    fit, arguments, message = FITS[name]
    with pytest.raises(lmm.ArgumentError, match=message):
        fit("count ~ x + (1|id)", data(), covariance={"id": K}, **arguments)


def test_rows_in_chunks(tmp_path) -> None:
    data().to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(lmm.ArgumentError, match="covariance= needs the rows in memory"):
        lmm.lmer("y ~ x + (1|id)", str(tmp_path / "rows.parquet"), covariance={"id": K})


def test_sizes(monkeypatch) -> None:
    monkeypatch.setattr(given_covariance, "DENSE_LIMIT", 20)
    with pytest.raises(lmm.CapacityError, match="has 24 levels.*stops at 20"):
        lmm.lmer("y ~ x + (1|id)", data(), covariance={"id": K})
    monkeypatch.undo()
    monkeypatch.setattr("lmm.linalg.joint_elimination.DENSE_EFFECTS", 40)
    with pytest.raises(lmm.CapacityError, match="24 levels x 2 columns.*48 effects.*stops at 40"):
        lmm.lmer("y ~ x + (x|id)", data(), covariance={"id": K})
