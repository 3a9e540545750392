"""Sums of parts add up, in any order and grouping, whatever levels each part has."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.design.rank import independent_columns
from lmm.formula import Given
from lmm.stream.finish import finish, independent_in_gram
from lmm.stream.levels import found_levels as levels_room
from lmm.stream.levels import pairs as pairs_room
from lmm.stream.levels.coder import Coder
from lmm.stream.partial import add_table, empty_sums, linear_reduction, merge, partial_sums
from lmm.stream.prepare import make_recipe
from lmm.stream.reducers import reducer_for

pa = pytest.importorskip("pyarrow")
ds = pytest.importorskip("pyarrow.dataset")

FORMULAS = [
    "y ~ x + (x | g) + (1 | far)",
    "y ~ x * s + (1 | far:s) + (1 | g)",
    "y ~ x + (1 | s:far:h) + (x | h)",
    "y ~ 1 + (1 | name) + (1 | h/g)",
]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    rng = np.random.default_rng(9)
    n = 500
    g, h = np.sort(rng.integers(0, 12, n)), rng.integers(-3, 4, n)
    data = pd.DataFrame({"x": rng.normal(size=n), "g": g, "h": h, "s": rng.choice(["u", "v"], n)})
    # a part may have small integers only, another a range too long to count
    data["far"] = np.where(g < 4, g, np.where(g < 8, 10_000_000 + g, g * 2**40))
    data["name"] = [f"n{i:02d}" for i in rng.permutation(12)[g]]
    data["w"] = rng.uniform(0.5, 2, n)
    data["y"] = rng.normal(size=12)[g] + rng.normal(size=n) + data["x"]
    return data


def cross(recipe, sums):
    """Everything that a fit needs, to be compared."""
    design, problem = finish(recipe, sums)
    out = [
        problem.cross.gram,
        problem.beta0,
        problem.location,
        problem.scale,
        *problem.cross.diag,
        *problem.cross.rhs,
    ]
    for pairs in problem.cross.pairs.values():
        out += [pairs.rows, pairs.cols, pairs.blocks]
    return design, out


def equal(a, b) -> None:
    assert [list(t.levels) for t in a[0].terms] == [list(t.levels) for t in b[0].terms]
    for x, y in zip(a[1], b[1], strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("weights", [None, "w"])
def test_parts_add_up_in_any_order(formula, weights, rows):
    table = pa.Table.from_pandas(rows)
    recipe = pickle.loads(
        pickle.dumps(
            make_recipe(formula, reducer_for(ds.dataset(table)), Given(weights=weights, context={}))
        )
    )
    whole = cross(recipe, partial_sums(recipe, table))
    cuts = [0, 90, 90, 200, 210, 430, 500]  # one part is empty
    parts = [table.slice(a, b - a) for a, b in zip(cuts, cuts[1:], strict=False)]

    chained = empty_sums(recipe)
    for part in parts:
        chained = add_table(recipe, chained, part)
    equal(cross(recipe, chained), whole)

    for order in ([5, 3, 0, 1, 4, 2], [2, 1, 0, 5, 4, 3]):
        leaves = [pickle.loads(pickle.dumps(partial_sums(recipe, parts[i]))) for i in order]
        while len(leaves) > 1:
            leaves = [
                merge(*leaves[i : i + 2]) if i + 1 < len(leaves) else leaves[i]
                for i in range(0, len(leaves), 2)
            ]
        equal(cross(recipe, leaves[0]), whole)
    neutral = merge(partial_sums(recipe, table), empty_sums(recipe))
    equal(cross(recipe, merge(empty_sums(recipe), neutral)), whole)


def test_merging_leaves_the_second_part_alone(rows):
    table = pa.Table.from_pandas(rows)
    recipe = make_recipe(FORMULAS[0], reducer_for(ds.dataset(table)), Given(context={}))
    second = partial_sums(recipe, table.slice(200))
    before = pickle.dumps([second.gram, [t.sums for t in second.terms], second.n])
    merge(partial_sums(recipe, table.slice(0, 200)), second)
    assert pickle.dumps([second.gram, [t.sums for t in second.terms], second.n]) == before


def test_few_pairs_wait(rows, monkeypatch):
    """The same sums when pairs are merged at every chunk, and never more than three times the distinct ones held."""
    table = pa.Table.from_pandas(rows)
    recipe = make_recipe(
        "y ~ x + (1 | g) + (x | h)", reducer_for(ds.dataset(table)), Given(context={})
    )
    whole = cross(recipe, partial_sums(recipe, table))
    monkeypatch.setattr(pairs_room, "WAIT", 4)
    sums, most = empty_sums(recipe), 0
    for start in range(0, 500, 10):
        add_table(recipe, sums, table.slice(start, 10))
        held = sums.pairs[0, 1]
        most = max(most, (len(held.keys) + held._count) / max(len(held.keys), 14))
    assert most <= 2.0
    equal(cross(recipe, sums), whole)


def test_integers_of_any_range(monkeypatch):
    """Counted in place or numbered as they appear: the same levels in the same order."""
    values = [np.array([5, 3, 5]), np.array([-2, 9]), np.array([2**40, 5]), np.array([-(2**50)])]
    counted, listed = levels_room.IntegerLevels(), levels_room.ListedLevels(pa.int64())
    for chunk in values[:2]:
        assert list(counted.add(pa.array(chunk))) == list(chunk)
    with pytest.raises(OverflowError):
        counted.add(pa.array(values[2]))
    ids = np.concatenate([listed.add(pa.array(chunk)) for chunk in values])
    distinct = np.unique(ids)
    assert list(listed.values(distinct[listed.order(distinct)])) == sorted(
        set(np.concatenate(values).tolist())
    )
    first, second = np.array([-(2**31), 0, 2**31 - 1]), np.array([5, -(2**31), 2**31 - 1])
    back = levels_room.unkey(levels_room.key(first, second))
    assert list(back[0]) == list(first) and list(back[1]) == list(second)


def test_dependent_columns_are_those_of_the_rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 4)) + [0, 1e4, 0, 0]
    X = np.column_stack(
        [
            np.ones(2000),
            X,
            X[:, 0] + X[:, 1],
            np.full(2000, 7.0),
            X[:, 2] * 1e-9,
            X[:, 3] + 1e-4 * rng.normal(size=2000),
        ]
    )
    centre = np.r_[0.0, X[:, 1:].mean(axis=0)]
    C = X - centre
    kept, R = independent_in_gram(C.T @ C, np.linalg.norm(X, axis=0))

    assert list(kept) == list(independent_columns(X)[0]) == [0, 1, 2, 3, 4, 8]
    np.testing.assert_allclose(R.T @ R, (C.T @ C)[np.ix_(kept, kept)], rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("seed", range(50))
def test_columns_that_depend_on_nearly_dependent_ones_are_found(seed):
    """What is left of the last but one column is rounding, the larger the closer a and b are to each other."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(9, 40))
    a, other = rng.normal(size=(2, n))
    b = a + 10.0 ** rng.uniform(-4, 0) * other
    c = rng.normal(size=3) * 10.0 ** rng.uniform(-2, 2, 3)
    z = c[0] * a + c[1] * (b - a) * 10.0 ** rng.uniform(0, 4) + c[2]
    X = np.column_stack([np.ones(n), a, b, z, rng.normal(size=n)])
    C = X - np.r_[0.0, X[:, 1:].mean(axis=0)]
    assert (
        list(independent_in_gram(C.T @ C, np.linalg.norm(X, axis=0))[0])
        == list(independent_columns(X)[0])
        == [0, 1, 2, 4]
    )


