"""Reading ``residual=``."""

from __future__ import annotations

import pytest

from lmm.errors import FormulaError
from lmm.formula.text.residual_formula import parse_residual


@pytest.mark.parametrize(
    ("text", "structure", "columns", "subject", "strata", "nugget"),
    [
        ("us(visit | id)", "us", ("visit",), ("id",), (), False),
        ("us(0 + visit|id)", "us", ("visit",), ("id",), (), False),
        ("us(visit | arm/id)", "us", ("visit",), ("id", "arm"), ("arm",), False),
        ("us(visit | site:id)", "us", ("visit",), ("site", "id"), (), False),
        ("diag(sex)", "diag", ("sex",), (), (), False),
        ("diag(sex:arm)", "diag", ("sex", "arm"), (), (), False),
        ("us(factor(x) | id) + nugget", "us", ("factor(x)",), ("id",), (), True),
        ("us(`a b` | 1)", "us", ("`a b`",), ("1",), (), False),
    ],
)
def test_what_is_read(
    text: str,
    structure: str,
    columns: tuple[str, ...],
    subject: tuple[str, ...],
    strata: tuple[str, ...],
    nugget: bool,
) -> None:
    read = parse_residual(text)
    found = (read.structure, read.columns, tuple(read.subject), tuple(read.strata), read.nugget)
    assert found == (structure, columns, subject, strata, nugget)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (3, "residual= is text"),
        ("", "is written us"),
        ("visit", "is written us"),
        ("dig(visit | id)", "'dig' is not a covariance structure.*Did you mean 'diag'"),
        ("us(visit)", "needs the subjects"),
        ("us(visit | id) + x", r"only '\+ nugget'"),
        ("us(| id)", "what tells the rows apart is missing"),
        ("us(visit |)", "the subjects are missing"),
        ("us(visit | a + b)", "what the subjects are"),
        ("us(visit | a | b)", "one bar"),
        ("us(visit || b)", "one bar"),
    ],
)
def test_what_cannot_be_read_says_what_to_write(text: object, message: str) -> None:
    with pytest.raises(FormulaError, match=message):
        parse_residual(text)
