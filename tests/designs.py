"""Designs made straight from arrays, and the criterion by dense linear algebra: the oracle of the numerical tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmm.covariance import Blocks, Covariance, Diagonal, Unstructured
from lmm.design.design import Design, Predictor
from lmm.design.terms import RandomTerm


def term(
    group: str, codes: np.ndarray, values: np.ndarray, structure: Covariance | None = None
) -> RandomTerm:
    """A random term from codes (n,) and values (n, k); levels that do not occur are dropped."""
    used, codes = np.unique(codes, return_inverse=True)
    k = values.shape[1]
    columns = tuple("Intercept" if np.all(values[:, a] == 1) else f"x{a}" for a in range(k))
    return RandomTerm(
        codes.astype(np.int32),
        np.asfortranarray(values),
        group,
        columns,
        pd.Index(used.astype(str)),
        structure or Unstructured(k),
    )


def design(
    y: np.ndarray,
    X: np.ndarray,
    terms: list[RandomTerm],
    weights: np.ndarray | None = None,
    offset: np.ndarray | None = None,
) -> Design:
    """A design of these arrays, terms sorted as the front end sorts them."""
    n = len(y)
    names = tuple(f"b{i}" for i in range(X.shape[1]))
    ordered = tuple(sorted(terms, key=lambda t: -t.J))
    index = pd.RangeIndex(n)
    return Design(
        None,
        None,
        y,
        (Predictor("mean", X, names, (), names, ordered, offset),),
        weights,
        index,
        np.ones(n, bool),
        index,
        "omit",
        "y",  # type: ignore[arg-type]
    )


@dataclass(frozen=True)
class Dense:
    """Everything at theta by n x n matrices."""

    objective: float
    beta: np.ndarray
    sigma: float
    modes: list[np.ndarray]
    cov: np.ndarray


def dense(d: Design, theta: np.ndarray, reml: bool) -> Dense:
    """lme4's criterion from V itself."""
    n, p = d.n, d.p
    w = np.ones(n) if d.weights is None else d.weights
    y = d.y if d.offset is None else d.y - d.offset
    V, Zs, Gs, at = np.diag(1 / w), [], [], 0
    for t in d.terms:
        T = t.structure.factor(theta[at : at + t.structure.n_theta])
        at += t.structure.n_theta
        Z = np.zeros((n, t.J, t.k))
        Z[np.arange(n), t.codes] = t.values
        Z = Z.reshape(n, -1)
        G = np.kron(np.eye(t.J), T @ T.T)
        V += Z @ G @ Z.T
        Zs.append(Z)
        Gs.append(G)
    Vi = np.linalg.inv(V)
    XVX = d.X.T @ Vi @ d.X
    beta = np.linalg.solve(XVX, d.X.T @ Vi @ y)
    r = y - d.X @ beta
    r2 = r @ Vi @ r
    N = n - p if reml else n
    objective = np.linalg.slogdet(V)[1] + N * (1 + np.log(2 * np.pi * r2 / N))
    if reml:
        objective += np.linalg.slogdet(XVX)[1]
    modes = [(G @ Z.T @ Vi @ r).reshape(t.J, t.k) for t, Z, G in zip(d.terms, Zs, Gs, strict=True)]
    return Dense(float(objective), beta, float(np.sqrt(r2 / N)), modes, np.linalg.inv(XVX))


def slopes(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    """An intercept and k - 1 covariates."""
    return np.column_stack([np.ones(n), rng.normal(size=(n, k - 1)) + 0.3])


def zoo(seed: int = 1) -> dict[str, Design]:
    """One small design of every arrangement that the planner knows."""
    rng = np.random.default_rng(seed)
    n = 240
    a, b, c = rng.integers(0, 30, n), rng.integers(0, 12, n), rng.integers(0, 5, n)
    X = np.column_stack([np.ones(n), rng.normal(size=n), rng.integers(0, 2, n)])
    y = (
        X @ [1.0, 2.0, -1.0]
        + rng.normal(size=30)[a]
        + 0.7 * rng.normal(size=12)[b]
        + rng.normal(size=n)
        + 50
    )
    one = np.ones((n, 1))
    inner = a // 3  # a nested in inner, inner nested in outer
    outer = inner // 4
    w = rng.uniform(0.5, 2.0, n)
    return {
        "scalar": design(y, X, [term("a", a, one)]),
        "slope": design(y, X, [term("a", a, slopes(rng, n, 2))]),
        "three columns": design(y, X, [term("a", a, slopes(rng, n, 3))]),
        "seven columns": design(y, X, [term("b", b, slopes(rng, n, 7))]),
        "diagonal": design(y, X, [term("a", a, slopes(rng, n, 3), Diagonal(3))]),
        "blocks": design(
            y, X, [term("a", a, slopes(rng, n, 3), Blocks((Unstructured(2), Diagonal(1))))]
        ),
        "crossed": design(y, X, [term("a", a, one), term("b", b, one)]),
        "three crossed": design(y, X, [term("a", a, one), term("b", b, one), term("c", c, one)]),
        "slopes crossed": design(
            y,
            X,
            [term("a", a, slopes(rng, n, 2)), term("b", b, slopes(rng, n, 3)), term("c", c, one)],
        ),
        "nested": design(y, X, [term("a", a, slopes(rng, n, 2)), term("inner", inner, one)]),
        "nested three deep": design(
            y,
            X,
            [term("a", a, one), term("inner", inner, slopes(rng, n, 2)), term("outer", outer, one)],
        ),
        "nested and crossed": design(
            y,
            X,
            [
                term("a", a, slopes(rng, n, 2)),
                term("inner", inner, slopes(rng, n, 2)),
                term("c", c, one),
            ],
        ),
        "three deep and crossed": design(
            y,
            X,
            [
                term("a", a, one),
                term("inner", inner, slopes(rng, n, 2)),
                term("outer", outer, one),
                term("c", c, slopes(rng, n, 2)),
            ],
        ),
        "weights and offset": design(
            y,
            X,
            [term("a", a, slopes(rng, n, 2)), term("b", b, one)],
            weights=w,
            offset=rng.normal(size=n),
        ),
        "no fixed effects": design(
            y - 50, np.zeros((n, 0)), [term("a", a, one), term("b", b, one)]
        ),
    }
