"""What build_design makes of a formula: X, terms, structures, names, order."""

import copy
import math
import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from lmm.covariance import Blocks, Diagonal, Unstructured
from lmm.design import build_design
from lmm.errors import DataError, FormulaError, RankWarning, ResponseError
from lmm.formula import Given


@pytest.fixture
def data():
    rng = np.random.default_rng(11)
    n = 240
    return pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": rng.normal(size=n),
            "z": rng.uniform(1, 3, n),
            "g": rng.integers(0, 12, n),
            "h": rng.choice(list("pqrst"), n),
            "f": pd.Categorical(
                rng.choice(["lo", "mid", "hi"], n), categories=["lo", "mid", "hi", "never"]
            ),
            "a.b": rng.normal(size=n),
            "class": rng.normal(size=n),
            "odd name": rng.normal(size=n),
            "k": rng.integers(1, 4, n),
            "b": rng.random(n) < 0.5,
            "log": rng.normal(size=n),
            "I": rng.normal(size=n),
        },
        index=pd.Index([f"row{i}" for i in range(n)], name="who"),
    )


def term(design, group):
    return next(t for t in design.terms if t.group == group)


def test_intercept_and_slope(data):
    design = build_design("y ~ x + (x|g)", data)
    (random,) = design.terms
    np.testing.assert_array_equal(design.y, data["y"])
    np.testing.assert_array_equal(design.X, np.column_stack([np.ones(240), data["x"]]))
    assert design.names == design.all_names == ("Intercept", "x") and design.dropped == ()
    assert random.columns == ("Intercept", "x") and random.structure == Unstructured(2)
    assert random.levels.tolist() == [str(i) for i in range(12)]
    np.testing.assert_array_equal(random.codes, data["g"])
    np.testing.assert_array_equal(random.values, design.X)
    assert (
        random.codes.dtype == np.int32
        and random.values.flags.f_contiguous
        and design.X.flags.f_contiguous
    )
    assert (
        design.index.equals(data.index)
        and design.full_index.equals(data.index)
        and design.kept.all()
    )
    np.testing.assert_allclose(design.R.T @ design.R, design.X.T @ design.X)


COLUMNS = {
    # right-hand side: (fixed names, {group: (columns, structure)})
    "x + (1+x|g)": (["Intercept", "x"], {"g": (["Intercept", "x"], Unstructured(2))}),
    "x + (0+x|g)": (["Intercept", "x"], {"g": (["x"], Unstructured(1))}),
    "x + (x||g)": (["Intercept", "x"], {"g": (["Intercept", "x"], Diagonal(2))}),
    "x + diag(x|g)": (["Intercept", "x"], {"g": (["Intercept", "x"], Diagonal(2))}),
    "f + (f||h)": (
        ["Intercept", "f[T.mid]", "f[T.hi]"],
        {"h": (["Intercept", "f[T.mid]", "f[T.hi]"], Diagonal(3))},
    ),
    "f + (0+f|h)": (
        ["Intercept", "f[T.mid]", "f[T.hi]"],
        {"h": (["f[lo]", "f[mid]", "f[hi]"], Unstructured(3))},
    ),
    "0 + f + (1|h)": (["f[lo]", "f[mid]", "f[hi]"], {"h": (["Intercept"], Unstructured(1))}),
    "f:x + (1|h)": (
        ["Intercept", "f[lo]:x", "f[mid]:x", "f[hi]:x"],
        {"h": (["Intercept"], Unstructured(1))},
    ),
    "f*x + (1|h)": (
        ["Intercept", "f[T.mid]", "f[T.hi]", "x", "f[T.mid]:x", "f[T.hi]:x"],
        {"h": (["Intercept"], Unstructured(1))},
    ),
    "x + (1|g) + (0+x|g)": (
        ["Intercept", "x"],
        {"g": (["Intercept", "x"], Blocks((Unstructured(1), Unstructured(1))))},
    ),
    "x + (1|h) + (x+z|g) + (0+z||h)": (
        ["Intercept", "x"],
        {
            "g": (["Intercept", "x", "z"], Unstructured(3)),
            "h": (["Intercept", "z"], Blocks((Unstructured(1), Diagonal(1)))),
        },
    ),
    "-1 + (1|h)": ([], {"h": (["Intercept"], Unstructured(1))}),
    "(1|h)": (["Intercept"], {"h": (["Intercept"], Unstructured(1))}),
    "(x+z)^2 + (1|h)": (["Intercept", "x", "z", "x:z"], {"h": (["Intercept"], Unstructured(1))}),
    "factor(k) + as.factor(h) + (1|g)": (
        [
            "Intercept",
            "factor(k)[T.2]",
            "factor(k)[T.3]",
            *(f"as.factor(h)[T.{s}]" for s in "qrst"),
        ],
        {"g": (["Intercept"], Unstructured(1))},
    ),
    "C(k) + (1|g)": (
        ["Intercept", "C(k)[T.2]", "C(k)[T.3]"],
        {"g": (["Intercept"], Unstructured(1))},
    ),
    "relevel(f, 'hi') + (1|g)": (
        ["Intercept", "relevel(f, 'hi')[T.lo]", "relevel(f, 'hi')[T.mid]"],
        {"g": (["Intercept"], Unstructured(1))},
    ),
    "log(z) + log + I(x**2) + `I` + (1|g)": (
        ["Intercept", "log(z)", "log", "I(x ** 2)", "I"],
        {"g": (["Intercept"], Unstructured(1))},
    ),
    "b + (b|g)": (["Intercept", "b[T.True]"], {"g": (["Intercept", "b[T.True]"], Unstructured(2))}),
    "b:x + (0 + b|g)": (
        ["Intercept", "b[False]:x", "b[True]:x"],
        {"g": (["b[False]", "b[True]"], Unstructured(2))},
    ),
    "I(b * x) + I(x > 0) + (x > 1) + (1|g)": (
        ["Intercept", "I(b * x)", "I(x > 0)[T.True]", "x > 1[T.True]"],
        {"g": (["Intercept"], Unstructured(1))},
    ),
    "a.b + log(a.b^2) + (a.b|g)": (
        ["Intercept", "a.b", "log(a.b ** 2)"],
        {"g": (["Intercept", "a.b"], Unstructured(2))},
    ),
    "class + exp(class) + (1|g)": (
        ["Intercept", "class", "exp(class)"],
        {"g": (["Intercept"], Unstructured(1))},
    ),
    "`odd name` + abs(`odd name`) + (1|g)": (
        ["Intercept", "odd name", "abs(`odd name`)"],
        {"g": (["Intercept"], Unstructured(1))},
    ),
}


