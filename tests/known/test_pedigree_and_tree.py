"""Pedigrees and trees against covariances computed as they are defined, and what can be wrong with them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.known.relation import Relation
from tests.known.matrices import Dense

NAMES = [f"x{i:03d}" for i in range(160)]


@cache
def parents(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sires and dams of overlapping generations, some unknown; few sires, so that animals are inbred."""
    rng = np.random.default_rng(seed)
    sire, dam = np.full(160, -1), np.full(160, -1)
    for i in range(20, 160):
        before = np.arange(max(0, i - 45), i - 10)
        sire[i] = rng.choice(before[before % 4 == 0])
        dam[i] = rng.choice(before[before % 2 == 1])
    sire[rng.integers(20, 160, 8)] = -1
    dam[rng.integers(20, 160, 8)] = -1
    return sire, dam


@cache
def tabular() -> np.ndarray:
    """A by the tabular method."""
    A = np.eye(160)
    for i, (s, d) in enumerate(zip(*parents(), strict=True)):
        own = [p for p in (s, d) if p >= 0]
        for p in own:
            A[i, :i] += 0.5 * A[p, :i]
        A[:i, i] = A[i, :i]
        A[i, i] = 1.0 + (0.5 * A[s, d] if len(own) == 2 else 0.0)
    return A


def pedigree(order: np.ndarray, unknown: object = None) -> lmm.Pedigree:
    sire, dam = ([NAMES[p] if p >= 0 else unknown for p in own[order]] for own in parents())
    return lmm.Pedigree(np.array(NAMES)[order], sire, dam)


#: two tips of one cherry, a multifurcation, inner nodes with and without names, a quoted name, a comment, exponents
NEWICK = "(((a:1,b:1.5)ab:2e0,(c:1,d:2,'e e':0.5):1)[&R]:0.5,(f:3,g:0.25):0.75):0.0;"
WAYS = {
    "a": {"ab": 2.0, "i": 0.5, "a": 1.0},
    "b": {"ab": 2.0, "i": 0.5, "b": 1.5},
    "c": {"cde": 1.0, "i": 0.5, "c": 1.0},
    "d": {"cde": 1.0, "i": 0.5, "d": 2.0},
    "e e": {"cde": 1.0, "i": 0.5, "e": 0.5},
    "f": {"fg": 0.75, "f": 3.0},
    "g": {"fg": 0.75, "g": 0.25},
}


def shared() -> pd.DataFrame:
    """Lengths of the ways from the root that tips share."""
    out = pd.DataFrame(0.0, list(WAYS), list(WAYS))
    for one, first in WAYS.items():
        for other, second in WAYS.items():
            out.loc[one, other] = sum(v for key, v in first.items() if key in second)
    return out


def covariance(found: Relation, levels: list[str]) -> np.ndarray:
    place = found.place(pd.Index(levels))
    return found.times(np.eye(found.m))[np.ix_(place, place)]


@pytest.mark.parametrize("unknown", [None, "", "0", 0, np.nan])
def test_relationships_are_those_of_the_tabular_method(unknown: object) -> None:
    found = pedigree(np.random.default_rng(1).permutation(160), unknown).relation("id")
    np.testing.assert_allclose(covariance(found, NAMES), tabular(), atol=1e-13)
    inverse = np.linalg.inv(found.precision.toarray())
    place = found.place(pd.Index(NAMES))
    np.testing.assert_allclose(inverse[np.ix_(place, place)], tabular(), atol=1e-12)
    np.testing.assert_allclose(found.variances[place], np.diagonal(tabular()), atol=1e-14)
    assert np.diagonal(tabular()).max() > 1.1
    wanted = -np.linalg.slogdet(tabular())[1]
    assert found.logdet_precision == pytest.approx(wanted, abs=1e-10)


def test_inbreeding_is_told_by_name_and_parents_are_added() -> None:
    made = lmm.Pedigree(["c", "d", "e"], sire=["a", "c", "c"], dam=["b", "b", "d"])
    assert made.inbreeding().to_dict() == {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.25, "e": 0.375}


@pytest.mark.parametrize("scale", [False, True])
def test_a_tree_is_brownian_motion_along_its_branches(scale: bool) -> None:
    wanted = shared()
    unit = float(np.mean(np.diag(wanted))) if scale else 1.0
    tree = lmm.Tree(NEWICK, scale=scale)
    found = tree.relation("species")
    assert tree.tips == tuple(WAYS) and "ab" in found.levels and found.m == 11
    np.testing.assert_allclose(covariance(found, list(WAYS)), wanted / unit, atol=1e-13)
    np.testing.assert_allclose(found.variances, np.diagonal(found.times(np.eye(11))), atol=1e-13)
    np.testing.assert_allclose(
        found.logdet_precision, np.linalg.slogdet(found.precision.toarray())[1], atol=1e-12
    )


@pytest.mark.parametrize("kind", ["pedigree", "tree"])
def test_products_and_draws_leave_what_they_are_given(kind: str) -> None:
    found = (
        pedigree(np.arange(160)).relation("id") if kind == "pedigree" else lmm.Tree(NEWICK).relation("s")
    )  # fmt: skip
    for shape in ((found.m,), (1, found.m), (2, 3, found.m)):
        v = np.random.default_rng(0).normal(size=shape)
        kept = v.copy()
        np.testing.assert_allclose(found.precise(found.times(v)), v, atol=1e-10)
        assert found.draw(v).shape == shape
        found.cholesky.back(v.reshape(-1, found.m))
        np.testing.assert_array_equal(v, kept)
    drawn = found.draw(np.eye(found.m))
    np.testing.assert_allclose(drawn.T @ drawn, found.times(np.eye(found.m)), atol=1e-12)


