"""Terms of right-hand sides against R: attr(terms(~ text), "term.labels") and attr(, "intercept")."""

import pytest

from lmm.errors import FormulaError
from lmm.formula.text.formula_terms import simplified, terms
from lmm.formula.text.wilkinson import right_side

# R 4.2: term labels in R's order, spaces of calls aside
CASES = {
    "meanses*cses + sector*cses": "1 meanses cses sector meanses:cses cses:sector",
    "c:a + b*a": "1 b a c:a a:b",
    "b:a + a": "1 a b:a",
    "a*b*c - a:b:c": "1 a b c a:b a:c b:c",
    "a/b": "1 a a:b",
    "(a + b)/c": "1 a b a:b:c",
    "a/(b + c)": "1 a a:b a:c",
    "(a + b + c)^2": "1 a b c a:b a:c b:c",
    "(a + b)^20": "1 a b a:b",
    "x^2": "1 x",
    "a %in% b": "1 a:b",
    "a + b %in% a": "1 a a:b",
    "a*b %in% c": "1 a b:c a:b:c",
    "(a + b) %in% (c + d)": "1 a:c:d b:c:d",
    "a - a": "1",
    "a + b - a": "1 b",
    "a*b - a": "1 b a:b",
    "0 + a": "a",
    "a - 1": "a",
    "-1 + a": "a",
    "a - 1 + 1": "1 a",
    "a - 0": "1 a",
    "a:b:a": "1 a:b",
    "1": "1",
    "0": "",
    "log(x)*a + log(x)": "1 log(x) a log(x):a",
    "+ a": "1 a",
    "((a)) + (b + (c))": "1 a b c",
}


@pytest.mark.parametrize("text", CASES)
def test_terms_are_those_of_r(text):
    assert [term.label for term in terms(text, text)] == CASES[text].split()


@pytest.mark.parametrize("text", CASES)
def test_terms_written_out_are_the_same_terms(text):
    assert [term.factors for term in terms(simplified(text, text), text)] == [
        term.factors for term in terms(text, text)
    ]


def test_a_comparison_is_one_factor():
    assert [f.code for f in right_side("x > 3", "").factors] == ["x > 3"]
    assert [f.code for f in right_side("z + (x > 3 & !b)*I(u %% 2 == 0)", "").factors] == [
        "z",
        "(x > 3) & ~b",
        "I(u % 2 == 0)",
    ]
    assert [f.code for f in right_side("x %% 2", "").factors] == ["x % 2"]
    again = simplified("z + (x > 3)*w", "")
    assert [f.code for f in right_side(again, "").factors] == ["z", "x > 3", "w"]


REFUSED = {
    "z + x > 3": (">", "brackets"),
    "x +": ("+", "missing"),
    "x + * z": ("*", "missing"),
    "x z": ("z", "operator is missing"),
    "2*x": ("2", "I("),
    "x + 2": ("2", "1 or 0"),
    "x^y": ("y", "whole number"),
    "x^0": ("0", "whole number"),
    "x + ()": ("()", "empty"),
    "'a' + x": ("'a'", "quotes"),
    "f %in% c('a', 'b')": ("%in%", "membership"),
    "f %in% 'a'": ("%in%", "membership"),
    "log(x +) + z": ("log(x +)", "cannot read"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_has_no_terms_is_refused_with_its_place(text):
    above, message = REFUSED[text]
    with pytest.raises(FormulaError) as caught:
        right_side(text, "y ~ " + text)
    assert message in str(caught.value)
    start, stop = caught.value.span
    assert ("y ~ " + text)[start:stop] == above


def test_too_many_terms_are_told():
    names = [f"x{i}" for i in range(30)]
    with pytest.raises(FormulaError, match="more than 100,000 terms"):
        right_side("*".join(names), "")
    with pytest.raises(FormulaError, match="more than 100,000 terms"):
        right_side(f"({' + '.join(names)})^15", "")