@pytest.mark.parametrize("rhs", COLUMNS)
def test_columns_and_structures(data, rhs):
    names, terms = COLUMNS[rhs]
    design = build_design("y ~ " + rhs, data)
    assert list(design.names) == names and design.X.shape == (240, len(names))
    assert {t.group: (list(t.columns), t.structure) for t in design.terms} == terms
    assert all(t.values.shape == (240, t.k) for t in design.terms)


def test_values_of_awkward_names(data):
    design = build_design(
        "y ~ a.b + log(a.b^2) + exp(class) + abs(`odd name`) + I(x^2) + (1|g)", data
    )
    expected = [
        data["a.b"],
        np.log(data["a.b"] ** 2),
        np.exp(data["class"]),
        data["odd name"].abs(),
        data["x"] ** 2,
    ]
    np.testing.assert_allclose(design.X[:, 1:], np.column_stack(expected), rtol=1e-14)


def test_terms_are_sorted_by_levels_and_ties_stay(data):
    data["g2"], data["few"] = data["g"], data["k"]
    design = build_design("y ~ (1|few) + (1|g) + (1|h) + (1|g2)", data)
    assert [t.group for t in design.terms] == ["g", "g2", "h", "few"]
    assert [t.J for t in design.terms] == [12, 12, 5, 3]


def test_nesting_makes_the_observed_combinations(data):
    design = build_design("y ~ (1|h/k)", data)
    nested = term(design, "k:h")
    pairs = [f"{k}:{h}" for k, h in zip(data["k"], data["h"], strict=True)]
    assert nested.levels[nested.codes].tolist() == pairs
    assert set(nested.levels) == set(pairs)
    assert term(design, "h").levels.tolist() == list("pqrst")
    assert [t.group for t in build_design("y ~ (1|h/k/b)", data).terms] == ["b:(k:h)", "k:h", "h"]


def test_grouping_expressions(data):
    design = build_design("y ~ (1|factor(k):h) + (1|interaction(h, k)) + (1|cut(z, 4))", data)
    assert {t.group: t.J for t in design.terms} == {
        "factor(k):h": 15,
        "interaction(h, k)": 15,
        "cut(z, 4)": 4,
    }
    assert term(design, "interaction(h, k)").levels[0] == "p.1"


def test_categorical_groups_keep_their_order_and_lose_unused_levels(data):
    assert build_design("y ~ (1|f)", data).terms[0].levels.tolist() == ["lo", "mid", "hi"]


