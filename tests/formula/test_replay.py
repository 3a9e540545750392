"""New data: the same columns again, with the knots, means and levels of the fit."""

import pickle
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

from lmm.design import build_design
from lmm.errors import FormulaError, LmmError, PredictionError, RankWarning
from lmm.formula import Given


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(21)
    n = 150
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "z": rng.uniform(1, 3, n),
            "g": rng.integers(1, 11, n),
            "h": rng.choice(list("abc"), n),
            "f": pd.Categorical(rng.choice(["lo", "mid", "hi"], n), categories=["lo", "mid", "hi"]),
            "a.b": rng.normal(size=n),
        }
    )


RIGHT = [
    "scale(x) + center(z)",
    "poly(x, 2) + bs(z, df=4)",
    "ns(x, df=3) + I(x - mean(x))",
    "cut(x, 4) + factor(g)",
    "f*scale(x) + C(h, contr.sum)",
    "h:scale(z) + relevel(f, 'hi')",
    "log(z) + ifelse(x > 0, x, 0) + a.b + abs(a.b)",
    "interaction(f, h)",
    "0 + f + x:h",
]


@pytest.mark.parametrize("right", RIGHT)
def test_few_rows_give_the_columns_they_had(data, right):
    slopes = "scale(x)" if "factor(g)" in right else right
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)  # mean(x) makes dependent columns
        frame = build_design(f"y ~ {right} + ({slopes}||g) + (1|h/f)", data).frame
    rows = [3, 77, 140, 8]
    X, terms = frame.new_X(data), frame.new_terms(data)
    few = data.iloc[rows]
    np.testing.assert_allclose(frame.new_X(few), X[rows], rtol=1e-12, atol=1e-12)
    for one, whole in zip(frame.new_terms(few), terms, strict=True):
        np.testing.assert_array_equal(one.codes, whole.codes[rows])
        np.testing.assert_allclose(one.values, whole.values[rows], rtol=1e-12, atol=1e-12)


def test_replay_on_the_fitted_rows_is_the_design(data):
    design = build_design("y ~ scale(x)*f + offset(z) + (scale(x)|g) + (f|h) + (1|g:h)", data)
    np.testing.assert_array_equal(design.frame.new_X(data), design.X)
    np.testing.assert_array_equal(design.frame.new_offset(data), design.offset)
    for term, new in zip(design.terms, design.frame.new_terms(data), strict=True):
        assert new.group == term.group and new.complete.all()
        np.testing.assert_array_equal(new.codes, term.codes)
        np.testing.assert_array_equal(new.values, term.values)


