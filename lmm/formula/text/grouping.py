"""What stands right of a bar -> the grouping factors that it means.

``a/b`` is ``a + b:a``, ``a*b`` is ``a + b + a:b``, ``a + b`` two factors. Each grouping factor is a
tuple of expressions whose levels are joined; its label joins their texts with ``:`` as lme4 does,
which prints the third level of ``a/b/c`` as ``c:(b:a)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lmm.errors import FormulaError
from lmm.formula.text.membership import is_membership, membership
from lmm.formula.text.tokens import Token, scan, unquote


class Interaction(tuple[str, ...]):
    """Expressions whose joint levels are the groups. ``nested_in`` says how many at the end came from the left of a slash."""

    nested_in: int

    def __new__(cls, names: Iterable[str], nested_in: int = 0) -> Interaction:
        self = super().__new__(cls, names)
        self.nested_in = nested_in
        return self

    def __getnewargs__(self) -> tuple[object, ...]:
        return (tuple(self), self.nested_in)


@dataclass
class _GroupingReader:
    """Recursive descent over the tokens of one grouping expression: ``+`` < ``*`` ``/`` < ``:``."""

    source: str
    tokens: tuple[Token, ...]
    offset: int
    formula: str
    at: int = 0

    def fail(self, message: str, token: Token | None) -> FormulaError:
        last = self.tokens[-1]
        start, stop = (token.start, token.stop) if token else (last.start, last.stop)
        return FormulaError(message, self.formula, (start + self.offset, stop + self.offset))

    def peek(self) -> Token | None:
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def take(self, *operators: str) -> str | None:
        token = self.peek()
        if token is not None and token.kind == "op" and token.text in operators:
            self.at += 1
            return token.text
        return None

    def sum(self) -> list[Interaction]:
        out = self.product()
        while self.take("+"):
            out = _union(out, self.product())
        return out

    def product(self) -> list[Interaction]:
        out = self.crossing()
        while operator := self.take("/", "*"):
            right = self.crossing()
            if operator == "/":
                common = out[-1]
                for other in out[:-1]:
                    common = (
                        _join(common, other)
                        if any(name not in common for name in other)
                        else common
                    )
                out = _union(out, [_join(inner, common, nested=True) for inner in right])
            else:
                out = _union(_union(out, right), [_join(a, b) for a in out for b in right])
        return out

    def crossing(self) -> list[Interaction]:
        out = self.atom()
        while self.take(":"):
            out = [_join(a, b) for a in out for b in self.atom()]
        return out

    def atom(self) -> list[Interaction]:
        token = self.peek()
        if token is None:
            raise self.fail("a grouping factor is missing here.", None)
        if token.kind == "open" and not token.call and token.text == "(":
            self.at += 1
            out = self.sum()
            self.at += 1
            return out
        if token.kind not in ("name", "quoted") and not (
            token.kind == "open" and token.text == "{"
        ):
            raise self.fail(
                "a grouping factor is a column, or an expression such as factor(x), a:b or a/b.",
                token,
            )
        end = token
        while self.at < len(self.tokens) and (
            self.tokens[self.at] is token or self.tokens[self.at].call
        ):
            opener = self.tokens[self.at]
            self.at = opener.match + 1 if opener.kind == "open" else self.at + 1
            end = self.tokens[self.at - 1]
        return [Interaction((self.source[token.start : end.stop],))]


def _join(a: Interaction, b: Interaction, nested: bool = False) -> Interaction:
    more = [name for name in b if name not in a]
    return Interaction((*a, *more), len(more) if nested and more == list(b) else 0)


def _union(a: list[Interaction], b: list[Interaction]) -> list[Interaction]:
    return a + [term for term in b if term not in a]


def grouping_factors(text: str, formula: str, offset: int) -> list[Interaction]:
    """Grouping factors of ``text``, which starts at ``offset`` in ``formula`` (for the caret of an error)."""
    reader = _GroupingReader(text, scan(text), offset, formula)
    out = reader.sum()
    if (rest := reader.peek()) is not None:
        raise reader.fail(
            "a grouping factor is a column, or an expression such as factor(x), a:b or a/b.", rest
        )
    return out


def label(factors: tuple[str, ...]) -> str:
    """Name of a grouping factor as printed: backticks gone, interactions joined by ``:``, ``c:(b:a)`` from ``a/b/c``."""
    names = [membership(name).label if is_membership(name) else unquote(name) for name in factors]
    outer = getattr(factors, "nested_in", 0)
    if outer < 2:
        return ":".join(names)
    # each step of a chain of slashes adds one name on the left and one pair of brackets
    inside = names[-2] + ":" + names[-1]
    for name in reversed(names[-outer:-2]):
        inside = f"{name}:({inside})"
    return ":".join([*names[:-outer], f"({inside})"])
