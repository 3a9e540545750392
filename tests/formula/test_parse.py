"""Every row of the table of formulas, and every formula that is refused, with its caret."""

import pickle

import pytest

from lmm.errors import FormulaError
from lmm.formula import parse
from lmm.formula.text.tokens import quote, scan, spaced, unquote

ACCEPTED = {
    # formula: (response, fixed, [(columns, factors, structure)], offsets)
    "y ~ x + (x|g)": ("y", "x", [("x", ("g",), "us")], ()),
    "y ~ x + (1+x|g)": ("y", "x", [("1+x", ("g",), "us")], ()),
    "y ~ (0+x|g)": ("y", "1", [("0+x", ("g",), "us")], ()),
    "y ~ (x||g) + x": ("y", "x", [("x", ("g",), "diag")], ()),
    "y ~ x + diag(x | g)": ("y", "x", [("x", ("g",), "diag")], ()),
    "y ~ x + us(x | g)": ("y", "x", [("x", ("g",), "us")], ()),
    "y ~ (1|a/b)": ("y", "1", [("1", ("a",), "us"), ("1", ("b", "a"), "us")], ()),
    "y ~ (1|a/b/c)": (
        "y",
        "1",
        [("1", ("a",), "us"), ("1", ("b", "a"), "us"), ("1", ("c", "b", "a"), "us")],
        (),
    ),
    "y ~ (1|a:b)": ("y", "1", [("1", ("a", "b"), "us")], ()),
    "y ~ (1|a*b)": (
        "y",
        "1",
        [("1", ("a",), "us"), ("1", ("b",), "us"), ("1", ("a", "b"), "us")],
        (),
    ),
    "y ~ (1|a/(b+c))": (
        "y",
        "1",
        [("1", ("a",), "us"), ("1", ("b", "a"), "us"), ("1", ("c", "a"), "us")],
        (),
    ),
    "y ~ (1|a + b)": ("y", "1", [("1", ("a",), "us"), ("1", ("b",), "us")], ()),
    "y ~ (1|factor(g, levels=[1, 2]))": (
        "y",
        "1",
        [("1", ("factor(g, levels=[1, 2])",), "us")],
        (),
    ),
    "y ~ (1|interaction(a, b):c)": ("y", "1", [("1", ("interaction(a, b)", "c"), "us")], ()),
    "y ~ x + offset(log(z)) + (1|g)": ("y", "x", [("1", ("g",), "us")], ("log(z)",)),
    "y ~ offset(z^2) + x + (1|g)": ("y", "x", [("1", ("g",), "us")], ("z^2",)),
    "y ~ I(x^2) + x^2 + (I(x^2)|g)": ("y", "I(x^2) + x^2", [("I(x^2)", ("g",), "us")], ()),
    "y ~ I(x|z) + `a|b` + (1+log(x)|g) + (0+z||a:b) - 1": (
        "y",
        "I(x|z) + `a|b` - 1",
        [("1+log(x)", ("g",), "us"), ("0+z", ("a", "b"), "diag")],
        (),
    ),
    "log(y + 1) ~ 0 + (1|g) + x": ("log(y + 1)", "0 + x", [("1", ("g",), "us")], ()),
    "y ~ (1|g) - 1": ("y", "- 1", [("1", ("g",), "us")], ()),
    "y ~ C(x, contr.sum) + `odd (name|` + a.b + (1|g)": (
        "y",
        "C(x, contr.sum) + `odd (name|` + a.b",
        [("1", ("g",), "us")],
        (),
    ),
    "y ~ f('a|b', \"(1|g)\") + (1|g)": ("y", "f('a|b', \"(1|g)\")", [("1", ("g",), "us")], ()),
    "y ~ x": ("y", "x", [], ()),
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_formula_is_taken_apart(text):
    formula = parse(text)
    bars = [(bar.columns, bar.factors, bar.structure) for bar in formula.bars]
    assert (formula.response, formula.fixed, bars, formula.offsets) == ACCEPTED[text]


REFUSED = {
    # formula: (what stands above the caret, part of the message)
    "y ~ x*(1|g)": ("(1|g)", "only be added"),
    "y ~ (1|g):x": ("(1|g):", "followed by"),
    "y ~ (1|g) (1|h)": ("(1|g) (", "followed by"),
    "y ~ x - (1|g)": ("- (1|g)", "cannot be subtracted"),
    "y ~ ((1|g))": ("(1|g)", "outside other brackets"),
    "y ~ (x + (1|g))": ("(1|g)", "outside other brackets"),
    "y ~ (x + diag(1|g))": ("diag(1|g)", "outside other brackets"),
    "y ~ (x + offset(z)) + (1|g)": ("offset(z)", "outside other brackets"),
    "y ~ x - offset(z) + (1|g)": ("- offset(z)", "cannot be subtracted"),
    "y ~ (a|b|c)": ("|", "one bar"),
    "y ~ x + 1|g": ("|", "needs parentheses"),
    "y ~ x + 1||g": ("||", "needs parentheses"),
    "y ~ (1|)": ("(1|)", "grouping factor is missing"),
    "y ~ (|g)": ("(|g)", "columns are missing"),
    "y ~ (1|3)": ("3", "a grouping factor is a column"),
    "y ~ (1|g h)": ("h", "a grouping factor is a column"),
    "y ~ (1|g/)": ("/", "missing"),
    "y ~ (1|g": ("(", "never closed"),
    "y ~ x) + (1|g)": (")", "nothing is open"),
    "y ~ f(x] + (1|g)": ("]", "nothing is open"),
    "y ~ 'a + (1|g)": ("'", "quote is not closed"),
    "y ~ `a + (1|g)": ("`", "quote is not closed"),
    "y ~ d$x + (1|g)": ("$", "no meaning"),
    "y ~ x ~ (1|g)": ("~", "second '~'"),
    "~ x + (1|g)": ("~", "response is missing"),
    "y | z ~ (1|g)": ("|", "right of '~'"),
    "y ~ us(x||g)": ("||", "one bar"),
    "y ~ (offset(x)|g)": ("(offset(x)|g)", "belongs to the fixed part"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_formula_points_at_the_place(text):
    above, message = REFUSED[text]
    with pytest.raises(
        FormulaError, match=message.replace("(", r"\(").replace(")", r"\)")
    ) as caught:
        parse(text)
    start, stop = caught.value.span
    assert text[start:stop] == above
    shown, caret = str(caught.value).splitlines()[-2:]
    assert shown == "    " + text
    assert caret == "    " + " " * start + "^" * (stop - start)


@pytest.mark.parametrize("text", ["", "y", "y + (1|g)"])
def test_formula_without_tilde(text):
    with pytest.raises(FormulaError, match="empty|no '~'"):
        parse(text)


def test_not_a_string():
    with pytest.raises(FormulaError, match="is a string"):
        parse(3)


def test_one_sided_formula():
    assert parse("~ (1|g)", one_sided=True).bars[0].group == "g"
    with pytest.raises(FormulaError, match="one-sided"):
        parse("y ~ (1|g)", one_sided=True)


def test_cbind_is_split():
    assert parse("cbind(a, f(b, c)) ~ (1|g)").cbind == ("a", "f(b, c)")
    assert parse("y ~ (1|g)").cbind == ()


def test_printing_reads_back_the_same():
    for text in ACCEPTED:
        formula = parse(text)
        again = parse(str(formula))
        assert (again.response, again.offsets) == (formula.response, formula.offsets)
        assert again.fixed.replace(" ", "").lstrip("+") == formula.fixed.replace(" ", "").lstrip(
            "+"
        )
        assert [(b.columns, b.factors, b.structure) for b in again.bars] == [
            (b.columns, b.factors, b.structure) for b in formula.bars
        ]


def test_group_labels_have_no_backticks():
    assert parse("y ~ (1|`my group`/b)").bars[1].group == "b:my group"


def test_formula_is_a_value():
    formula = parse("y ~ x + (1|g)")
    assert parse("y ~ x + (1|g)") is formula
    copy = pickle.loads(pickle.dumps(formula))
    assert copy == formula and hash(copy) == hash(formula)


def test_tokens_cover_the_text():
    text = "y ~ log(x_1) + `a b` %in% 'c d' + 1.5e-3:z || .hidden"
    pieces = [token.text for token in scan(text)]
    assert "".join(pieces) == "".join(text.split()) or "".join(pieces).replace(
        " ", ""
    ) == text.replace(" ", "")
    assert all(text[token.start : token.stop] == token.text for token in scan(text))


def test_a_formula_over_several_lines_is_one_line():
    assert parse("y ~ x +\n    (1|g)\n").bars[0].group == "g"
    with pytest.raises(
        FormulaError, match=r"\n    y ~ x -   \(1\|g\)\n          \^\^\^\^\^\^\^\^\^$"
    ):
        parse("y ~ x - \n (1|g)")


NAMES = [
    "a b",
    "a  b",
    "a\nb",
    "a`b",
    "a\\",
    "a\\`",
    "`",
    "``",
    "\\",
    "",
    "1",
    "a.b",
    "class",
    "in",
    "x` + {z} + `x",
    "ü",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_quoted_name_is_one_name_again(name):
    assert unquote(quote(name)) == name
    tokens = scan(f"x + {quote(name)}*{quote(name)}")
    assert [token.kind in ("name", "quoted") for token in tokens] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert unquote(tokens[2].text) == name


def test_white_space_in_quotes_and_backticks_is_kept():
    formula = parse("y  ~  `a  b`  +\n I(f ==  'c\td')  + (`e\nf`  +  1 |  `g  h`)")
    assert formula.fixed == "`a  b` + I(f == 'c\td')"
    assert formula.bars[0].columns == "`e\nf` + 1" and formula.bars[0].group == "g  h"
    assert spaced("  x +\n\t'a\n b'  ") == "x + 'a\n b'"


NESTED = {
    "y ~ log((1|g)) + (1|h)": "(1|g)",
    "y ~ log((1 + x|g)) + (1|h)": "(1 + x|g)",
    "y ~ I(1|g) + (1|h)": "I(1|g)",
    "y ~ exp(diag(x|g)) + (1|h)": "diag(x|g)",
}


@pytest.mark.parametrize("text", NESTED)
def test_a_random_term_in_a_call_is_refused(text):
    with pytest.raises(FormulaError, match="between '\\+' signs") as caught:
        parse(text)
    assert text[slice(*caught.value.span)] == NESTED[text]


@pytest.mark.parametrize(
    "text",
    ["y ~ I(u == 2 | u == 3) + (1|g)", "y ~ I((a | b) & u > 1) + (1|g)", "y ~ f(a | b, 1) + (1|g)"],
)
def test_or_inside_a_call_is_no_random_term(text):
    assert [bar.group for bar in parse(text).bars] == ["g"]


@pytest.mark.parametrize(
    "text",
    ["y ~ x + (1|" + "(" * 5000 + "g" + ")" * 5000 + ")", "y ~ I(" + "-" * 5000 + "x) + (1|g)"],
)
def test_a_formula_nested_too_deeply_is_refused(text):
    with pytest.raises(FormulaError, match="more than"):
        parse(text)


def test_an_empty_offset_is_refused():
    with pytest.raises(FormulaError, match="offset is empty"):
        parse("y ~ x + offset() + (1|g)")


def test_control_characters_do_not_reach_the_terminal():
    with pytest.raises(FormulaError) as caught:
        parse("y ~ `a\x1b[31mb` + (1|`c\nd` 3)")
    message = str(caught.value)
    assert "\x1b" not in message
    shown, caret = message.splitlines()[-2:]
    assert shown[caret.index("^")] == "3"


@pytest.mark.parametrize("term", ["csh(0 + x | g)", "arma(0 + t | g)", "digg(1 | g)"])
def test_a_structure_that_is_not_known_lists_those_that_are(term: str) -> None:
    with pytest.raises(FormulaError, match=r"Covariance structures are written us\(x \| g\)"):
        parse(f"y ~ x + {term}")
