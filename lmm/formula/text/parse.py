"""Formula text -> response, fixed part and random terms; what a bar means is decided here, and nothing is evaluated.

A bracket that holds a bar at its own level is a random term. It is lifted out together with one
neighbouring ``+``; what is left is a Wilkinson formula that goes on untouched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise

from lmm.covariance import STRUCTURES
from lmm.errors import FormulaError, nearest
from lmm.formula.text.expressions import python
from lmm.formula.text.grouping import Interaction, grouping_factors, label
from lmm.formula.text.membership import Membership, is_membership, membership
from lmm.formula.text.names import aliased, awkward_names
from lmm.formula.text.residual_formula import ResidualFormula
from lmm.formula.text.tokens import (
    COMPARISONS,
    Token,
    inside,
    operator_word,
    outside,
    quote,
    scan,
    spaced,
)

#: how a text begins whose columns do without an intercept, and the grouping factor that all rows share
NONE, EVERYTHING = "0 + ", "1"


@dataclass(frozen=True)
class Bar:
    """One random term for one grouping factor.

    Attributes
    ----------
    columns : left of the bar, ``"1 + x"``.
    factors : the expressions whose joint levels are the groups; one, or several for ``a:b``.
    structure : word of the covariance structure, a key of ``lmm.covariance.STRUCTURES``.
    span : half-open range of the term in the formula's text.
    rank : number of factors, of a structure that takes one.
    """

    columns: str
    factors: Interaction
    structure: str
    span: tuple[int, int]
    rank: int = 0

    @property
    def group(self) -> str:
        """Name of the grouping factor, ``"Subject"`` or ``"cask:batch"``."""
        return label(self.factors)

    @property
    def coordinates(self) -> bool:
        """Whether the columns are coordinates of positions."""
        return STRUCTURES[self.structure].over_coordinates

    @property
    def memberships(self) -> tuple[Membership, ...]:
        """How rows belong to several of its levels, of ``mm()``; none for a grouping factor."""
        return tuple(membership(factor) for factor in self.factors if is_membership(factor))

    @property
    def source(self) -> str:
        """Where all columns come from that are made of coordinates, ``"exp(lat + lon)"``."""
        return f"{self.structure}({self.columns.removeprefix(NONE)})"

    def __str__(self) -> str:
        group = ":".join(self.factors)
        if self.structure == "us":
            return f"({self.columns} | {group})"
        if self.coordinates:
            return f"{self.source[:-1]} | {group})"
        if self.structure == "diag":
            return f"({self.columns} || {group})"
        rank = f", d={self.rank}" if self.rank else ""
        return f"{self.structure}({self.columns} | {group}{rank})"


@dataclass(frozen=True)
class Formula:
    """A mixed-model formula that has been read, not yet met any data.

    Attributes
    ----------
    text : as the user wrote it.
    response : text left of ``~``; empty for a one-sided formula.
    fixed : the fixed part, right of ``~``, bars and offsets lifted out; ``"1"`` when nothing is left.
    bars : random terms in the order written, ``(1|a/b)`` already expanded.
    offsets : expressions inside ``offset(...)``.
    cbind : the arguments of ``cbind(...)`` on the left, or empty.
    residual : how residuals are correlated, read from ``residual=``; None for independent ones.
    components : the one-sided formulas of further linear predictors by name, ``("disp", ~ x)``.
    """

    text: str
    response: str
    fixed: str
    bars: tuple[Bar, ...]
    offsets: tuple[str, ...] = ()
    cbind: tuple[str, ...] = ()
    residual: ResidualFormula | None = None
    components: tuple[tuple[str, Formula], ...] = ()

    def __str__(self) -> str:
        parts = [
            self.fixed,
            *(str(bar) for bar in self.bars),
            *(f"offset({o})" for o in self.offsets),
        ]
        if self.fixed == "1" and self.bars and not _explicit_one(self.text):
            parts = parts[1:]
        return f"{self.response} ~ {' + '.join(parts)}".strip()

    @cached_property
    def expressions(self) -> tuple[str, ...]:
        """Every text of the formula that names columns."""
        out = [self.response, self.fixed, *self.offsets]
        for bar in self.bars:
            out += [bar.columns, *bar.factors]
        if self.residual is not None:
            out += self.residual.expressions
        for _, component in self.components:
            out += component.expressions
        return tuple(dict.fromkeys(text for text in out if text))

    @cached_property
    def predictors(self) -> tuple[str, ...]:
        """Every text of the formula whose columns are coded: fixed parts and the columns of random terms, of all predictors."""
        out = [self.fixed, *(bar.columns for bar in self.bars)]
        for _, component in self.components:
            out += component.predictors
        return tuple(dict.fromkeys(out))

    @property
    def varies(self) -> bool:
        """Whether more than the mean is modelled: residuals with a structure, further linear predictors."""
        return self.residual is not None or bool(self.components)

    @property
    def sides(self) -> tuple[Formula, ...]:
        """The formula of each linear predictor, that of the mean first."""
        return (self, *(component for _, component in self.components))

    def bars_of(self, factors: Interaction) -> tuple[Bar, ...]:
        """The random terms of one grouping factor."""
        return tuple(bar for bar in self.bars if bar.factors == factors)

    @cached_property
    def awkward(self) -> frozenset[str]:
        """Names in the formula that evaluation would misread if they are columns."""
        return frozenset().union(*(awkward_names(text) for text in self.expressions))

    @cached_property
    def has_dot(self) -> bool:
        """Whether the fixed part uses ``.`` for all other columns."""
        return any(token.kind == "op" and token.text == "." for token in scan(self.fixed))

    def with_dot(self, columns: tuple[str, ...]) -> Formula:
        """The same formula with ``.`` written out as a sum of ``columns``."""
        names = " + ".join(quote(name) for name in columns) or "0"
        out, at = [], 0
        for token in scan(self.fixed):
            if token.kind == "op" and token.text == ".":
                out += [self.fixed[at : token.start], f"({names})"]
                at = token.stop
        return replace(self, fixed="".join(out) + self.fixed[at:])


def _explicit_one(text: str) -> bool:
    return any(token.kind == "number" for token in outside(scan(text.rpartition("~")[2])))


@lru_cache(maxsize=256)
def parse(text: str, one_sided: bool = False) -> Formula:
    """Read a formula.

    Parameters
    ----------
    text : ``"y ~ x + (x|g)"``; see the table of random terms in the documentation.
    one_sided : whether ``"~ (1|g)"`` without a response is meant.

    Raises
    ------
    FormulaError : with the formula and a caret under the part that cannot be read.

    Examples
    --------
    >>> from lmm.formula import parse
    >>> formula = parse("Reaction ~ Days + (Days|Subject)")
    >>> formula.fixed, formula.bars[0].group
    ('Days', 'Subject')
    """
    if not isinstance(text, str):
        raise FormulaError(
            f"a formula is a string such as 'y ~ x + (1|g)', not {type(text).__name__}."
        )
    text = one_line(text)
    tokens = scan(text)
    top = outside(tokens)
    tildes = [token for token in top if token.text == "~"]
    if not tildes:
        if not tokens:
            raise FormulaError("the formula is empty; write 'y ~ x + (1|g)'.", text)
        raise FormulaError(
            "the formula has no '~' between response and predictors; write 'y ~ x + (1|g)'.", text
        )
    if len(tildes) > 1:
        raise FormulaError("the formula has a second '~'.", text, (tildes[1].start, tildes[1].stop))
    tilde = tildes[0]
    response = text[: tilde.start].strip()
    if bool(response) == one_sided:
        what = (
            "a one-sided formula such as '~ (1|g)' is wanted here."
            if one_sided
            else "the response is missing left of '~'."
        )
        raise FormulaError(what, text, (0, tilde.stop))
    for token in tokens:
        if token.stop <= tilde.start and token.text in ("|", "||") and token in top:
            raise FormulaError(
                "a random term stands right of '~'.", text, (token.start, token.stop)
            )
    if response:
        _check_expression(
            response, text, (text.index(response), text.index(response) + len(response))
        )
    bars, offsets, fixed = _lift(text, tokens, tilde)
    return Formula(text, spaced(response), fixed, bars, offsets, cbind_arguments(response))


def _check_expression(text: str, formula: str, span: tuple[int, int]) -> None:
    """FormulaError that points at a part of ``formula`` which is to be evaluated and cannot be read."""
    try:
        python(aliased(text, awkward_names(text)))
    except FormulaError as error:
        raise FormulaError(str(error).partition("\n")[0], formula, span) from None


def one_line(text: str) -> str:
    """Line breaks and tabs between tokens as blanks, so that a caret has a place; names and text in quotes keep theirs."""
    out, at = [], 0
    for token in scan(text):
        out += [" " * (token.start - at), token.text]
        at = token.stop
    return "".join(out) + " " * (len(text) - at)


def _lift(
    text: str, tokens: tuple[Token, ...], tilde: Token
) -> tuple[tuple[Bar, ...], tuple[str, ...], str]:
    """Random terms, offsets and what remains of the right-hand side."""
    bars: list[Bar] = []
    offsets: list[str] = []
    cut: list[tuple[int, int]] = []
    i = tokens.index(tilde) + 1
    first = i
    while i < len(tokens):
        token = tokens[i]
        if token.text in ("|", "||"):
            raise FormulaError(
                "a random term needs parentheses: write (1|g).", text, (token.start, token.stop)
            )
        if token.kind != "open":
            i += 1
            continue
        word = tokens[i - 1].text if token.call and token.text == "(" else ""
        bar = [t for t in inside(tokens, i) if t.text in ("|", "||")]
        begin = i - 1 if word else i
        span = (tokens[begin].start, tokens[token.match].stop)
        if word == "offset":
            given = text[token.stop : tokens[token.match].start].strip()
            if not given:
                raise FormulaError("this offset is empty; write offset(z).", text, span)
            _check_expression(given, text, span)
            offsets.append(given)
        elif bar and (word in STRUCTURES or (not word and token.text == "(")):
            bars += _read_bar(text, (token.stop, tokens[token.match].start), bar, word, span)
        else:
            if token.call:
                _refuse_inside_call(text, tokens, i)
            else:
                _refuse_nested(text, tokens, i)
            i = token.match + 1
            continue
        cut.append(
            _removed(
                text,
                tokens,
                begin,
                token.match,
                first,
                span,
                "an offset" if word == "offset" else "a random term",
            )
        )
        i = token.match + 1
    return tuple(bars), tuple(offsets), _remaining(text, tilde.stop, cut)


def _refuse_nested(text: str, tokens: tuple[Token, ...], opener: int) -> None:
    """Ordinary brackets may not hide a random term or an offset."""
    i = opener + 1
    while i < tokens[opener].match:
        token = tokens[i]
        if token.text in ("|", "||"):
            start = max(
                j for j in range(opener, i) if tokens[j].kind == "open" and tokens[j].match > i
            )
            span = (tokens[start].start, tokens[tokens[start].match].stop)
            raise FormulaError(
                "a random term stands between '+' signs, outside other brackets: write y ~ x + (1|g).",
                text,
                span,
            )
        if token.kind == "open" and token.call:
            word, span = tokens[i - 1].text, (tokens[i - 1].start, tokens[token.match].stop)
            if word == "offset":
                raise FormulaError(
                    "an offset stands between '+' signs, outside other brackets.", text, span
                )
            if word in STRUCTURES and any(t.text in ("|", "||") for t in inside(tokens, i)):
                raise FormulaError(
                    "a random term stands between '+' signs, outside other brackets.", text, span
                )
            i = token.match
        i += 1


def _refuse_inside_call(text: str, tokens: tuple[Token, ...], opener: int) -> None:
    """A bar inside a call is R's ``or`` between conditions; beside a number, or in a covariance structure, it is a lost random term."""
    enclosing = [opener]
    for i in range(opener + 1, tokens[opener].match):
        token = tokens[i]
        if token.kind == "open":
            enclosing.append(i)
        elif token.kind == "close":
            enclosing.pop()
        elif token.kind == "op" and token.text in ("|", "||"):
            bracket = enclosing[-1]
            begin = bracket - 1 if tokens[bracket].call else bracket
            if _between_numbers(tokens, bracket, i) or tokens[begin].text in STRUCTURES:
                span = (tokens[begin].start, tokens[tokens[bracket].match].stop)
                message = "a random term stands between '+' signs, outside other brackets: write y ~ x + (1|g)."
                raise FormulaError(message + unknown_structure(text[slice(*span)]), text, span)


