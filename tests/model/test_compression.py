"""Rows merged exactly: sums over rows and fits stay what they were, for the families that say so and for no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.design import build_design
from lmm.families import FAMILIES, Binomial, NegativeBinomial, Poisson
from lmm.formula import Given
from lmm.model.laplace import compression
from lmm.model.laplace.compression import merged, taken
from lmm.model.laplace.rows import Rows, make_rows
from lmm.model.problem import build_generalized
from tests.families.cases import CUSTOM_GAMMA

N = 3000
MERGING = [
    FAMILIES[name](link)
    for name in ("binomial", "poisson", "negative_binomial", "negative_binomial1")
    for link in FAMILIES[name].link_names
]
by_link = pytest.mark.parametrize(
    "family", MERGING, ids=[f"{f.name} {f.link.name}" for f in MERGING]
)


def data(seed: int = 0) -> pd.DataFrame:
    """Rows of few kinds: two factors, a slope, a category, trials."""
    rng = np.random.default_rng(seed)
    g, h, x = rng.integers(0, 20, N), rng.integers(0, 4, N), rng.integers(0, 3, N).astype(float)
    eta = 0.3 + 0.2 * x + 0.5 * rng.normal(size=20)[g] + 0.3 * rng.normal(size=4)[h]
    trials = rng.integers(1, 4, N)
    p = 1.0 / (1.0 + np.exp(-eta))
    return pd.DataFrame(
        {
            "count": rng.poisson(np.exp(eta)),
            "more": rng.negative_binomial(3, 3 / (3 + np.exp(eta))),
            "yes": (rng.random(N) < p).astype(int),
            "successes": rng.binomial(trials, p),
            "trials": trials,
            "rating": pd.Categorical(
                np.digitize(eta + rng.logistic(size=N), [0.0, 1.0]), ordered=True
            ),
            "time": rng.gamma(2.0, np.exp(eta) / 2.0),
            "w": rng.integers(1, 3, N).astype(float),
            "off": np.log(rng.integers(1, 3, N)),
            "g": g,
            "h": h,
            "x": x,
        }
    )


DATA = data()


def rows_of(family: Any) -> tuple[Rows, np.ndarray]:
    """Rows for a family, weights and an offset among them, and their fixed columns."""
    response = {"binomial": "cbind(successes, trials - successes)", "poisson": "count"}.get(
        family.name, "more"
    )
    design = build_design(
        f"{response} ~ x + offset(off) + (1 + x | g) + (1 | h)",
        DATA,
        Given(weights="w"),
        family=family,
    )
    return make_rows(design), design.X


@by_link
def test_sums_of_the_log_density(family: Any) -> None:
    """The kernel up to the constant, its derivatives and the information, summed by level, at a predictor of few values."""
    rows, X = rows_of(family)
    few = merged(rows, list(X.T), family.merges)
    assert few.n < 0.7 * rows.n
    assert few.weights.sum() == pytest.approx(rows.weights.sum(), rel=1e-12)
    rng = np.random.default_rng(1)
    low = 0.5 if family.eta_bounds[0] == 0.0 else -0.2
    b = [0.02 * rng.normal(size=(size.k, size.J)) for size in rows.plan.terms]
    gamma = np.array(
        [-1.0 if family.link.name == "log" and family.name == "binomial" else low, 0.02]
    )[: rows.p]
    sums = []
    for own in (rows, few):
        eta = np.clip(
            own.offset * 0.1 + own.Q @ gamma + own.random(b),
            low if low > 0 else -5.0,
            -0.05 if gamma[0] == -1.0 else 5.0,
        )
        args = own.y, eta, own.weights, 1.7
        weight = family.expected_weights(eta, own.weights, 1.7)
        parts = [family.kernel(*args), *family.derivatives(*args), *weight]
        if family.merges == "equal":
            parts += [family.constant(own.y, own.weights, 1.7), *family.parameter_scores(*args)]
        sums.append(
            np.concatenate([np.concatenate([s.ravel() for s in own.sums(part)]) for part in parts])
        )
    np.testing.assert_allclose(sums[0], sums[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["gaussian", "gamma", "inverse_gaussian"])
def test_weights_that_divide_a_dispersion_do_not_merge(name: str) -> None:
    """Two equal rows are not one row of twice the weight there."""
    family = FAMILIES[name]()
    assert family.merges is None
    y, eta = np.full(2, 1.3), np.full(2, 0.9)
    two = family.log_density(y, eta, np.ones(2), 0.6).sum()
    one = family.log_density(y[:1], eta[:1], np.full(1, 2.0), 0.6).sum()
    assert abs(two - one) > 0.01


def test_a_family_of_the_users_own_does_not_merge() -> None:
    assert CUSTOM_GAMMA.merges is None
    rows, X = rows_of(Poisson())
    assert merged(rows, list(X.T), None).n == rows.n


def test_rows_come_sorted_by_the_first_term() -> None:
    rows, X = rows_of(Poisson())
    for how in ("sums", "equal", None):
        out = merged(rows, list(X.T), how)
        assert np.all(np.diff(out.codes[0]) >= 0)
        for (t, s), place in out.place.items():
            np.testing.assert_array_equal(rows.pattern.pairs[t, s].rows[place], out.codes[t])
            np.testing.assert_array_equal(rows.pattern.pairs[t, s].cols[place], out.codes[s])


def test_equal_responses_only() -> None:
    """Where responses must be equal, each kept row stands for those with its response."""
    rows, X = rows_of(NegativeBinomial())
    out = merged(rows, list(X.T), "equal")
    kinds = pd.DataFrame(
        {
            "y": rows.y,
            "o": rows.offset,
            "x": X[:, 1],
            "g": rows.codes[0],
            "h": rows.codes[1],
            "w": rows.weights,
        }
    )
    want = kinds.groupby(["g", "h", "x", "o", "y"])["w"].sum()
    assert out.n == len(want)
    mine = pd.Series(
        out.weights,
        index=pd.MultiIndex.from_arrays(
            [out.codes[0], out.codes[1], out.columns[0][1], out.offset, out.y]
        ),
    )
    np.testing.assert_allclose(mine.sort_index().to_numpy(), want.to_numpy())


def test_a_collision_of_hashes_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one hash for all rows fewer are merged, and never different ones."""
    rows, X = rows_of(Poisson())
    best = merged(rows, list(X.T), "sums")
    monkeypatch.setattr(compression, "_sort_key", lambda codes, columns: codes[0].astype(np.uint64))
    worst = merged(rows, list(X.T), "sums")
    assert best.n < worst.n <= rows.n
    for v in (lambda r: r.weights, lambda r: r.weights * r.y, lambda r: r.weights * r.offset):
        np.testing.assert_allclose(worst.sums(v(worst))[0], rows.sums(v(rows))[0], rtol=1e-12)


