"""Linear hypotheses from text: ``"Days = 10"``, ``"a = b = 0"``, ``"2*Days - (x + z)/3"`` -> L beta = rhs.

A coefficient is written as its name is printed, brackets and all (``period[T.2]``, ``poly(x, 2)[1]``), blanks inside it not
counting, or in backticks; ``(Intercept)`` is the intercept too. A side without ``=`` is compared with zero, a chain compares
neighbours, and commas part several hypotheses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmm.errors import FormulaError, nearest
from lmm.formula.text.tokens import QUOTED, quote, unquote

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WORD = re.compile(r"[^\W\d][\w.]*")
_OPEN, _CLOSE = "([{", ")]}"
_EDGES = _OPEN + _CLOSE + "+-*/:,=<>'\""


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """r statements L beta = rhs.

    Attributes
    ----------
    labels : each as the user wrote it.
    L : (r, p) weights of the coefficients.
    rhs : (r,) right-hand sides.
    """

    labels: tuple[str, ...]
    L: np.ndarray
    rhs: np.ndarray


def parse(texts: str | Sequence[str], names: Sequence[str]) -> Hypotheses:
    """Read hypotheses about the coefficients ``names``.

    Raises
    ------
    FormulaError : repeats the text with a caret under what cannot be read; an unknown coefficient gets the nearest name.

    Examples
    --------
    >>> from lmm.inference.tests.hypotheses import parse
    >>> found = parse("Days = 10", ["Intercept", "Days"])
    >>> found.L.tolist(), found.rhs.tolist()
    ([[0.0, 1.0]], [10.0])
    >>> parse("a = b = 0", ["a", "b"]).L.tolist()
    [[1.0, -1.0], [0.0, 1.0]]
    """
    labels: list[str] = []
    rows: list[np.ndarray] = []
    right: list[float] = []
    for text in [texts] if isinstance(texts, str) else texts:
        for label, row in _HypothesisReader(text, names).statements():
            labels.append(label)
            rows.append(row[:-1])
            right.append(0.0 - row[-1])
    return Hypotheses(tuple(labels), np.array(rows).reshape(len(rows), len(names)), np.array(right))


@dataclass(frozen=True)
class _Token:
    """``kind`` is number, name, or the character itself; ``value`` the number or the coefficient's position."""

    kind: str
    start: int
    stop: int
    value: float = 0.0


def _loose(name: str) -> re.Pattern[str]:
    """A name with any blanks around its punctuation, and at least one where it has one between two words."""
    pieces = re.findall(r"[\w.]+|[^\w\s]", name)
    out, at = "", 0
    for piece in pieces:
        start = name.index(piece, at)
        apart = start > at and at and name[at - 1] not in _EDGES and piece[0] not in _EDGES
        out += (r"\s+" if apart else r"\s*" if at else "") + re.escape(piece)
        at = start + len(piece)
    return re.compile(out)


