"""The deviance from patterns of clusters: value and derivatives against dense matrices, and pooling that changes nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from lmm.errors import CapacityError
from lmm.model.marginal import clusters, dense_deviance
from lmm.model.marginal.clusters import Part, stacked
from lmm.model.marginal.dense_deviance import MarginalDeviance


class Case(NamedTuple):
    parts: list[Part]
    w: np.ndarray
    order: list[np.ndarray]
    G: list[np.ndarray]
    dense: list[np.ndarray]  # Z (n, k J) per part
    levels: list[int]


def positive(k: int, rng: np.random.Generator) -> np.ndarray:
    A = rng.normal(size=(k, k))
    return A @ A.T + 0.5 * np.eye(k)


def make(sites: bool, strata: bool, n_subjects: int = 40, p: int = 3) -> Case:
    """Subjects who miss visits, in sites with a slope, perhaps in two strata; rows in no order."""
    rng = np.random.default_rng(5)
    rows = [(i, v) for i in range(n_subjects) for v in rng.permutation(4)[: rng.integers(1, 5)]]
    subject, visit = np.array(rows)[rng.permutation(len(rows))].T
    n = len(subject)
    w = rng.normal(size=(n, p + 1))
    arm = subject % 2
    parts, G = [], []
    for s in range(2 if strata else 1):
        scale = (arm == s).astype(float) if strata else None
        parts.append(Part(subject, 4, places=visit, scale=scale))
        G.append(positive(4, rng))
    if sites:
        z = np.column_stack([np.ones(n), rng.normal(size=n)])
        parts.append(Part(subject // 8, 2, values=z))
        G.append(positive(2, rng))
    dense, levels = [], []
    for part in parts:
        J = int(part.codes.max()) + 1
        Z = np.zeros((n, J, part.k))
        Z[np.arange(n), part.codes] = part.dense()
        dense.append(Z.reshape(n, -1))
        levels.append(J)
    return Case(parts, w, [subject, visit], G, dense, levels)


CASES = [make(False, False), make(True, False), make(False, True), make(True, True)]


def dense_V(case: Case, G: list[np.ndarray]) -> np.ndarray:
    return sum(
        Z @ np.kron(np.eye(J), own) @ Z.T
        for Z, J, own in zip(case.dense, case.levels, G, strict=True)
    )


def basis(case: Case) -> list[np.ndarray]:
    out = []
    for G in case.G:
        own = []
        for a in range(len(G)):
            for b in range(a + 1):
                E = np.zeros_like(G)
                E[a, b] = E[b, a] = 1.0
                own.append(E)
        out.append(np.array(own))
    return out


def moved(case: Case, x: np.ndarray) -> list[np.ndarray]:
    out, at = [], 0
    for G, own in zip(case.G, basis(case), strict=True):
        out.append(G + np.tensordot(x[at : at + len(own)], own, 1))
        at += len(own)
    return out


def one_by_one(monkeypatch: Any, large: bool) -> None:
    """Take blocks of any size as large ones, whose factors and derivatives are computed in other ways."""
    if large:
        for module in (clusters, dense_deviance):
            monkeypatch.setattr(module, "LARGE", 1)


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_value_is_that_of_dense_matrices(
    case: Case, reml: bool, large: bool, monkeypatch: Any
) -> None:
    one_by_one(monkeypatch, large)
    X, y = case.w[:, :-1], case.w[:, -1]
    n, p = X.shape
    V = dense_V(case, case.G)
    M = X.T @ np.linalg.solve(V, X)
    beta = np.linalg.solve(M, X.T @ np.linalg.solve(V, y))
    r = y - X @ beta
    expected = np.linalg.slogdet(V)[1] + r @ np.linalg.solve(V, r)
    expected += (n - p if reml else n) * np.log(2 * np.pi)
    if reml:
        expected += np.linalg.slogdet(M)[1]
    at = MarginalDeviance.at(stacked(case.parts, case.w, case.order, ["g"]), case.G, reml)
    assert at.value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(at.beta, beta, rtol=1e-10)
    np.testing.assert_allclose(at.cov, np.linalg.inv(M), rtol=1e-10)


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_those_of_the_value(
    case: Case, reml: bool, large: bool, monkeypatch: Any
) -> None:
    one_by_one(monkeypatch, large)
    stacks, dG = stacked(case.parts, case.w, case.order, ["g"]), basis(case)
    m = sum(map(len, dG))

    def at(x: np.ndarray) -> MarginalDeviance:
        return MarginalDeviance.at(stacks, moved(case, x), reml)

    def gradient(x: np.ndarray) -> np.ndarray:
        D = at(x).slopes()
        return np.concatenate(
            [np.einsum("ab,hab->h", d, own) for d, own in zip(D, dG, strict=True)]
        )

    h, zero = 1e-4, np.zeros(m)
    by_value = [(at(h * e).value - at(-h * e).value) / (2 * h) for e in np.eye(m)]
    np.testing.assert_allclose(gradient(zero), by_value, atol=1e-6 * np.abs(by_value).max())
    by_gradient = [(gradient(h * e) - gradient(-h * e)) / (2 * h) for e in np.eye(m)]
    exact = at(zero).second(dG)
    np.testing.assert_allclose(exact.hessian, by_gradient, atol=1e-6 * np.abs(by_gradient).max())


@pytest.mark.parametrize("reml", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_information_and_products_are_those_of_dense_matrices(case: Case, reml: bool) -> None:
    dG = basis(case)
    m = sum(map(len, dG))
    X, V = case.w[:, :-1], dense_V(case, case.G)
    Vi = np.linalg.inv(V)
    C = np.linalg.inv(X.T @ Vi @ X)
    P = Vi - Vi @ X @ C @ X.T @ Vi if reml else Vi
    dV = [dense_V(case, moved(case, e)) - V for e in np.eye(m)]
    at = MarginalDeviance.at(stacked(case.parts, case.w, case.order, ["g"]), case.G, reml)
    found = at.second(dG, expected=True)
    expected = [[np.trace(P @ a @ P @ b) for a in dV] for b in dV]
    np.testing.assert_allclose(found.hessian, expected, atol=1e-10 * np.abs(expected).max())
    for h in (0, m - 1):
        own = X.T @ Vi @ dV[h] @ Vi @ X
        np.testing.assert_allclose(found.P[h], own, atol=1e-10 * np.abs(own).max())
    W = positive(m, np.random.default_rng(1))
    total = sum(
        W[h, k] * X.T @ Vi @ dV[h] @ Vi @ dV[k] @ Vi @ X for h in range(m) for k in range(m)
    )
    bent = [np.ones((len(G), len(G))) for G in case.G]
    np.testing.assert_allclose(at.products(dG, W), total, atol=1e-10 * np.abs(total).max())
    curved = X.T @ Vi @ dense_V(case, bent) @ Vi @ X
    np.testing.assert_allclose(
        at.products(dG, W, bent), total - curved / 4, atol=1e-10 * np.abs(total).max()
    )


def test_directions_in_pieces_give_the_same(monkeypatch: Any) -> None:
    case = CASES[3]
    at = MarginalDeviance.at(stacked(case.parts, case.w, case.order, ["g"]), case.G, True)
    whole = at.second(basis(case))
    monkeypatch.setattr(dense_deviance, "HELD", 100)
    again = at.second(basis(case))
    np.testing.assert_allclose(again.hessian, whole.hessian, rtol=1e-10)
    np.testing.assert_allclose(again.P, whole.P, rtol=1e-10)


def test_clusters_of_one_pattern_are_pooled() -> None:
    case = make(False, False, n_subjects=400)
    stacks = stacked(case.parts, case.w, case.order, ["g"])
    patterns = sum(len(stack.count) for stack in stacks)
    assert patterns <= 15  # sets of four visits
    assert sum(stack.count.sum() for stack in stacks) == 400
    assert max(stack.lines.shape[2] for stack in stacks) <= 4 * case.w.shape[1]
    again = [stack.with_lines(case.w) for stack in stacks]
    for a, b in zip(stacks, again, strict=True):
        np.testing.assert_array_equal(a.lines, b.lines)


def test_nothing_depends_on_the_order_of_rows_or_the_numbers_of_levels() -> None:
    case, rng = CASES[3], np.random.default_rng(2)
    n = len(case.w)
    shuffle, rename = rng.permutation(n), rng.permutation(100)
    parts = []
    for part in case.parts:
        take = [None if x is None else x[shuffle] for x in (part.values, part.places, part.scale)]
        parts.append(Part(rename[part.codes[shuffle]], part.k, *take))
    values = []
    for own, w, order in (
        (case.parts, case.w, case.order),
        (parts, case.w[shuffle], [parts[0].codes, case.order[1][shuffle]]),
    ):
        values.append(MarginalDeviance.at(stacked(own, w, order, ["g"]), case.G, True).value)
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_too_large_a_cluster_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(clusters, "LARGEST", 10)
    case = CASES[1]
    with pytest.raises(CapacityError, match="site and the subjects join"):
        stacked(case.parts, case.w, case.order, ["site", "the subjects"])