def _between_numbers(tokens: tuple[Token, ...], bracket: int, bar: int) -> bool:
    """Whether a number that nothing is compared with stands beside a bar."""
    for step in (-1, 1):
        i, number = bar + step, False
        while tokens[i].text not in (",", "|", "||", "&") and not (
            i == bracket or i == tokens[bracket].match
        ):
            token = tokens[i]
            if (token.kind == "op" and token.text in COMPARISONS) or operator_word(tokens, i):
                number = False
                break
            number = number or token.kind == "number"
            i = token.match + step if token.kind in ("open", "close") else i + step
        if number:
            return True
    return False


def _removed(
    text: str,
    tokens: tuple[Token, ...],
    begin: int,
    end: int,
    first: int,
    span: tuple[int, int],
    what: str,
) -> tuple[int, int]:
    """Range to cut: the term and the ``+`` before it, or the one after it where it comes first."""
    before = tokens[begin - 1] if begin > first else None
    after = tokens[end + 1] if end + 1 < len(tokens) else None
    if before is not None and before.text == "-":
        raise FormulaError(
            f"{what} cannot be subtracted; leave it out instead.", text, (before.start, span[1])
        )
    if before is not None and before.text != "+":
        raise FormulaError(f"{what} can only be added, with '+'.", text, span)
    if after is not None and after.text not in ("+", "-"):
        raise FormulaError(
            f"{what} must be followed by '+', '-' or the end.", text, (span[0], after.stop)
        )
    if before is not None:
        return before.start, span[1]
    return span[0], after.stop if after is not None and after.text == "+" else span[1]