def test_signed_zeros_are_equal() -> None:
    rows, X = rows_of(Poisson())
    X = np.where(X == 0.0, np.where(np.arange(N)[:, None] % 2, -0.0, 0.0), X)
    assert merged(rows, list(X.T), "sums").n == merged(rows, list(np.abs(X).T), "sums").n


def test_no_rows() -> None:
    rows, X = rows_of(Poisson())
    assert merged(taken(rows, slice(0, 0)), list(X[:0].T), "sums").n == 0


FITS = {
    "binary": ("yes ~ x + (1 | g) + (1 | h)", {"family": "binomial"}),
    "binary probit": ("yes ~ x + (1 + x || g)", {"family": Binomial("probit")}),
    "counts of successes": (
        "cbind(successes, trials - successes) ~ x + (1 | g)",
        {"family": "binomial"},
    ),
    "joint mode": ("yes ~ x + (1 | g) + (1 | h)", {"family": "binomial", "nAGQ": 0}),
    "poisson": ("count ~ x + offset(off) + (1 + x | g) + (1 | h)", {"family": "poisson"}),
    "weighted poisson": ("count ~ x + (1 | g)", {"family": "poisson", "weights": "w"}),
    "negative binomial": ("more ~ x + (1 | g)", {"family": "negative_binomial"}),
    "negative binomial 1": ("more ~ x + (1 | g)", {"family": "negative_binomial1"}),
    "ordinal": ("rating ~ x + (1 | g) + (1 | h)", {"family": "ordinal"}),
}


@pytest.mark.parametrize("name", FITS)
def test_fits_with_and_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same log-likelihood, its constant included, and estimates; rows count as the user's."""
    formula, options = FITS[name]
    options = {**options, "control": lmm.Control(tolerance=1e-12)}
    plain = lmm.glmer(formula, DATA, **options)
    assert plain.problem.merged is None
    monkeypatch.setattr(compression, "LARGE", 100)
    fit = lmm.glmer(formula, DATA, **options)
    assert fit.problem.merged is not None and fit.problem.merged.n < N / 2
    assert fit.llf == pytest.approx(plain.llf, rel=1e-10)
    se = np.sqrt(np.diag(plain.vcov()))
    # each search ends where the next step promises 1e-12 of the deviance, 1e-6 standard errors
    np.testing.assert_allclose(fit.estimate.beta, plain.estimate.beta, atol=1e-5 * se.min())
    np.testing.assert_allclose(fit.theta, plain.theta, atol=2e-6)
    np.testing.assert_allclose(np.sqrt(np.diag(fit.vcov())), se, rtol=1e-5)
    assert fit.nobs == plain.nobs == N
    np.testing.assert_allclose(fit.residuals(), plain.residuals(), atol=1e-5)
    assert fit.deviance == pytest.approx(plain.deviance, rel=1e-7)


@pytest.mark.parametrize("name", ["gamma", "gaussian"])
def test_other_families_keep_their_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "LARGE", 100)
    data = DATA.assign(time=DATA["time"].round(1) + 0.1)
    assert (
        lmm.glmer("time ~ x + (1 | g)", data, family=FAMILIES[name]("log")).problem.merged is None
    )


def test_rows_that_differ_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few levels' rows tell that nothing is gained, without sorting all."""
    monkeypatch.setattr(compression, "LARGE", 100)
    design = build_design(
        "count ~ z + (1 | g)",
        DATA.assign(z=np.random.default_rng(0).normal(size=N)),
        family=Poisson(),
    )
    assert build_generalized(design, Poisson()).merged is None


def test_a_new_response_is_merged_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "LARGE", 100)
    fit = lmm.glmer("count ~ x + (1 | g)", DATA, family="poisson")
    other = data(5)
    again = fit.refit(other["count"].to_numpy())
    assert again.problem.merged is not None
    monkeypatch.setattr(compression, "LARGE", 10**9)
    plain = lmm.glmer("count ~ x + (1 | g)", DATA.assign(count=other["count"]), family="poisson")
    assert again.llf == pytest.approx(plain.llf, rel=1e-9)


def test_quadrature_looks_at_the_rows_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "LARGE", 100)
    fit = lmm.glmer("yes ~ x + (1 | g)", DATA, family="binomial", nAGQ=7)
    monkeypatch.setattr(compression, "LARGE", 10**9)
    plain = lmm.glmer("yes ~ x + (1 | g)", DATA, family="binomial", nAGQ=7)
    assert fit.llf == pytest.approx(plain.llf, rel=1e-10)
