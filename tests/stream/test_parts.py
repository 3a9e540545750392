"""Partial sums of partitions: each once, in order, errors as themselves, inputs as they were."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from lmm.errors import DataError, FormulaError
from lmm.stream.clusters.parts import (
    Part,
    combine,
    evaluate,
    evaluate_prepared,
    finished,
    preparation,
)
from lmm.stream.reducers import Reduction


def start() -> np.ndarray:
    return np.zeros(2)


def add(sums: np.ndarray, block: list[float]) -> np.ndarray:
    if min(block) < 0:
        raise DataError(f"{min(block)} is negative")
    sums += [len(block), sum(block)]
    return sums


def merge(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a += b
    return a


REDUCTION = Reduction(("x",), start, add, merge)
VERSION = __import__("lmm").__version__


def part(number: int, *blocks: list[float]) -> Part:
    return evaluate(REDUCTION, blocks, number, VERSION)


def test_sums_of_all_partitions_whatever_the_order():
    parts = [part(0, [1.0, 2.0]), part(1), part(2, [4.0], [8.0]), part(3, [16.0])]
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
        total = combine([parts[i] for i in order], merge)
        assert finished(total, 4, REDUCTION).tolist() == [5, 31]
    nested = combine([combine(parts[2:], merge), combine(parts[:2], merge)], merge)
    assert finished(nested, 4, REDUCTION).tolist() == [5, 31]


def test_parts_are_not_changed_by_being_merged():
    """A scheduler may run a merge again with the same inputs."""
    parts = [part(0), part(1, [1.0]), part(2, [2.0])]
    first = combine(parts, merge)
    second = combine(parts, merge)
    assert (
        finished(first, 3, REDUCTION).tolist() == finished(second, 3, REDUCTION).tolist() == [2, 3]
    )
    assert parts[1].value.tolist() == [1, 1]


def test_a_partition_that_comes_twice_is_refused():
    with pytest.raises(DataError, match="partition 1 came twice"):
        combine([combine([part(0, [1.0]), part(1, [1.0])], merge), part(1, [1.0])], merge)


def test_a_partition_that_is_not_there_is_missed():
    with pytest.raises(DataError, match="partition 1 is not in the sum"):
        finished(combine([part(0, [1.0]), part(2, [1.0])], merge), 3, REDUCTION)


def test_no_rows_at_all_are_the_sums_of_none():
    assert finished(combine([part(0), part(1)], merge), 2, REDUCTION).tolist() == [0, 0]


def test_the_first_error_comes_back_as_itself():
    parts = [part(0, [1.0]), part(1, [-1.0]), part(2, [-2.0]), part(3)]
    for order in (parts, parts[::-1]):
        total = pickle.loads(pickle.dumps(combine(order, merge)))
        with pytest.raises(DataError, match="^-1.0 is negative$"):
            finished(total, 4, REDUCTION)


def test_errors_with_a_place_in_the_formula_survive_the_journey():
    error = FormulaError("no such thing", "y ~ x + (1|g)", (4, 5))
    back = pickle.loads(pickle.dumps(Part(frozenset({0}), error=error))).error
    assert (str(back), back.span, type(back)) == (str(error), (4, 5), FormulaError)


def test_errors_while_merging_are_carried_too():
    def refuse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        raise DataError("too many levels")

    with pytest.raises(DataError, match="too many levels"):
        finished(combine([part(0, [1.0]), part(1, [1.0]), part(2, [1.0])], refuse), 3, REDUCTION)


def test_another_version_on_the_workers_is_told():
    with pytest.raises(DataError, match="the workers have lmm .*asked for by lmm 0.0.0"):
        finished(evaluate(REDUCTION, [[1.0]], 0, "0.0.0"), 1, REDUCTION)


def test_prepared_blocks():
    double = preparation((), lambda block: [2 * x for x in block])
    doubled = evaluate(double, [[1.0], [2.0, 3.0]], 0, VERSION)
    assert evaluate_prepared(REDUCTION, doubled, VERSION).value.tolist() == [3, 12]
    failed = evaluate(preparation((), lambda block: add(start(), block)), [[-1.0]], 0, VERSION)
    with pytest.raises(DataError, match="negative"):
        finished(evaluate_prepared(REDUCTION, failed, VERSION), 1, REDUCTION)