def test_an_animal_model_is_that_of_the_dense_relationships() -> None:
    rng = np.random.default_rng(4)
    seen = rng.integers(30, 160, 240)
    b = np.linalg.cholesky(tabular()) @ rng.normal(size=160)
    frame = pd.DataFrame(
        {"id": np.array(NAMES)[seen], "herd": rng.integers(0, 8, 240), "x": rng.normal(size=240)}
    )
    frame["y"] = 1 + 0.4 * frame["x"] + b[seen] + 0.6 * rng.normal(size=8)[frame["herd"]]
    frame["y"] += rng.normal(size=240)
    fit = lmm.lmer("y ~ x + (1|id) + (1|herd)", frame, covariance={"id": pedigree(np.arange(160))})
    place = pd.Index(NAMES).get_indexer(fit.design.terms[0].levels)
    known = Dense(fit, {"id": tabular()[np.ix_(place, place)]})
    theta = fit.theta.to_numpy()
    assert fit.convergence.converged
    assert fit.estimate.objective == pytest.approx(known.objective(theta, True), abs=1e-8)
    for step in np.vstack([np.eye(2), -np.eye(2)]) * 0.02:
        assert known.objective(theta + step, True) > fit.estimate.objective
    assert len(fit.ranef()["id"]) == 160


BAD_PEDIGREES = {
    "lengths": ((["a", "b"], ["c"], [None, None]), "2 animals and 1 entries of sire"),
    "twice": ((["a", "a"], [None, "b"], [None, None]), "labels more than once: 'a'"),
    "own parent": ((["a", "b"], ["a", None], [None, None]), "'a' of the pedigree is its own parent"),
    "circle": (
        (["a", "b", "c"], ["b", "c", "a"], [None] * 3),
        "circle: 'a' <- 'b' <- 'c' <- 'a': an animal is its own ancestor",
    ),
    "no label": ((["a", None], [None, None], [None, None]), "1 animals of the pedigree have no label"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PEDIGREES)
def test_a_bad_pedigree_is_refused(name: str) -> None:
    columns, message = BAD_PEDIGREES[name]
    with pytest.raises(lmm.ArgumentError, match=rf"covariance\['id'\].*{message}"):
        lmm.Pedigree(*columns).relation("id")


def test_plants_that_pollinate_and_are_pollinated_themselves_among_them() -> None:
    """The tabular method, with selfing and with parents of either kind; the reader is told."""
    sire, dam = [-1, -1, 0, 2, 3, 2, 5], [-1, -1, 1, 2, 2, 4, 4]
    A = np.eye(7)
    for i in range(2, 7):
        A[i, :i] = A[:i, i] = 0.5 * (A[sire[i], :i] + A[dam[i], :i])
        A[i, i] = 1.0 + 0.5 * A[sire[i], dam[i]]
    names = list("abcdefg")
    column = [[None if p < 0 else names[p] for p in side] for side in (sire, dam)]
    with pytest.warns(lmm.LmmWarning, match="'c' of the pedigree is a sire in one line"):
        found = lmm.Pedigree(names, *column).inbreeding()
    assert found.loc[names].to_numpy() == pytest.approx(np.diagonal(A) - 1.0, abs=1e-14)
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"id": rng.choice(names, 60), "y": rng.normal(size=60)})
    effects = np.linalg.cholesky(A) @ rng.normal(size=7)
    data["y"] += 2.0 * data["id"].map(dict(zip(names, effects, strict=True)))
    with pytest.warns(lmm.LmmWarning, match="a dam in another"):
        fit = lmm.lmer("y ~ 1 + (1|id)", data, covariance={"id": lmm.Pedigree(names, *column)})
    K = pd.DataFrame(A, index=names, columns=names)
    dense = lmm.lmer("y ~ 1 + (1|id)", data, covariance={"id": K})
    assert fit.llf == pytest.approx(dense.llf, abs=1e-8)


BAD_TREES = {
    "no text": (3, "not 3"),
    "open": ("((a:1,b:1):1,c:2;", "more opening brackets"),
    "closed": ("(a:1,b:1)):1;", "more closing brackets"),
    "comma": ("a:1,b:1;", "outside of brackets"),
    "two": ("(a:1,b:1);(c:1,d:1);", "more than one tree"),
    "no length": ("((a,b:1):1,c:2);", "no length for the branches to 'a'"),
    "negative": ("((a:-1,b:1):1,c:2);", "'-1'; it must be a number, 0 or more"),
    "zero": ("((a:0,b:1):1,c:2);", "branches to 'a' have no length"),
    "twice": ("((a:1,a:1):1,c:2);", "labels more than once: 'a'"),
    "no name": ("((:1,b:1):1,c:2);", "a tip of the tree has no name"),
    "no tips": ("a;", "has no tips"),
}


@pytest.mark.parametrize("name", BAD_TREES)
def test_a_bad_tree_is_refused(name: str) -> None:
    newick, message = BAD_TREES[name]
    with pytest.raises(lmm.ArgumentError, match=rf"covariance\['species'\].*{message}"):
        lmm.Tree(newick).relation("species")


def test_a_caterpillar_of_a_tree_is_taken() -> None:
    """One tip after another: as high as it has tips."""
    newick = "(t0:1,t1:1)"
    for i in range(2, 300):
        newick = f"({newick}:1,t{i}:{i})"
    found = lmm.Tree(newick + ";").relation("s")
    np.testing.assert_allclose(
        found.precise(found.times(np.eye(found.m)[:3])), np.eye(found.m)[:3], atol=1e-8
    )
    assert np.isfinite(found.cholesky.logdet)
