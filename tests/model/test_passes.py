"""Sums over blocks of rows are sums over rows, whatever is asked and however rows are cut and put in order."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from lmm.families import Binomial, Gamma, NegativeBinomial, Ordinal, Poisson
from lmm.linalg.factorisation import BlockFactorisation
from lmm.model.laplace.compression import taken
from lmm.model.laplace.leverage import tables
from lmm.model.laplace.modes import find_modes, follow
from lmm.model.laplace.passes import LeverageSums, Linearise, ScoreSums, Total, drive, merge
from lmm.model.laplace.rows import Block, Rows, make_rows
from lmm.model.penalized import system_of
from lmm.stream.row_blocks import Locate
from tests.designs import zoo
from tests.generalized import case

DESIGNS = zoo()
FAMILIES = [Poisson(), Binomial("cloglog"), Gamma("log"), NegativeBinomial()]
every = pytest.mark.parametrize("name", DESIGNS)
families = pytest.mark.parametrize("family", FAMILIES, ids=[f.name for f in FAMILIES])


@cache
def made(name: str, family: Any) -> tuple[Any, Rows, list[np.ndarray]]:
    c = case(DESIGNS[name], family)
    rows = make_rows(c.design)
    rng = np.random.default_rng(2)
    return c, rows, [0.1 * rng.normal(size=(size.k, size.J)) for size in rows.plan.terms]


def requests(name: str, family: Any) -> list[Any]:
    """Every kind of request at one point."""
    c, rows, b = made(name, family)
    gamma = rows.R @ c.beta
    T = [0.3 * np.eye(size.k) for size in rows.plan.terms]
    at = system_of(rows, ScoreSums(family, gamma, b, c.phi, True, True)(rows).expected).factorize(T)
    assert isinstance(at, BlockFactorisation)
    found = tables(at)
    return [
        ScoreSums(family, gamma, b, c.phi, True, True, True),
        Linearise(family, gamma, c.phi),
        *(
            LeverageSums(family, gamma, b, c.phi, found, observed, True)
            for observed in (False, True)
        ),
    ]


def cut(rows: Rows, parts: int, seed: int = 0) -> list[Block]:
    """The rows in any order, as blocks that know their runs; sorted by the first term where ``seed`` is even."""
    order = np.random.default_rng(seed).permutation(rows.n)
    if seed % 2 == 0:
        order = order[np.argsort(rows.codes[0][order], kind="stable")]
    locate = replace(Locate.of(np.eye(rows.p), rows.plan, rows.pattern), inverse=np.eye(rows.p))
    names = ("y", "weights", "offset", "Q", "slots", "codes", "columns", "levels")
    whole = Block(**{name: getattr(rows, name) for name in names}, place={}, runs={})
    return [locate(taken(whole, part)) for part in np.array_split(order, parts)]


def added(rows: Rows, blocks: list[Block], asked: list[Any]) -> list[Total]:
    totals = [
        Total(
            [size.J for size in rows.plan.terms],
            {key: len(own.rows) for key, own in rows.pattern.pairs.items()},
        )
        for _ in asked
    ]
    for block in blocks:
        for request, total in zip(asked, totals, strict=True):
            total.add(request(block), block)
    return totals


def close(a: Any, b: Any) -> None:
    """Two answers are alike, leaf by leaf."""
    assert type(a) is type(b) or np.isscalar(a)
    if a is None:
        return
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list | tuple):
        assert len(a) == len(b)
        for own, other in zip(a, b, strict=True):
            close(own, other)
        return
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * (1.0 + np.max(np.abs(a), initial=0.0)))


@every
@families
def test_blocks_add_up(name: str, family: Any) -> None:
    """Sorted and unsorted blocks of unequal length give what all rows give at once."""
    rows = made(name, family)[1]
    asked = requests(name, family)
    whole = rows.total(asked)
    for parts, seed in ((1, 1), (3, 0), (7, 1)):
        for total, want in zip(added(rows, cut(rows, parts, seed), asked), whole, strict=True):
            close(total.value, want)


@pytest.mark.parametrize("name", ["slopes crossed", "three deep and crossed"])
def test_totals_of_two_places_add_up(name: str) -> None:
    rows, asked = made(name, Poisson())[1], requests(name, Poisson())
    blocks = cut(rows, 5)
    one, other = added(rows, blocks[:2], asked), added(rows, blocks[2:], asked)
    for a, b, want in zip(one, other, rows.total(asked), strict=True):
        close(merge(a.value, b.value), want)
        close(merge(None, b.value), b.value)
        close(merge(a.value, None), a.value)


def test_a_block_touches_its_own_levels_only() -> None:
    """Sums of a sorted block are as long as its run of levels, not as all levels."""
    rows = made("crossed", Poisson())[1]
    blocks = cut(rows, 4)
    runs = [block.levels[0] for block in blocks]
    assert sum(run.stop - run.start for run in runs) <= rows.plan.terms[0].J + 3
    answer = requests("crossed", Poisson())[0](blocks[1])
    assert answer.score[0].shape[-1] == runs[1].stop - runs[1].start
    assert answer.observed.diag[0].shape[-1] == runs[1].stop - runs[1].start


@every
def test_requests_travel(name: str) -> None:
    """A request that was pickled, on a block that was, gives the same."""
    rows, asked = made(name, Binomial("cloglog"))[1], requests(name, Binomial("cloglog"))
    block = cut(rows, 2)[0]
    for request in asked:
        close(
            pickle.loads(pickle.dumps(request))(pickle.loads(pickle.dumps(block))), request(block)
        )


def test_an_ordinal_family_adds_up() -> None:
    """Several parameters of the family's own."""
    family = Ordinal().of(("a", "b", "c", "d"))
    rows = make_rows(
        replace(
            DESIGNS["crossed"],
            y=np.random.default_rng(0).integers(0, 4, DESIGNS["crossed"].n).astype(float),
        )
    )
    b = [np.zeros((size.k, size.J)) for size in rows.plan.terms]
    phi = np.array([-1.0, 0.2, 1.1])
    base = requests("crossed", Poisson())[2]
    asked = [
        LeverageSums(family, np.zeros(rows.p), b, phi, base.tables, observed, True)
        for observed in (False, True)
    ]
    for total, want in zip(added(rows, cut(rows, 4), asked), rows.total(asked), strict=True):
        close(total.value, want)
        assert want.second.shape == (3, 3)