def test_a_mean_that_is_large_costs_no_digits(tmp_path):
    """Years, and a response far from zero: squares of sums would lose eight digits."""
    rng = np.random.default_rng(4)
    n = 3000
    g, year = rng.integers(0, 30, n), 1e6 + rng.normal(size=n)
    y = 1e7 + 0.5 * (year - 1e6) + rng.normal(size=30)[g] + rng.normal(size=n)
    data = pd.DataFrame({"y": y, "year": year, "g": g})
    data.to_parquet(tmp_path / "a.parquet")
    a = lmm.lmer("y ~ year + (1 | g)", lmm.Source(tmp_path / "a.parquet", chunk=500))
    b = lmm.lmer("y ~ I(year - 1e6) + (1 | g)", data.assign(y=y - 1e7))
    assert a.fixef()["year"] == pytest.approx(b.fixef().iloc[1], rel=1e-9)
    assert a.estimate.objective == pytest.approx(b.estimate.objective, rel=1e-9)
    assert a.bse["year"] == pytest.approx(b.bse.iloc[1], rel=1e-8)


def test_one_reduction_for_every_reducer(rows):
    table = pa.Table.from_pandas(rows)
    reducer = reducer_for(ds.dataset(table))
    recipe = make_recipe(FORMULAS[0], reducer, Given(context={}))
    reduction = linear_reduction(recipe)
    assert set(reduction.columns) == {"y", "x", "g", "far"}
    equal(
        cross(recipe, reducer.map_reduce(reduction)),
        cross(recipe, reduction.add(reduction.start(), table)),
    )


@pytest.mark.parametrize(
    ("levels", "rows", "codes"),
    [
        (pd.Index([-3, 5, 9]), pa.array([5, -3, 4, 100, 9]), [1, 0, -1, -1, 2]),
        (pd.Index([0, 10**12]), pa.array([10**12, 3, 0]), [1, -1, 0]),
        (pd.Index(["a", "c"], dtype="str"), pa.array(["c", "b", "a", "c"]), [1, -1, 0, 1]),
        (
            pd.Index(["z", "a"], dtype="str"),
            pa.array(["a", "z", "q"]).dictionary_encode(),
            [1, 0, -1],
        ),
        (pd.Index([0.5, 2.0]), pa.array([2.0, 0.5, 1.0]), [1, 0, -1]),
        (pd.Index([False, True]), pa.array([True, False]), [1, 0]),
    ],
)
def test_codes_of_known_levels(levels, rows, codes):
    coder = Coder(levels, [rows.type])
    assert list(coder.codes([rows])) == codes
    assert list(coder.codes([pa.chunked_array([rows.slice(0, 1), rows.slice(1)])])) == codes
    assert list(coder.codes([pa.chunked_array([], type=rows.type)])) == []


def test_codes_of_joint_levels():
    labels = [pa.array([1, 2, 1, 2]), pa.array(["x", "x", "y", "y"])]
    coder = Coder(
        pd.MultiIndex.from_tuples([(1, "x"), (1, "y"), (2, "x")]), [label.type for label in labels]
    )
    assert list(coder.codes(labels)) == [0, 2, 1, -1]


def test_joint_levels_whose_labels_coincide_are_two():
    labels = [pa.array(["1:2", "1", "1"]), pa.array(["3", "2:3", "3"])]
    coder = Coder(
        pd.MultiIndex.from_tuples([("1", "2:3"), ("1:2", "3")]), [label.type for label in labels]
    )
    assert list(coder.codes(labels)) == [1, 0, -1]