class _HypothesisReader:
    """Recursive descent over one text. A linear form is an array (p + 1,), the constant last."""

    def __init__(self, text: str, names: Sequence[str]):
        if not isinstance(text, str):
            raise FormulaError(
                f"a hypothesis is a string such as 'x = 0', not {type(text).__name__}."
            )
        self.text, self.names, self.at = text, list(names), 0
        self.tokens = self._scan()

    # ---- tokens ----

    def _scan(self) -> list[_Token]:
        spelt = {name: i for i, name in enumerate(self.names)}
        if "Intercept" in spelt:
            spelt.setdefault("(Intercept)", spelt["Intercept"])
        patterns = [(_loose(name), i) for name, i in spelt.items() if name.strip()]
        out, at = [], 0
        while at < len(self.text):
            c = self.text[at]
            if c.isspace():
                at += 1
                continue
            if c == "`":
                token = self._quoted(at, spelt)
            else:
                stop, place = self._name(at, patterns)
                number = _NUMBER.match(self.text, at)
                if stop:
                    token = _Token("name", at, stop, place)
                elif number:
                    token = _Token("number", at, number.end(), float(number.group()))
                elif c in "+-*/()=,":
                    token = _Token(c, at, at + 1)
                elif _WORD.match(self.text, at):
                    raise self._unknown(at, self._extent(at))
                else:
                    raise self._error(
                        f"the character {c!r} has no meaning in a hypothesis", at, at + 1
                    )
            out.append(token)
            at = token.stop
        return out

    def _name(self, at: int, patterns: Sequence[tuple[re.Pattern[str], int]]) -> tuple[int, int]:
        """End and position of the longest coefficient's name that begins here; (0, 0) for none."""
        matches = [
            (m.end(), i)
            for pattern, i in patterns
            if (m := pattern.match(self.text, at)) and self._ends(m.end())
        ]
        stop = max((end for end, _ in matches), default=0)
        places = {i for end, i in matches if end == stop}
        exact = {i for i in places if self.names[i] == self.text[at:stop]}
        if len(places) > 1 and len(exact) != 1:
            names = ", ".join(quote(self.names[i]) for i in sorted(places))
            raise self._error(f"this may be any of {names}; write it in backticks", at, stop)
        return stop, next(iter(exact or places), 0)

    def _ends(self, stop: int) -> bool:
        """Whether a name can end here: nothing follows that would make it a longer one."""
        rest = self.text[stop : stop + 1]
        return not rest or not (rest.isalnum() or rest in "_.[:")

    def _extent(self, start: int) -> int:
        """End of what looks like a coefficient's name."""
        at, depth = start, 0
        while at < len(self.text):
            c = self.text[at]
            if c in _OPEN:
                depth += 1
            elif c in _CLOSE:
                if not depth:
                    break
                depth -= 1
            elif not depth and not (c.isalnum() or c in "_.:"):
                break
            at += 1
        return at

    def _quoted(self, at: int, spelt: dict[str, int]) -> _Token:
        found = QUOTED.match(self.text, at)
        if found is None:
            raise self._error("this backtick is not closed", at, at + 1)
        name = unquote(found.group())
        if name not in spelt:
            raise self._unknown(at, found.end())
        return _Token("name", at, found.end(), spelt[name])

    # ---- grammar ----

    def statements(self) -> list[tuple[str, np.ndarray]]:
        """(label, form that is to be zero) per hypothesis."""
        out: list[tuple[str, np.ndarray]] = []
        while True:
            sides = [self._side()]
            while self._take("="):
                sides.append(self._side())
            if len(sides) == 1:
                out.append((sides[0][1], sides[0][0]))
            for (one, first), (other, second) in zip(sides[:-1], sides[1:], strict=True):
                out.append((f"{first} = {second}", one - other))
            if not self._take(","):
                break
        if self.at < len(self.tokens):
            token = self.tokens[self.at]
            raise self._error(
                f"an operator or '=' was expected before {self._words(token)!r}",
                token.start,
                token.stop,
            )
        for label, form in out:
            if not np.any(form[:-1]):
                raise self._error(f"{label!r} says nothing of a coefficient", 0, len(self.text))
        return out

    def _side(self) -> tuple[np.ndarray, str]:
        first = self.at
        form = self._sum()
        return form, self.text[self.tokens[first].start : self.tokens[self.at - 1].stop]

    def _sum(self) -> np.ndarray:
        total = self._product()
        while (sign := self._take("+") or self._take("-")) is not None:
            total = total + self._product() if sign.kind == "+" else total - self._product()
        return total

    def _product(self) -> np.ndarray:
        total = self._factor()
        while (sign := self._take("*") or self._take("/")) is not None:
            start = self.at
            other = self._factor()
            span = (self.tokens[start].start, self.tokens[self.at - 1].stop)
            if sign.kind == "/":
                if np.any(other[:-1]) or other[-1] == 0.0:
                    raise self._error(
                        "a hypothesis is linear: only a number other than zero can be divided by",
                        *span,
                    )
                total = total / other[-1]
            elif not np.any(other[:-1]):
                total = total * other[-1]
            elif not np.any(total[:-1]):
                total = other * total[-1]
            else:
                raise self._error(
                    "a hypothesis is linear: coefficients cannot be multiplied with each other",
                    *span,
                )
        return total

    def _factor(self) -> np.ndarray:
        if self._take("-"):
            return -self._factor()
        if self._take("+"):
            return self._factor()
        out = np.zeros(len(self.names) + 1)
        if token := self._take("number"):
            out[-1] = token.value
            return out
        if token := self._take("name"):
            out[int(token.value)] = 1.0
            return out
        if opening := self._take("("):
            inner = self._sum()
            if not self._take(")"):
                raise self._error("this '(' is never closed", opening.start, opening.stop)
            return inner
        if self.at < len(self.tokens):
            token = self.tokens[self.at]
            raise self._error(
                f"a coefficient or a number was expected in place of {self._words(token)!r}",
                token.start,
                token.stop,
            )
        raise self._error(
            "a coefficient or a number was expected at the end", len(self.text), len(self.text) + 1
        )

    def _take(self, kind: str) -> _Token | None:
        if self.at < len(self.tokens) and self.tokens[self.at].kind == kind:
            self.at += 1
            return self.tokens[self.at - 1]
        return None

    def _words(self, token: _Token) -> str:
        return self.text[token.start : token.stop]

    # ---- errors ----

    def _error(self, message: str, start: int, stop: int) -> FormulaError:
        return FormulaError(f"cannot read the hypothesis: {message}.", self.text, (start, stop))

    def _unknown(self, start: int, stop: int) -> FormulaError:
        word = unquote(self.text[start:stop])
        hint = nearest(word, self.names) or f" The coefficients are {', '.join(self.names)}."
        return FormulaError(
            f"the model has no coefficient {word!r}.{hint}", self.text, (start, stop)
        )
