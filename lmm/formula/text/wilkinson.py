"""A right-hand side without random terms -> its terms, by R's rules (``?formula``, terms.formula).

A term is a set of factors. ``a:b`` joins, ``a*b`` is ``a + b + a:b``, ``a/b`` is ``a + a:b``, ``(a + b)^2`` all products of two,
``a %in% b`` is ``a:b``, ``-`` takes terms away. Terms are sorted by the number of their factors, the factors of a term by where
they first occur in the formula. What is no operator of formulas is an expression, and one factor: ``log(x)``, ``x > 3``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache

from lmm.errors import FormulaError
from lmm.formula.text.expressions import atom_end, ends_operand, is_atom, operand_end, python
from lmm.formula.text.names import aliased
from lmm.formula.text.tokens import COMPARISONS, Token, operator_word, scan

#: terms that a formula may have
MOST_TERMS = 100_000


@dataclass(frozen=True)
class WrittenFactor:
    """``text`` as the user wrote it; ``code`` what is evaluated; ``column`` says whether it is a name alone."""

    text: str
    code: str
    column: bool

    @property
    def source(self) -> str:
        """``text`` as it may stand between ``:`` and ``+``."""
        return (
            self.text
            if is_atom(self.text) and not self.text.startswith("(")
            else "{" + self.text + "}"
        )


@dataclass(frozen=True)
class RightSide:
    """``terms`` in order, each the positions of its factors in ``factors``; whether there is an ``intercept``."""

    factors: tuple[WrittenFactor, ...]
    terms: tuple[tuple[int, ...], ...]
    intercept: bool


#: terms as bit patterns over the factors, in the order met
Terms = dict[int, None]


@dataclass
class _TermReader:
    """Recursive descent, one level of brackets at a time: ``+ -`` < ``* /`` < ``%in%`` < ``:`` < ``^``."""

    source: str
    tokens: tuple[Token, ...]
    awkward: Collection[str]
    whole: str
    factors: dict[str, int] = field(default_factory=dict)
    found: list[WrittenFactor] = field(default_factory=list)
    intercept: bool = True
    adding: bool = True
    at: int = 0
    end: int = 0

    def fail(self, message: str, first: int, last: int | None = None) -> FormulaError:
        """An error that points at the tokens ``first`` to ``last``; their place in the whole formula is looked up."""
        first = min(first, len(self.tokens) - 1)
        start, stop = self.tokens[first].start, self.tokens[first if last is None else last].stop
        base = self.whole.find(self.source)
        if base >= 0:
            return FormulaError(message, self.whole, (base + start, base + stop))
        piece = self.source[start:stop]
        span = (
            (self.whole.index(piece), self.whole.index(piece) + len(piece))
            if self.whole.count(piece) == 1
            else None
        )
        return FormulaError(message, self.whole, span)

    def peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < self.end else None

    def operator(self, *texts: str) -> str:
        token = self.peek()
        return (
            token.text if token is not None and token.kind == "op" and token.text in texts else ""
        )

    def level(self, end: int) -> Terms:
        """What stands between ``self.at`` and ``end``."""
        outer, self.end = self.end, end
        out = self.condition() if self.is_condition() else self.sum()
        if self.at < end:
            raise self.fail("an operator is missing before this.", self.at)
        self.end = outer
        return out

    def is_condition(self) -> bool:
        """Whether the own level of these brackets compares or joins conditions: all of it is one expression then."""
        i, comparison, signs = self.at, -1, -1
        while i < self.end:
            token = self.tokens[i]
            if (
                token.kind == "op" and token.text in (COMPARISONS - {"%in%"} | {"~"})
            ) or operator_word(self.tokens, i):
                comparison = i if comparison < 0 else comparison
            elif (
                token.text in ("+", "-")
                and token.kind == "op"
                and i > self.at
                and ends_operand(self.tokens, i - 1)
            ):
                signs = i
            i = token.match + 1 if token.kind == "open" else i + 1
        if comparison >= 0 and signs >= 0:
            message = (
                "a comparison binds weaker than '+' and '-': put it in brackets, as in z + (x > 3)."
            )
            raise self.fail(message, comparison)
        return comparison >= 0

    def condition(self) -> Terms:
        first, self.at = self.at, self.end
        return self.expression(first, self.end)

    def expression(self, first: int, stop: int) -> Terms:
        """The tokens ``first`` to ``stop`` as one factor that is evaluated."""
        text = self.source[self.tokens[first].start : self.tokens[stop - 1].stop]
        inside = (
            text[1:-1]
            if self.tokens[first].text == "{" and self.tokens[first].match == stop - 1
            else text
        )
        try:
            code = python(aliased(inside, self.awkward))
        except FormulaError as error:
            reason = str(error).partition("\n")[0]
            raise self.fail(f"cannot read {text}: {reason}", first, stop - 1) from None
        return self.factor(WrittenFactor(text, code, False))

    def factor(self, factor: WrittenFactor) -> Terms:
        if factor.code not in self.factors:
            self.factors[factor.code] = len(self.found)
            self.found.append(factor)
        return {1 << self.factors[factor.code]: None}

    def sum(self) -> Terms:
        out: Terms = {}
        sign = self.operator("+", "-")
        if sign:
            self.at += 1
        while True:
            adding, self.adding = self.adding, self.adding != (sign == "-")
            right = self.number() if self.is_number() else self.product()
            self.adding = adding
            if sign == "-":
                for term in right:
                    out.pop(term, None)
            else:
                out |= right
            sign = self.operator("+", "-")
            if not sign:
                return out
            self.at += 1

    def is_number(self) -> bool:
        token = self.peek()
        after = self.tokens[self.at + 1] if self.at + 1 < self.end else None
        return (
            token is not None
            and token.kind == "number"
            and (after is None or after.text in ("+", "-"))
        )

    def number(self) -> Terms:
        token = self.tokens[self.at]
        if token.text not in ("0", "1"):
            raise self.fail(
                "a number stands in a formula as 1 or 0, for an intercept or none; compute with I(...).",
                self.at,
            )
        self.intercept = self.adding == (token.text == "1")
        self.at += 1
        return {}

    def product(self) -> Terms:
        out = self.special()
        while operator := self.operator("*", "/"):
            self.at += 1
            right = self.special()
            if operator == "*":
                out = {**out, **right, **self.crossed(out, right)}
            else:
                every = _union(out)
                out = {**out, **{every | term: None for term in right}}
        return out

    def special(self) -> Terms:
        first, stop = self.at, operand_end(self.tokens, self.at)
        while stop < self.end and self.is_arithmetic(self.tokens[stop]):
            if stop + 1 == self.end:
                raise self.fail("something is missing after this.", stop)
            self.at = stop = operand_end(self.tokens, stop + 1)
        if self.at > first:
            return self.expression(first, stop)
        out = self.crossing()
        while self.operator("%in%"):
            self.at += 1
            if self.is_vector():
                raise self.fail(
                    "between terms %in% means ':'; write I(f %in% c('a', 'b')) for membership.",
                    self.at - 1,
                )
            within = _union(self.crossing())
            out = {term | within: None for term in out}
        return out

    def is_arithmetic(self, token: Token) -> bool:
        return token.kind == "op" and (
            token.text == "//" or (token.text.startswith("%") and token.text != "%in%")
        )

    def is_vector(self) -> bool:
        """Whether values stand here, ``c('a', 'b')``, ``['a', 'b']`` or ``'a'``, rather than a column."""
        token = self.peek()
        if token is None:
            return False
        called = self.at + 1 < self.end and self.tokens[self.at + 1].call
        return token.kind == "string" or token.text in ("[", "{") or (token.text == "c" and called)

    def crossing(self) -> Terms:
        out = self.power()
        while self.operator(":"):
            self.at += 1
            out = self.crossed(out, self.power())
        return out

    def power(self) -> Terms:
        out = self.atom()
        while self.operator("^", "**"):
            self.at += 1
            token = self.peek()
            if (
                token is None
                or token.kind != "number"
                or not token.text.isdecimal()
                or int(token.text[:9]) < 1
            ):
                raise self.fail(
                    "the power of a term is a whole number from 1 on; compute with I(x^2).", self.at
                )
            self.at += 1
            base = dict(out)
            for _ in range(min(int(token.text[:9]), len(base)) - 1):
                out = {**out, **self.crossed(out, base)}
        return out

    def crossed(self, left: Terms, right: Terms) -> Terms:
        if len(left) * len(right) > 20 * MOST_TERMS:
            raise FormulaError(f"the formula has more than {MOST_TERMS:,} terms.", self.whole)
        out = {a | b: None for a in left for b in right}
        if len(out) > MOST_TERMS:
            raise FormulaError(f"the formula has more than {MOST_TERMS:,} terms.", self.whole)
        return out

    def atom(self) -> Terms:
        token, first = self.peek(), self.at
        if token is None:
            raise self.fail("a term is missing after this.", self.at - 1 if self.at else 0)
        if token.kind == "open" and token.text == "(" and not token.call:
            if token.match == first + 1:
                raise self.fail("these brackets are empty.", first, first + 1)
            self.at = first + 1
            if self.brackets_hold_an_operand(first):
                out = self.level(token.match)
                self.at = token.match + 1
                return out
            self.at = atom_end(self.tokens, first)
            return self.expression(first, self.at)
        if token.kind not in ("name", "quoted") and token.text != "{":
            raise self.fail(self.why_no_term(token), first)
        self.at = atom_end(self.tokens, first)
        if self.at == first + 1:
            name = aliased(token.text, self.awkward)
            if name.isidentifier():
                return self.factor(WrittenFactor(token.text, name, True))
        return self.expression(first, self.at)

    def brackets_hold_an_operand(self, first: int) -> bool:
        """Whether brackets stand by themselves, and not as in ``(a + b).mean()``."""
        return atom_end(self.tokens, first) == self.tokens[first].match + 1

    def why_no_term(self, token: Token) -> str:
        if token.kind == "number":
            return "a number stands in a formula as 1 or 0 between '+' and '-' signs; compute with I(...)."
        if token.kind == "string":
            return "text in quotes is no term; a column's name stands by itself or in backticks."
        if token.text == ".":
            return "'.' has no meaning here; write the columns."
        return "a term is missing before this."


def _union(terms: Terms) -> int:
    out = 0
    for term in terms:
        out |= term
    return out


def _positions(term: int) -> tuple[int, ...]:
    """The factors of a term, ascending."""
    out = []
    while term:
        lowest = term & -term
        out.append(lowest.bit_length() - 1)
        term ^= lowest
    return tuple(out)


@lru_cache(maxsize=512)
def right_side(text: str, whole: str, awkward: frozenset[str] = frozenset()) -> RightSide:
    """The terms of ``text``; ``whole`` is the formula that errors repeat.

    Raises
    ------
    FormulaError : with the place.

    Examples
    --------
    >>> found = right_side("meanses*cses + sector*cses", "")
    >>> [":".join(found.factors[i].text for i in term) for term in found.terms]
    ['meanses', 'cses', 'sector', 'meanses:cses', 'cses:sector']
    """
    tokens = scan(text)
    if not tokens:
        raise FormulaError("the right-hand side is empty; write 1 for an intercept alone.", whole)
    reader = _TermReader(text, tokens, awkward, whole)
    terms = reader.level(len(tokens))
    return RightSide(
        tuple(reader.found), tuple(sorted(map(_positions, terms), key=len)), reader.intercept
    )
