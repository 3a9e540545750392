"""One-sided formulas of further linear predictors."""

from __future__ import annotations

import numpy as np
import pytest

import lmm
from lmm.design import build_design
from lmm.errors import FormulaError, PredictionError
from lmm.formula import parse
from lmm.formula.text.predictor_formula import parse_predictor, with_component


def test_a_predictor_formula_is_read() -> None:
    found = parse_predictor("~ a * x + offset(z) + (1|g)", "dispformula")
    assert (found.fixed, found.offsets, found.bars[0].group) == ("a * x", ("z",), "g")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "begins with '~'"),
        ("y ~ x", "without a response"),
        ("~ .", "'.' stands for none"),
        (3, "not int"),
        ("~ (1|", "never closed"),
    ],
)
def test_what_cannot_be_read_is_named(text: object, message: str) -> None:
    with pytest.raises(FormulaError, match=message):
        parse_predictor(text, "dispformula")


def test_a_further_predictor_has_columns_and_offset_on_the_same_rows_and_on_new_ones() -> None:
    data = lmm.datasets.load("sleepstudy").assign(z=lambda d: d["Days"] / 10.0)
    data.loc[3, "z"] = np.nan
    component = parse_predictor("~ poly(Days, 2) + offset(z)", "dispformula")
    model = with_component(parse("Reaction ~ Days + (1|Subject)"), "disp", component)
    design = build_design(model, data)
    predictor = design.predictors[1]
    assert (design.n, predictor.name, len(predictor.names)) == (179, "disp", 3)
    np.testing.assert_allclose(predictor.offset, data["z"].dropna())
    X, offset = design.frame.new_component(data, "disp")
    np.testing.assert_allclose(np.delete(X, 3, 0), predictor.X, atol=1e-12)
    assert np.isnan(offset[3]) and np.isfinite(X).all()
    with pytest.raises(PredictionError, match="Days"):
        design.frame.new_component(data[["z"]], "disp")


def test_dependent_columns_of_a_further_predictor_are_dropped_with_a_warning() -> None:
    data = lmm.datasets.load("sleepstudy").assign(twice=lambda d: 2 * d["Days"])
    component = parse_predictor("~ Days + twice", "dispformula")
    model = with_component(parse("Reaction ~ Days + (1|Subject)"), "disp", component)
    with pytest.warns(lmm.errors.RankWarning, match="of disp is rank deficient.*twice"):
        design = build_design(model, data)
    assert design.predictors[1].dropped == ("twice",)
