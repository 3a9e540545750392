"""Columns of new data in other types than those of the fit mean the same, or are refused by name."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest

import lmm
from lmm.design import build_design
from lmm.errors import LmmWarning, PredictionError
from lmm.formula import Given

LEVELS = [2001, 2002, 2005]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    n = 160
    k = rng.integers(0, 3, n)
    return pd.DataFrame(
        {
            "y": rng.normal(size=n) + k,
            "x": rng.normal(2, 1, n),
            "g": rng.integers(0, 8, n),
            "number": np.array(LEVELS)[k],
            "text": np.array([str(v) for v in LEVELS])[k],
            "category": pd.Categorical(np.array(LEVELS)[k]),
            "words": pd.Categorical(
                np.array(["lo", "mid", "hi"])[k], categories=["lo", "mid", "hi"]
            ),
            "flag": rng.random(n) < 0.5,
        }
    )


SAME = {
    "int": lambda v: np.array(v),
    "int8": lambda v: np.array(v, dtype=np.int16),
    "float": lambda v: np.array(v, dtype=float),
    "object": lambda v: np.array(v, dtype=object),
    "str": lambda v: [str(x) for x in v],
    "categorical": lambda v: pd.Categorical(v),
    "categorical of text": lambda v: pd.Categorical(
        [str(x) for x in v], categories=["x", *(str(x) for x in LEVELS)]
    ),
    "Int64": lambda v: pd.array(v, dtype="Int64"),
    "string": lambda v: pd.array([str(x) for x in v], dtype="string"),
    "arrow": lambda v: pd.array(v, dtype="int64[pyarrow]"),
}


@pytest.mark.parametrize("given", SAME)
@pytest.mark.parametrize(
    "formula",
    [
        "y ~ text + (1|g)",
        "y ~ category + (1|g)",
        "y ~ 0 + category + (1|g)",
        "y ~ category*x + (0 + category|g)",
        "y ~ x + (0 + text||g)",
        "y ~ factor(number) + C(number):x + (1|g)",
        "y ~ relevel(category, ref=2005) + (1|category:g)",
        "y ~ as.numeric(category) + (1|text)",
    ],
)
def test_levels_are_matched_by_their_text(data, formula, given):
    design = build_design(formula, data)
    rows = [0, 1, 2, 5, 9]
    new = data.iloc[rows].reset_index(drop=True)
    other = new.assign(
        **{
            name: SAME[given](new["number"].tolist())
            for name in ("text", "category", "number")
            if name in formula
        }
    )
    np.testing.assert_allclose(design.frame.new_X(other), design.X[rows])
    for one, term in zip(design.frame.new_terms(other), design.terms, strict=True):
        np.testing.assert_array_equal(one.codes, term.codes[rows])
        np.testing.assert_allclose(one.values, term.values[rows])


@pytest.mark.parametrize(
    "reader",
    [
        pl.DataFrame,
        dict,
        lambda d: pl.DataFrame(d).to_arrow(),
        lambda d: pd.DataFrame(d).astype("category"),
    ],
)
def test_readers_do_not_matter(data, reader):
    fit = lmm.lmer("y ~ category + (0 + category|g)", data, control=lmm.Control(max_evaluations=5))
    given = {"category": [2005, 2001], "g": [3, 4]}
    right = fit.predict(pd.DataFrame(given).astype({"category": pd.CategoricalDtype(LEVELS)}))
    np.testing.assert_allclose(fit.predict(reader(given)), right)


def test_contrasts_and_all_that_builds_on_rows(data):
    for settings in ({}, {"contrasts": {"category": "sum"}}):
        fit = lmm.lmer("y ~ category*x + (1|g)", data, **settings)
        new = data.iloc[:7]
        other = new.assign(category=new["category"].astype(int))
        pd.testing.assert_frame_equal(
            fit.predict(other, re_form=False, interval="prediction"),
            fit.predict(new, re_form=False, interval="prediction"),
        )
        means = fit.emmeans("category", at={"category": ["2005", 2001], "x": 0.0})
        right = fit.predict({"category": [2005, 2001], "x": [0.0, 0.0]}, re_form=False)
        np.testing.assert_allclose(means["emmean"], right)


def test_a_family_and_ordinal_categories(data):
    new, same = (
        {"category": [2001, 2005]},
        pd.DataFrame({"category": pd.Categorical([2001, 2005], categories=LEVELS)}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LmmWarning)
        poisson = lmm.glmer("I(y > 1) ~ category + (1|g)", data, family="binomial")
        mixed = data.assign(words=data["words"].sample(frac=1, random_state=0).array)
        ordinal = lmm.glmer("words ~ category + (1|g)", mixed, family="ordinal")
    np.testing.assert_array_equal(
        poisson.predict(new, re_form=False), poisson.predict(same, re_form=False)
    )
    np.testing.assert_array_equal(
        ordinal.predict(new, re_form=False), ordinal.predict(same, re_form=False)
    )


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("words", [1, 2], "words has levels in newdata that the fit never saw: '1', '2'"),
        (
            "words",
            [True, False],
            "words has levels in newdata that the fit never saw: 'False', 'True'",
        ),
        ("words", ["lo", "other"], "words has levels in newdata that the fit never saw: 'other'"),
        (
            "x",
            ["1", "2"],
            "column 'x' was numbers when the model was fitted and is text now; make it numbers",
        ),
        (
            "x",
            pd.Categorical([1, 2]),
            "column 'x' was numbers when the model was fitted and is categories now",
        ),
        (
            "x",
            pd.date_range("2020", periods=2),
            r"column 'x' was numbers when the model was fitted and is datetime64\S* now",
        ),
        (
            "category",
            [2001.5, 2002],
            "category has levels in newdata that the fit never saw: '2001.5'",
        ),
    ],
)
def test_other_types_are_refused_by_name_and_leave_nothing_behind(data, column, values, message):
    frame = build_design("y ~ words + x + category + (words|g)", data).frame
    good = data.iloc[:2]
    before = frame.new_X(good)
    for _ in range(2):
        with pytest.raises(PredictionError, match=message):
            frame.new_X(good.assign(**{column: values}))
    with pytest.raises(PredictionError, match="never saw: 'zz'"):
        frame.new_X(good.assign(words="zz"))
    np.testing.assert_array_equal(frame.new_X(good), before)


@pytest.mark.parametrize(
    "values",
    [
        [1, 0],
        [1.0, 0.0],
        ["True", "False"],
        ["TRUE", "false"],
        pd.array([True, False], dtype="boolean"),
    ],
)
def test_truth_values_have_many_spellings(data, values):
    frame = build_design("y ~ flag*x + (1|g)", data).frame
    right = frame.new_X({"flag": np.array([True, False]), "x": [1.0, 2.0]})
    np.testing.assert_array_equal(frame.new_X({"flag": values, "x": [1.0, 2.0]}), right)
    with pytest.raises(
        PredictionError,
        match="'flag' was true or false when the model was fitted, and 'no' is neither",
    ):
        frame.new_X({"flag": ["no", "yes"], "x": [1.0, 2.0]})


def test_truth_values_for_numbers(data):
    frame = build_design("y ~ bit + (1|g)", data.assign(bit=data["flag"].astype(int))).frame
    np.testing.assert_array_equal(frame.new_X({"bit": np.array([True, False])}), [[1, 1], [1, 0]])


def test_functions_of_levels_remember_those_of_the_fit(data):
    rng = np.random.default_rng(1)
    h = pd.Categorical(rng.choice(list("abcd"), len(data)), categories=list("dcbaz"))
    d = data.assign(h=h, u=rng.choice(["p", "q", "r"], len(data)))
    calls = [
        "as.numeric(h)",
        "as.integer(h)",
        "relevel(h, ref='c')",
        "factor(h)",
        "interaction(h, u)",
        "as.numeric(factor(u))",
    ]
    calls += [
        "dummy(h)",
        "dummy(u, 'q')",
        "as.numeric(relevel(u, ref='r'))",
        "factor(u, levels=['r', 'q', 'p'])",
        "ordered(u)",
    ]
    calls += ["as.character(number)"]
    for call in calls:
        design = build_design(f"y ~ {call} + (1|g)", d)
        for level in "abcd":
            rows = np.flatnonzero(d["h"] == level)
            np.testing.assert_array_equal(
                design.frame.new_X(d.iloc[rows].assign(h=level)), design.X[rows], err_msg=call
            )
    assert build_design("y ~ as.numeric(h) + (1|g)", d).X[:, 1].tolist() == [
        " dcba".index(level) for level in d["h"]
    ]
    for call in ("as.numeric(h)", "dummy(h)", "relevel(h, ref='c')", "factor(h)", "h"):
        with pytest.raises(
            PredictionError, match="h.* has levels in newdata that the fit never saw: 'zz'"
        ):
            build_design(f"y ~ {call} + (1|g)", d).frame.new_X(d.iloc[:1].assign(h="zz"))


REMEMBERED = [
    "ifelse(scale(x) > 0, scale(x), 0)",
    "I(scale(x)*scale(x))",
    "I((x - min(x))/(max(x) - min(x)))",
    "I((x - mean(x))*(x - mean(x)))",
    "I(x/sum(x))",
    "I(x > quantile(x, 0.3))",
    "I(x - median(x) + var(x)*median(x))",
    "I(poly(x, 2)[1]*poly(x, 2)[2])",
    "pmax(scale(x), center(x))",
    "scale(log(abs(x) + mean(x)))",
    "bs(x, df=4)",
    "ns(x, df=3, Boundary.knots=c(-3, 8))",
    "cut(x, c(-Inf, 1, 2, Inf))",
    "I(mean(x, na.rm=TRUE)*x)",
]


@pytest.mark.parametrize("call", REMEMBERED)
def test_a_remembered_call_is_the_same_number_wherever_it_stands(data, call):
    columns = "x" if "[" in call else call
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LmmWarning)
        design = build_design(
            f"y ~ {call} + offset(scale(x) - 0*scale(x)) + (0 + {columns}||g)", data
        )
    rows = [3, 77, 140, 8]
    few = data.iloc[rows]
    np.testing.assert_allclose(
        design.frame.new_X(few), design.frame.new_X(data)[rows], rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        design.frame.new_terms(few)[0].values, design.terms[0].values[rows], rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        design.frame.new_offset(few), design.offset[rows], rtol=1e-12, atol=1e-12
    )


def test_means_and_slopes_of_a_hinge(data):
    fit = lmm.lmer("y ~ ifelse(scale(x) > 0, scale(x), 0) + (1|g)", data)
    b, sd, mean = fit.fixef(), data["x"].std(), data["x"].mean()
    means = fit.emmeans((), at={"x": [mean - sd, mean + sd, mean + 2 * sd]} | {})
    grid = fit.emmeans("x", at={"x": [mean - sd, mean + sd, mean + 2 * sd]})
    np.testing.assert_allclose(grid["emmean"], b.iloc[0] + b.iloc[1] * np.array([0, 1, 2]))
    np.testing.assert_allclose(means["emmean"], b.iloc[0] + b.iloc[1])
    slope = fit.emtrends("x", at={"x": mean + sd})
    np.testing.assert_allclose(slope["x_trend"], b.iloc[1] / sd, rtol=1e-6)


def own(v):
    return (v - v.mean()) / v.std()


@pytest.mark.parametrize(
    "call",
    ["x.rank()", "own(x)", "I(x - np.mean(x))", "I(x - x.mean())", "np.cumsum(x)", "I(x/len(x))", "x.shift(1, fill_value=0)", "I(x[::-1])",
     "np.sort(x)", "I(words.map(words.value_counts()).astype(float))", "x.max()*x"],
)  # fmt: skip
def test_what_looks_at_other_rows_fits_and_is_not_predicted(data, call):
    design = build_design(
        f"y ~ {call} + offset({call}) + ({call}||g)", data, Given(context={"own": own, "np": np})
    )
    for replay in (design.frame.new_X, design.frame.new_offset, design.frame.new_terms):
        with pytest.raises(PredictionError, match="depends on other rows than its own"):
            replay(data.iloc[:5])
    assert build_design(
        "y ~ x + (1|g)", data, Given(weights=f"exp({call}/1e3)", context={"own": own, "np": np})
    ).frame.across


OWN_ROW = [
    "np.log(abs(x))",
    "x.abs()",
    "x.clip(0)",
    "twice(x)",
    "np.where(x > 0, x, 0)",
    "words.str.len()",
    "x.round(1)",
]


@pytest.mark.parametrize("call", OWN_ROW)
def test_what_looks_at_its_own_row_is_predicted(data, call):
    design = build_design(
        f"y ~ {call} + (1|g)", data, Given(context={"twice": lambda v: 2 * v, "np": np})
    )
    np.testing.assert_array_equal(design.frame.new_X(data.iloc[5:9]), design.X[5:9])


def test_means_of_what_cannot_be_predicted_are_refused(data):
    fit = lmm.lmer("y ~ I(x - np.mean(x)) + words + (1|g)", data)
    with pytest.raises(PredictionError, match="depends on other rows"):
        fit.emmeans("words")
    with pytest.raises(PredictionError, match="depends on other rows"):
        fit.emtrends("x")


def test_splines_beyond_their_data_go_on_as_in_r():
    d = lmm.datasets.load("sleepstudy")
    fit = lmm.lmer("Reaction ~ bs(Days, df=4) + (1|Subject)", d)
    with pytest.warns(LmmWarning, match="beyond the boundary knots, 0 and 9"):
        far = fit.predict({"Days": [9.5, -0.5]}, re_form=False)
    # predict(lmer(Reaction ~ bs(Days, df = 4) + (1 | Subject), sleepstudy), data.frame(Days = c(9.5, -0.5)), re.form = NA)
    right = [362.514516748, 259.154564995]
    np.testing.assert_allclose(far, right, rtol=1e-6)
    wide = lmm.lmer("Reaction ~ bs(Days, df=4, Boundary.knots=c(-1, 11)) + (1|Subject)", d)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        near = wide.predict({"Days": [9.5, -0.5]}, re_form=False)
    np.testing.assert_allclose(near, right, rtol=1e-6)  # the cubic pieces are the same


def test_a_missing_group_is_the_population_where_new_levels_are(data):
    fit = lmm.lmer("y ~ x + (x|g)", data)
    new = pd.DataFrame({"x": [1.0, 1.0, np.nan], "g": [3.0, np.nan, 3.0]})
    population = fit.predict(new, re_form=False)
    out = fit.predict(new, allow_new_levels=True)
    assert out[1] == population[1] and out[0] != population[0] and np.isnan(out[2])
    assert np.isnan(fit.predict(new)[1:]).all()


def test_a_named_index_is_a_column(data):
    g = np.zeros(len(data))  # in scope, and not what is meant
    inside, column = data.set_index("g"), data
    fit, right = lmm.lmer("y ~ x + (1|g)", inside), lmm.lmer("y ~ x + (1|g)", column)
    assert fit.llf == right.llf and len(g) == fit.nobs
    np.testing.assert_array_equal(fit.predict(inside.iloc[3:6]), right.predict(column.iloc[3:6]))
    np.testing.assert_array_equal(fit.predict(column.iloc[3:6]), right.predict(column.iloc[3:6]))
    both = data.set_index(["g", "words"])
    assert build_design("y ~ words + (1|g)", both, Given(subset="g > 2")).n == (data["g"] > 2).sum()
    assert build_design("y ~ . + (1|g)", both[["y", "x"]]).names == ("Intercept", "x")


@pytest.mark.parametrize("odd", [[2, "2"], [1.0, "1"], [True, "True"]])
def test_labels_that_show_the_same_are_one_level(data, odd):
    mixed = pd.Series([odd[i % 2] if i % 3 else "other" for i in range(len(data))], dtype=object)
    d = data.assign(
        m=mixed, text=mixed.map(lambda v: str(int(v)) if isinstance(v, float) else str(v))
    )
    for formula in ("y ~ m + (1|g)", "y ~ x + (1|m)", "y ~ x + (1|m:g)", "y ~ 0 + m + (m|g)"):
        design, right = build_design(formula, d), build_design(formula.replace("m", "text"), d)
        np.testing.assert_array_equal(design.X, right.X)
        for own, term in zip(design.terms, right.terms, strict=True):
            np.testing.assert_array_equal(own.codes, term.codes)
        np.testing.assert_array_equal(design.frame.new_X(d), design.X)
        np.testing.assert_array_equal(design.frame.new_terms(d)[0].codes, design.terms[0].codes)


def test_joint_labels_that_coincide_are_two_groups(data):
    d = data.assign(a=np.where(data["g"] < 4, "1:2", "1"), b=np.where(data["g"] < 4, "3", "2:3"))
    design = build_design("y ~ x + (1|a:b) + (1|g)", d)
    term = next(t for t in design.terms if t.group == "a:b")
    assert term.J == 2 and list(term.levels) == ["1:2:3", "1:2:3"]
    (new,) = (t for t in design.frame.new_terms(d) if t.group == "a:b")
    np.testing.assert_array_equal(new.codes, term.codes)
    with pytest.raises(PredictionError, match="'a:b' has 1 new level in newdata: '1:3'"):
        design.frame.new_terms(d.iloc[:1].assign(a="1", b="3"))


def test_zero_has_no_sign(data):
    d = data.assign(z=np.where(data["g"] % 2, -0.0, np.where(data["g"] % 4, 0.0, 1.0)))
    design = build_design("y ~ factor(z) + (1|z)", d)
    assert list(design.terms[0].levels) == ["0", "1"] and design.names == (
        "Intercept",
        "factor(z)[T.1.0]",
    )


def test_many_levels_are_refused_before_they_are_made():
    n = 30_000
    d = pd.DataFrame(
        {"y": np.arange(n) % 7.0, "g": np.arange(n) % 9, "s": [f"s{i % 20_000}" for i in range(n)]}
    )
    with pytest.raises(
        lmm.CapacityError,
        match=r"predictor s has 20000 levels, a column for each: \d+ GiB .* grouping factor, \(1 \| s\)",
    ):
        build_design("y ~ s + (1|g)", d)