def _remaining(text: str, start: int, cut: list[tuple[int, int]]) -> str:
    kept, at = [], start
    for begin, end in cut:
        kept.append(text[at : max(at, begin)])
        at = max(at, end)
    rest = spaced("".join(kept) + text[at:])
    return rest.removeprefix("+").strip() or "1"


def _read_bar(
    text: str, inner: tuple[int, int], bar: list[Token], word: str, span: tuple[int, int]
) -> list[Bar]:
    """The random terms that one bracket means."""
    if len(bar) > 1:
        raise FormulaError(
            "a random term has one bar: (columns | group).", text, (bar[1].start, bar[1].stop)
        )
    at = bar[0]
    columns, right = spaced(text[inner[0] : at.start]), text[at.stop : inner[1]]
    if not columns or not right.strip():
        side = "columns are missing left" if not columns else "grouping factor is missing right"
        raise FormulaError(f"the {side} of the bar: write (1 | g) or (x | g).", text, span)
    if at.text == "||":
        if word not in ("", "diag"):
            raise FormulaError(
                f"'||' is short for diag(x | g); write {word}(x | g) with one bar.",
                text,
                (at.start, at.stop),
            )
        word = "diag"
    if any(a.text == "offset" and b.text == "(" for a, b in pairwise(scan(columns))):
        raise FormulaError(
            "an offset belongs to the fixed part, not inside a random term.", text, span
        )
    start = at.stop + len(right) - len(right.lstrip())
    if word and STRUCTURES[word].over_coordinates and not columns.startswith(NONE):
        columns = NONE + columns
    if right.strip() == EVERYTHING:
        if not (word and STRUCTURES[word].alone):
            words = ", ".join(name for name, structure in STRUCTURES.items() if structure.alone)
            raise FormulaError(
                f"(... | 1) is one group of all rows, of which only some structures tell a variance: {words}.",
                text,
                span,
            )
        return [Bar(columns, Interaction((EVERYTHING,)), word, span)]
    right, rank = _rank(right, word, text, span)
    factors = grouping_factors(right.strip(), text, start)
    for group in factors:
        _check_membership(group, text, span)
    for factor in dict.fromkeys(name for group in factors for name in group):
        _check_expression(factor, text, span)
    return [Bar(columns, group, word or "us", span, rank) for group in factors]