def test_unused_levels_make_no_column(data):
    design = build_design("y ~ f + (1|g)", data, Given(subset="f != 'mid'"))
    assert design.names == ("Intercept", "f[T.hi]")


@pytest.mark.parametrize("word", ["sum", "contr.sum"])
def test_contrasts_by_column(data, word):
    design = build_design("y ~ f + (f|h)", data, Given(contrasts={"f": word}))
    code = {"lo": (1, 0), "mid": (0, 1), "hi": (-1, -1)}
    np.testing.assert_array_equal(design.X[:, 1:], [code[v] for v in data["f"]])
    assert design.names[1:] == ("f[S.lo]", "f[S.mid]") and design.terms[0].columns[1:] == (
        "f[S.lo]",
        "f[S.mid]",
    )
    np.testing.assert_array_equal(design.frame.new_X(data.iloc[:9]), design.X[:9])
    full = build_design("y ~ f + (0+f|h)", data, Given(contrasts={"f": word}))
    assert full.terms[0].k == 3 and np.linalg.matrix_rank(full.terms[0].values) == 3


def test_dot_means_all_other_columns(data):
    design = build_design("y ~ . + (1|g)", data[["y", "x", "f", "odd name", "g"]])
    assert design.names == ("Intercept", "x", "f[T.mid]", "f[T.hi]", "odd name")


def test_the_left_side_is_an_expression(data):
    np.testing.assert_allclose(
        build_design("y/2 + x^2 ~ (1|g)", data).y, data["y"] / 2 + data["x"] ** 2
    )
    np.testing.assert_allclose(
        build_design("scale(y) ~ (1|g)", data).y, (data["y"] - data["y"].mean()) / data["y"].std()
    )


def test_scope_is_used_after_the_columns(data):
    def twice(v):
        return 2 * v

    context = {
        "twice": twice,
        "row": np.arange(240.0),
        "shift": 3.0,
        "x": "not the column",
        "factor": 7,
        "log": math.log,
    }
    design = build_design(
        "y ~ twice(x) + row + I(z - shift) + factor(k) + log(z) + (1|g)",
        data,
        Given(context=context),
    )
    np.testing.assert_allclose(design.X[:, 1], 2 * data["x"])
    assert set(design.frame.context) == {"twice", "shift", "row"}
    column = dict(zip(design.names, design.X.T, strict=True))
    np.testing.assert_allclose(column["row"], np.arange(240))
    np.testing.assert_allclose(column["I(z - shift)"], data["z"] - 3)
    np.testing.assert_allclose(column["log(z)"], np.log(data["z"]))


def test_weights_and_offset_in_every_form(data):
    plain = build_design("y ~ x + offset(2*z) + (1|g)", data, Given(weights="z"))
    np.testing.assert_array_equal(plain.weights, data["z"])
    np.testing.assert_array_equal(plain.offset, 2 * data["z"])
    other = build_design(
        "y ~ x + offset(z) + (1|g)", data, Given(weights="I(z + 0)", offset=data["z"].to_numpy())
    )
    np.testing.assert_array_equal(other.weights, plain.weights)
    np.testing.assert_allclose(other.offset, plain.offset)
    dotted = build_design("y ~ x + (1|g)", data, Given(weights="exp(a.b)", offset="a.b"))
    np.testing.assert_allclose(dotted.weights, np.exp(data["a.b"]))
    np.testing.assert_array_equal(dotted.offset, data["a.b"])
    np.testing.assert_array_equal(dotted.frame.new_offset(data), data["a.b"])
    none = build_design("y ~ x + (1|g)", data)
    assert none.weights is None and none.offset is None


def test_dependent_columns_are_dropped_and_named(data):
    with pytest.warns(RankWarning, match="2 columns.*I\\(2 \\* x\\), center\\(z\\)") as caught:
        design = build_design("y ~ x + I(2*x) + z + center(z) + (1|g)", data)
    assert design.names == ("Intercept", "x", "z") and design.dropped == ("I(2 * x)", "center(z)")
    assert design.all_names == ("Intercept", "x", "I(2 * x)", "z", "center(z)")
    assert design.messages == (str(caught[0].message),)
    assert design.X.shape == (240, 3) and design.R.shape == (3, 3)