def test_dropped_columns_are_still_replayed(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        design = build_design("y ~ x + I(2*x) + (1|g)", data)
    assert design.frame.all_names == ("Intercept", "x", "I(2 * x)")
    assert design.frame.new_X(data).shape == (150, 3)


def test_new_categories_of_the_type_do_not_matter(data):
    frame = build_design("y ~ f + (f|g)", data).frame
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for values in (
            ["hi", "lo"],
            pd.Categorical(["hi", "lo"]),
            pd.Categorical(["hi", "lo"], categories=["hi", "extra", "lo"]),
        ):
            X = frame.new_X(pd.DataFrame({"f": values}))
            np.testing.assert_array_equal(X, [[1, 0, 1], [1, 0, 0]])


def test_unseen_level_of_a_predictor(data):
    frame = build_design("y ~ f + C(h) + (h|g)", data).frame
    with pytest.raises(PredictionError, match="f has levels .* never saw: 'extra'"):
        frame.new_X(pd.DataFrame({"f": ["lo", "extra"], "h": ["a", "b"]}))
    with pytest.raises(PredictionError, match=r"C\(h\) has levels .* never saw: 'q'"):
        frame.new_X(pd.DataFrame({"f": ["lo", "mid"], "h": ["a", "q"]}))
    with pytest.raises(PredictionError, match="h has levels"):
        frame.new_terms(pd.DataFrame({"g": [1, 2], "h": ["a", "q"]}))


def test_new_groups_need_permission(data):
    frame = build_design("y ~ x + (x|g)", data).frame
    new = pd.DataFrame({"x": [0.5, 1.5, 2.5], "g": [3, 99, 98]})
    with pytest.raises(
        PredictionError, match="'g' has 2 new levels in newdata: '98', '99'.*allow_new_levels"
    ):
        frame.new_terms(new)
    (term,) = frame.new_terms(new, allow_new_levels=True)
    assert term.codes.tolist() == [2, -1, -1]
    np.testing.assert_array_equal(term.values, [[1, 0.5], [1, 1.5], [1, 2.5]])


def test_many_new_groups_are_not_all_named(data):
    frame = build_design("y ~ (1|g)", data).frame
    with pytest.raises(PredictionError, match=r"90 new levels in newdata: ('\d+', ){6}\.\.\."):
        frame.new_terms(pd.DataFrame({"g": np.arange(1, 101)}))


def test_missing_columns_are_named(data):
    frame = build_design("y ~ x + log(z) + (1|g)", data).frame
    with pytest.raises(PredictionError, match="newdata: columns 'x', 'z' are not in the data"):
        frame.new_X(pd.DataFrame({"g": [1]}))
    with pytest.raises(PredictionError, match="column 'g' is not in the data"):
        frame.new_terms(data.drop(columns="g"))


def test_only_what_is_needed_is_asked_for(data):
    frame = build_design("y ~ x + offset(z) + (1|g) + (x|h)", data).frame
    assert frame.new_X(data[["x"]]).shape == (150, 2)
    assert frame.new_offset(data[["z"]]).shape == (150,)
    h, g = (next(i for i, t in enumerate(frame.terms) if t.group == name) for name in ("h", "g"))
    terms = frame.new_terms(data[["g"]], keep=frame.match_bars("~ (1|g)"))
    assert terms[h] is None and terms[g].codes.shape == (150,)


def test_incomplete_rows_give_nan(data):
    frame = build_design("y ~ scale(x) + offset(z) + (x|g)", data).frame
    new = data.iloc[:4].astype({"g": float})
    new.loc[1, "x"], new.loc[2, "g"], new.loc[3, "z"] = np.nan, np.nan, np.nan
    np.testing.assert_array_equal(
        np.isnan(frame.new_X(new)).any(axis=1), [False, True, False, False]
    )
    (term,) = frame.new_terms(new)
    assert term.complete.tolist() == [True, False, False, True]
    np.testing.assert_array_equal(np.isnan(term.values).any(axis=1), ~term.complete)
    np.testing.assert_array_equal(np.isnan(frame.new_offset(new)), [False, False, False, True])
    np.testing.assert_allclose(frame.new_X(new)[0], frame.new_X(data)[0])


def test_no_complete_row_at_all(data):
    frame = build_design("y ~ scale(x) + f + (x|g)", data).frame
    X = frame.new_X(pd.DataFrame({"x": [np.nan], "f": ["lo"]}))
    assert X.shape == (1, 4) and np.isnan(X).all()


def test_offsets_given_as_arguments(data):
    assert build_design("y ~ (1|g)", data).frame.new_offset(data) is None
    frame = build_design("y ~ offset(x) + (1|g)", data, Given(offset="log(z)")).frame
    np.testing.assert_allclose(frame.new_offset(data), data["x"] + np.log(data["z"]))
    with pytest.raises(PredictionError, match="given as an array"):
        build_design("y ~ (1|g)", data, Given(offset=data["z"])).frame.new_offset(data)


def test_new_data_may_be_another_kind_of_table(data):
    frame = build_design("y ~ scale(x) + h + (x|g)", data).frame
    np.testing.assert_array_equal(
        frame.new_X(pl.from_pandas(data.astype({"f": "str"}))), frame.new_X(data)
    )
    np.testing.assert_array_equal(
        frame.new_X({"x": data["x"].to_numpy(), "h": data["h"].tolist()}), frame.new_X(data)
    )
    with pytest.raises(PredictionError, match="newdata must be a table"):
        frame.new_X(3)


def test_impossible_new_values(data):
    frame = build_design("y ~ log(z) + (1|g)", data).frame
    with pytest.raises(PredictionError, match=r"the term log\(z\) is not a number"):
        frame.new_X(data.assign(z=-1.0))


@pytest.mark.parametrize(
    ("re_form", "kept"),
    [
        (None, {"g": [True, True], "h": [True], "h:g": [True]}),
        (False, {"g": [False, False], "h": [False], "h:g": [False]}),
        ("~0", {"g": [False, False], "h": [False], "h:g": [False]}),
        ("~ (1|g)", {"g": [True, False], "h": [False], "h:g": [False]}),
        ("~ (0 + x|g) + (1|h)", {"g": [False, True], "h": [True], "h:g": [False]}),
        ("~ (x|g/h)", None),
        ("~ (x|g) + (1|h:g)", {"g": [True, True], "h": [False], "h:g": [True]}),
    ],
)
def test_re_form_keeps_columns(data, re_form, kept):
    frame = build_design("y ~ x + (x|g) + (1|h) + (1|h:g)", data).frame
    if kept is None:
        with pytest.raises(FormulaError, match="no random effect of x by h:g; it has 1"):
            frame.match_bars(re_form)
    else:
        assert {
            t.group: mask.tolist()
            for t, mask in zip(frame.terms, frame.match_bars(re_form), strict=True)
        } == kept


def test_re_form_spells_columns_as_the_formula_does(data):
    frame = build_design("y ~ x + (log(a.b^2) + `a.b`|g)", data).frame
    assert frame.match_bars("~ (0 + a.b|g)")[0].tolist() == [False, False, True]
    assert frame.match_bars("~ (log(a.b ^ 2)|g)")[0].tolist() == [True, True, False]


def test_re_form_with_an_unknown_term(data):
    frame = build_design("y ~ x + (x|g)", data).frame
    with pytest.raises(FormulaError, match="no random term for 'gg'. Did you mean 'g'"):
        frame.match_bars("~ (1|gg)")


def test_pickled_frames_replay_and_leave_lambdas_behind(data):
    design = build_design(
        "y ~ scale(x) + twice(z) + (1|g)",
        data,
        Given(context={"twice": lambda v: 2 * v, "unused": open}),
    )
    again = pickle.loads(pickle.dumps(design.frame))
    assert set(design.frame.context) == {"twice"} and not again.context
    with pytest.raises(LmmError, match="twice"):
        again.new_X(data)
    frame = build_design("y ~ scale(x) + poly(z, 2) + f + (scale(x)|g)", data).frame
    again = pickle.loads(pickle.dumps(frame))
    np.testing.assert_array_equal(again.new_X(data.iloc[:5]), frame.new_X(data.iloc[:5]))
    np.testing.assert_array_equal(
        again.new_terms(data.iloc[:5])[0].values, frame.new_terms(data.iloc[:5])[0].values
    )