def _check_membership(group: Interaction, text: str, span: tuple[int, int]) -> None:
    """FormulaError for a call of ``mm()`` that cannot be read, or stands beside other factors."""
    for factor in group:
        if not is_membership(factor):
            continue
        if len(group) > 1:
            raise FormulaError(
                "mm(...) stands alone right of a bar, (1 | mm(a, b)); make columns of the joint groups for an interaction.",
                text,
                span,
            )
        try:
            membership(factor)
        except FormulaError as error:
            raise FormulaError(str(error).partition("\n")[0], text, span) from None


def _rank(right: str, word: str, text: str, span: tuple[int, int]) -> tuple[str, int]:
    """What stands right of the bar without ``d=2``, and that number; 0 where there is none."""
    commas = [token for token in outside(scan(right)) if token.text == ","]
    takes = bool(word) and STRUCTURES[word].takes_rank
    if not commas:
        return right, 2 if takes else 0
    said = re.fullmatch(r"\s*d\s*=\s*([1-9]\d*)\s*", right[commas[0].stop :])
    if said is None or not takes:
        raise FormulaError(
            "of the covariance structures rr alone takes an argument, the number of its factors: rr(0 + f | g, d=2).",
            text,
            span,
        )
    return right[: commas[0].start], int(said[1])


def cbind_arguments(response: str) -> tuple[str, ...]:
    """Arguments of a response ``cbind(a, b)``."""
    tokens = scan(response)
    if (
        len(tokens) < 3
        or tokens[0].text != "cbind"
        or not tokens[1].call
        or tokens[1].match != len(tokens) - 1
    ):
        return ()
    commas = [0, *(t.start for t in inside(tokens, 1) if t.text == ","), tokens[-1].start]
    commas[0] = tokens[1].start
    return tuple(response[a + 1 : b].strip() for a, b in zip(commas, commas[1:], strict=False))


def unknown_structure(text: str) -> str:
    """A hint when a call with a bar inside is not a known structure, ``digg(x|g)``; else an empty string."""
    tokens = scan(text)
    for i, token in enumerate(tokens):
        if token.call and i and any(t.text in ("|", "||") for t in inside(tokens, i)):
            word = tokens[i - 1].text
            return f" Covariance structures are written {', '.join(f'{s}(x | g)' for s in STRUCTURES)}.{nearest(word, STRUCTURES)}"
    return ""
