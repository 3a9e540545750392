"""Random models on random data: no foreign exception, no warning of NumPy's, and one model has one answer however it is given.

``LMM_FUZZ=50000 pytest -s tests/fuzz`` tries so many of each kind, goes on after a failure and prints what came how often;
``LMM_FUZZ_SEED=1`` tries others.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.cases import Case, generalized, linear, variants, vary
from tests.fuzz.examine import answer, complaints, lower_elsewhere, unlike_in_chunks

BY_HAND = int(os.environ.get("LMM_FUZZ", 0))
SEED = 1000 * int(os.environ.get("LMM_FUZZ_SEED", 0))
PARTS = 8
MORE = ("nothing", "nothing", "nothing", "start 0.1", "start 1", "start 10", "start 100", "chunks")


def problems(case: Case, changes: dict[str, Any], more: str) -> list[str]:
    """Everything that is wrong with one case."""
    one = answer(case)
    found = complaints(case, vary(case, **changes), one)
    if more.startswith("start"):
        found += lower_elsewhere(case, float(more.split()[1]), one)
    elif more == "chunks":
        found += unlike_in_chunks(case, 17, one)
    return found


def run(kind: st.SearchStrategy[Case], examples: int, number: int, allowed: int = 0) -> None:
    """Try ``examples`` cases of a kind, print the first of each complaint, and fail where more than ``allowed`` cases have one."""
    count: Counter[str] = Counter()

    @seed(SEED + number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(kind, variants(), st.sampled_from(MORE))
    def check(case: Case, changes: dict[str, Any], more: str) -> None:
        found = problems(case, changes, more)
        count["tried"] += 1
        count["wrong"] += bool(found)
        count["foreign"] += any("foreign" in text for text in found)
        for text in found:
            what = text[:70]
            count[what] += 1
            if count[what] == 1:
                print(
                    f"\n{text}\n{sorted(changes['kinds'])}, seed {changes['seed']}, power {changes['power']}: {case!r}",
                    flush=True,
                )

    check()
    print(f"\npart {number}: {dict(count)}", flush=True)
    if not BY_HAND:
        assert count["foreign"] == 0
        assert count["wrong"] <= allowed


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_linear_models(part: int) -> None:
    """2,000 in all.

    One of a part's 250 may disagree: of small data one set in a thousand has two optima that no sign tells of, and which of them a search
    finds can hang on rounding, which differs from processor to processor.
    """
    run(linear(), (BY_HAND or 2_000) // PARTS, part, allowed=1)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_generalized_models(part: int) -> None:
    """500 in all; searches are longest with few rows and several terms, of which there are more by hand.

    Two of a part's 62 may disagree: from the far side of a flat likelihood, searches end at one optimum or at another by rounding alone.
    """
    run(
        generalized() if BY_HAND else generalized(least=40, several=6),
        (BY_HAND or 500) // PARTS,
        100 + part,
        allowed=2,
    )
