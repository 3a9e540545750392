"""Which terms are eliminated, in which order, and what the plan says of it."""

from __future__ import annotations

import numpy as np
import pytest

from lmm.errors import CapacityError
from lmm.linalg import plan as plans
from lmm.linalg import tail
from lmm.linalg.devices import backend
from lmm.linalg.plan import TermSize, make_plan
from lmm.model.problem import build_problem
from tests.designs import zoo

#: chain and tail by group, as each arrangement must come out
WANTED = {
    "scalar": (["a"], []),
    "slope": (["a"], []),
    "crossed": (["a"], ["b"]),
    "three crossed": (["a"], ["b", "c"]),
    "slopes crossed": (["a"], ["b", "c"]),
    "nested": (["a", "inner"], []),
    "nested three deep": (["a", "inner", "outer"], []),
    "nested and crossed": (["a", "inner"], ["c"]),
    "three deep and crossed": (["a", "inner", "outer"], ["c"]),
}


@pytest.mark.parametrize("name", WANTED)
def test_nesting_is_found_in_the_data(name: str) -> None:
    plan = build_problem(zoo()[name]).plan
    groups = [t.group for t in plan.terms]
    assert ([groups[t] for t in plan.chain], [groups[t] for t in plan.tail]) == WANTED[name]


def test_one_row_out_of_place_undoes_nesting() -> None:
    d = zoo()["nested"]
    inner = next(t for t in d.terms if t.group == "inner")
    assert build_problem(d).plan.tail == ()
    inner.codes[0] = (inner.codes[0] + 1) % inner.J
    assert [build_problem(d).plan.terms[t].group for t in build_problem(d).plan.tail] == ["inner"]


@pytest.mark.parametrize("name", zoo())
def test_layout_covers_the_tail_and_the_text_names_every_group(name: str) -> None:
    d = zoo()[name]
    plan = build_problem(d).plan
    assert sorted(plan.chain + plan.tail) == list(range(len(d.terms)))
    at = 0
    for slot, t in zip(plan.layout, plan.tail, strict=True):
        assert (slot.offset, slot.k, slot.J) == (at, d.terms[t].k, d.terms[t].J)
        assert slot.columns == slice(at, at + slot.k * slot.J)
        at = slot.columns.stop
    assert tail.size(plan.layout) == at
    text = str(plan)
    for term in d.terms:
        assert f"{term.group}: {term.J} levels x {term.k}" in text
    assert ("dense tail:" in text) == bool(plan.tail)
    assert plan.backend in text


def test_a_tail_beyond_memory_is_refused_with_the_groups_and_the_size() -> None:
    terms = (TermSize("user", 1, 900_000), TermSize("item", 2, 15_000), TermSize("shop", 1, 10))
    with pytest.raises(
        CapacityError, match=r"item \(15000 levels\), shop \(10 levels\).* 30010 x 30010 \(7 GB\)"
    ):
        make_plan(terms, {(0, 1): False, (0, 2): False, (1, 2): False}, factorization="exact")


def test_large_crossed_terms_are_iterative_and_small_ones_stay_dense() -> None:
    terms = (
        TermSize("user", 1, 900_000),
        TermSize("item", 2, 15_000),
        TermSize("shop", 1, 4_000),
        TermSize("day", 1, 7),
    )
    crossed = {(t, s): False for t in range(4) for s in range(t + 1, 4)}
    plan = make_plan(terms, crossed)
    assert (plan.chain, plan.tail, plan.iterative) == ((0,), (3,), (1, 2))
    assert plan.order == (0, 3, 1, 2)
    assert "item: 15000 levels x 2, by conjugate gradients" in str(plan)
    with pytest.raises(
        CapacityError,
        match=r"A profile needs the exact factorisation, but item \(15000 levels\), shop \(4000 levels\)",
    ):
        plan.require_exact("A profile")
    nested = make_plan(terms, {**crossed, (0, 3): True})
    assert (nested.chain, nested.tail, nested.iterative) == ((0, 3), (), (1, 2))


def test_nested_factors_are_eliminated_together_even_beside_a_larger_one() -> None:
    terms = (
        TermSize("user", 1, 90_000),
        TermSize("product", 1, 50_000),
        TermSize("brand", 1, 6_000),
    )
    crossed = {(0, 1): False, (0, 2): False, (1, 2): False}
    assert make_plan(terms, crossed).iterative == (1, 2)
    plan = make_plan(terms, {**crossed, (1, 2): True})
    assert (plan.chain, plan.tail, plan.iterative) == ((1, 2), (), (0,))


def test_the_exact_limit_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    terms = (TermSize("a", 1, 50_000), TermSize("b", 1, 6_000))
    assert make_plan(terms, {(0, 1): False}).iterative == (1,)
    assert make_plan(terms, {(0, 1): False}, "jax").iterative == (1,)  # JAX on a CPU is no faster
    with monkeypatch.context() as there:
        there.setattr(backend, "has_accelerator", lambda: True)
        for memory, limit, most in (
            (None, 30_000, 30_000),
            (140 * 2**30, 30_000, 50_000),
            (2**30, 4_000, 4_230),
        ):
            there.setattr(backend, "device_memory", lambda memory=memory: memory)
            for q, asked, exact in (
                (limit, "auto", True),
                (limit + 1_000, "auto", False),
                (most, "exact", True),
            ):
                plan = make_plan(
                    (TermSize("a", 1, 60_000), TermSize("b", 1, q)), {(0, 1): False}, "jax", asked
                )
                assert bool(plan.tail) == exact
            with pytest.raises(CapacityError, match="stops at"):
                make_plan(
                    (TermSize("a", 1, 60_000), TermSize("b", 1, most + 1_000)),
                    {(0, 1): False},
                    "jax",
                    "exact",
                )
        assert make_plan(terms, {(0, 1): False}).iterative == (1,)
    assert make_plan(terms, {(0, 1): False}, factorization="exact").tail == (1,)
    assert make_plan(terms[:1], {}, factorization="iterative").iterative == ()


def test_a_nested_giant_needs_no_tail() -> None:
    terms = (
        TermSize("row", 2, 3_000_000),
        TermSize("user", 1, 900_000),
        TermSize("town", 1, 40_000),
    )
    plan = make_plan(terms, {(0, 1): True, (0, 2): True, (1, 2): True})
    assert plan.chain == (0, 1, 2)
    assert plan.layout == ()


def test_nested_in_the_first_only_is_not_enough() -> None:
    """A later factor joins the chain only when every eliminated one is nested in it."""
    terms = (TermSize("a", 1, 100), TermSize("b", 1, 50), TermSize("c", 1, 10))
    assert make_plan(terms, {(0, 1): True, (0, 2): True, (1, 2): False}).chain == (0, 1)
    assert make_plan(terms, {(0, 1): False, (0, 2): True, (1, 2): False}).chain == (0, 2)


def test_a_chain_whose_couplings_do_not_fit_becomes_tail() -> None:
    terms = (TermSize("a", 1, 100_000), TermSize("b", 1, 2_000), TermSize("c", 1, 1_000))
    nested = {(0, 1): True, (0, 2): False, (1, 2): False}
    assert 100_000 * 1_000 > plans.CHAIN_LIMIT
    plan = make_plan(terms, nested)
    assert plan.chain == (0,)
    assert np.sum([slot.J for slot in plan.layout]) == 3_000