def test_empty_cells_are_dropped(data):
    data = data[~((data["f"] == "hi") & (data["k"] == 3))]
    with pytest.warns(RankWarning, match="1 column "):
        design = build_design("y ~ f*factor(k) + (1|g)", data)
    assert design.dropped == ("f[T.hi]:factor(k)[T.3]",)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ (1|g) + (x|g)", "Intercept already varies by g.*write \\(0 \\+ x \\| g\\)"),
        ("y ~ (1|g) + (1|g)", "already varies"),
        ("y ~ (0|g)", "no columns"),
        ("y ~ x", "no random term"),
        ("y ~ digg(x|g)", "Did you mean 'diag'"),
        ("y ~ x z + (1|g)", "operator is missing"),
        ("y ~ log(x x) + (1|g)", "log\\(x x\\)"),
    ],
)
def test_formula_errors_that_need_the_terms(data, formula, message):
    with pytest.raises(FormulaError, match=message):
        build_design(formula, data)


def test_z_is_laid_out_level_by_level(data):
    design = build_design("y ~ x + (x|g) + (1|h)", data)
    Z = design.Z
    assert Z.shape == (240, 2 * 12 + 5) and Z.format == "csr"
    dense = np.zeros(Z.shape)
    for i in range(240):
        g, h = data["g"].iloc[i], "pqrst".index(data["h"].iloc[i])
        dense[i, 2 * g], dense[i, 2 * g + 1], dense[i, 24 + h] = 1, data["x"].iloc[i], 1
    np.testing.assert_array_equal(Z.toarray(), dense)


def test_another_response(data):
    design = build_design(
        "y ~ x + (1|g)",
        data.assign(x=data["x"].where(data["z"] > 1.2)),
        Given(subset=data["z"] < 2.9),
    )
    assert design.n < len(design.kept) < 240
    for new in (
        np.arange(240.0),
        np.arange(240.0)[data["z"] < 2.9],
        np.arange(240.0)[data.index.isin(design.index)],
    ):
        again = design.with_response(new)
        np.testing.assert_array_equal(again.y, np.flatnonzero(data.index.isin(design.index)))
        assert again.X is design.X
    with pytest.raises(DataError, match="shape \\(7,\\)"):
        design.with_response(np.arange(7))
    with pytest.raises(ResponseError, match="constant"):
        design.with_response(np.ones(design.n))
    with pytest.raises(ResponseError, match="not a number"):
        design.with_response(np.full(design.n, np.nan))


def test_the_data_are_never_changed(data):
    before = data.copy(deep=True)
    design = build_design("y ~ scale(x) + f + (x|g)", data, Given(subset="x > 0", weights="z"))
    pd.testing.assert_frame_equal(data, before)
    data.loc[:, "z"] = 0.0
    pd.testing.assert_frame_equal(design.frame.data, before)


def test_a_design_can_be_pickled_and_copied(data):
    design = build_design("log(z) ~ scale(x) + f + class + (x|g/h)", data)
    for other in (pickle.loads(pickle.dumps(design)), copy.deepcopy(design)):
        np.testing.assert_array_equal(other.X, design.X)
        assert [t.levels.tolist() for t in other.terms] == [t.levels.tolist() for t in design.terms]
        new = data.drop(columns="z").iloc[:7]
        np.testing.assert_array_equal(other.frame.new_X(new), design.X[:7])


def test_a_family_reads_its_own_response(data):
    class Counts:
        def response(self, values, name):
            assert name == "cbind(k, 4 - k)"
            return values[:, 0] / values.sum(axis=1), values.sum(axis=1).astype(float)

    design = build_design(
        "cbind(k, 4 - k) ~ x + (1|row)",
        data.assign(row=np.arange(240)),
        Given(weights="z"),
        family=Counts(),
    )
    np.testing.assert_allclose(design.y, data["k"] / 4)
    np.testing.assert_allclose(design.weights, 4 * data["z"])


def test_labels_are_strings_made_when_read(data):
    random = build_design("y ~ (1|g)", data).terms[0]
    assert random.J == 12 and "_labels" not in random.__dict__
    assert random.levels.tolist() == [str(i) for i in range(12)]
    assert random.levels is random.levels


def test_many_levels_cost_no_dense_matrix():
    n, J = 200_000, 100_000
    ids = np.arange(n) % J
    frame = pd.DataFrame(
        {
            "y": np.arange(n) % 7.0,
            "x": np.arange(n) % 11.0,
            "id": pd.Categorical.from_codes(ids, categories=np.arange(J) + 5),
        }
    )
    tracemalloc.start()
    design = build_design("y ~ x + (1|id)", frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert design.terms[0].J == J and design.terms[0].values.strides == (0, 0)
    assert peak < 100 * n  # bytes: a dozen columns, where dummies would take J of them