class Counting:
    """Rows that count the passes over them."""

    distant = True

    def __init__(self, rows: Rows):
        self.rows, self.plan, self.pattern, self.p, self.passes = (
            rows,
            rows.plan,
            rows.pattern,
            rows.p,
            0,
        )

    def total(self, asked: Any) -> list[Any]:
        self.passes += 1
        return self.rows.total(asked)


def test_tasks_share_their_passes() -> None:
    """Searches side by side take as many passes as the longest, and find what each finds alone."""
    from lmm.model.laplace.laplace import laplace_task

    c, rows, b = made("slopes crossed", Binomial("cloglog"))
    zero = [np.zeros_like(own) for own in b]

    def task(source: Any, scale: float) -> Any:
        T = [scale * np.eye(size.k) for size in rows.plan.terms]
        return laplace_task(c.family, source, T, rows.R @ c.beta, c.phi, zero)

    alone = []
    for scale in (0.1, 0.4, 1.5):
        source = Counting(rows)
        alone.append((drive(source, [task(source, scale)])[0], source.passes))
    together = Counting(rows)
    results = drive(together, [task(together, scale) for scale in (0.1, 0.4, 1.5)])
    assert together.passes == max(passes for _, passes in alone)
    for mine, (want, _) in zip(results, alone, strict=True):
        assert mine.objective == want.objective
        np.testing.assert_array_equal(mine.d_gamma, want.d_gamma)


def test_modes_are_followed() -> None:
    """After a step h in the parameters the start is off by h^2, against h without it."""
    c, rows, _ = made("slopes crossed", Poisson())
    gamma, zero = rows.R @ c.beta, [np.zeros((size.k, size.J)) for size in rows.plan.terms]
    T = [0.5 * np.eye(size.k) for size in rows.plan.terms]
    old = find_modes(c.family, rows, T, gamma, c.phi, zero)
    fixed = ScoreSums(c.family, gamma, old.b, c.phi, fixed=True)(rows).observed.fixed
    errors = []
    for h in (0.04, 0.02):
        T_new, gamma_new = [(1 + h) * t for t in T], gamma + h
        new = find_modes(c.family, rows, T_new, gamma_new, c.phi, zero)
        start = follow(T_new, old, gamma_new, None, fixed)
        assert start is not None
        errors.append(max(np.abs(a - b).max() for a, b in zip(start.b, new.b, strict=True)))
        assert errors[-1] < 0.2 * max(
            np.abs(a - b).max() for a, b in zip(old.b, new.b, strict=True)
        )
        for t, b, u in zip(T_new, start.b, start.u, strict=True):
            np.testing.assert_allclose(t @ u, b, atol=1e-12)
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.2)
    assert follow(T, old, gamma + 100.0, None, fixed) is None
