"""``mm(a, b, weights=cbind(w1, w2))`` right of a bar -> its members and weights: rows that belong to several groups at once.

The words are those of brms: the effects of a row's groups are averaged, with equal weights or with given ones, which are divided by
their sum unless ``scale=FALSE`` (Browne, Goldstein & Rasbash, 2001, Statistical Modelling 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from lmm.errors import FormulaError
from lmm.formula.text.tokens import Token, inside, scan, unquote

WORD = "mm"
#: how ``scale=`` may be written
_SWITCHES = {"TRUE": True, "True": True, "T": True, "FALSE": False, "False": False, "F": False}


@dataclass(frozen=True)
class Membership:
    """The arguments of ``mm()``.

    Attributes
    ----------
    members : the expressions whose values are the groups of a row.
    weights : the expressions of their weights; none for equal ones.
    scale : whether weights are divided by their sum.
    """

    members: tuple[str, ...]
    weights: tuple[str, ...]
    scale: bool

    @property
    def label(self) -> str:
        """How tables name the grouping factor, ``"mm(a, b)"``."""
        return f"{WORD}({', '.join(unquote(member) for member in self.members)})"


def is_membership(text: str) -> bool:
    """Whether a grouping factor is a call of ``mm()``."""
    tokens = scan(text)
    return (
        len(tokens) > 1
        and tokens[0].text == WORD
        and tokens[1].call
        and tokens[1].match == len(tokens) - 1
    )


@lru_cache(maxsize=256)
def membership(text: str) -> Membership:
    """Read ``mm(...)``.

    Raises
    ------
    FormulaError : fewer than two members, an argument that ``mm()`` does not have, weights that are no ``cbind()`` of one for each member.
    """
    members: list[str] = []
    weights: tuple[str, ...] = ()
    scale = True
    for piece in _arguments(text, scan(text), 1):
        tokens = scan(piece)
        if len(tokens) < 2 or tokens[1].text != "=":
            members.append(piece)
            continue
        name, value = tokens[0].text, piece[tokens[1].stop :].strip()
        if name == "weights":
            weights = _weights(value)
        elif name == "scale" and value in _SWITCHES:
            scale = _SWITCHES[value]
        elif name == "scale":
            raise FormulaError(f"mm(): scale is TRUE or FALSE, not {value}.")
        else:
            raise FormulaError(
                f"mm() has no argument {name!r}; it takes grouping columns, weights=cbind(w1, w2) and scale=."
            )
    if len(members) < 2:
        raise FormulaError("mm() takes two or more grouping columns: (1 | mm(a, b)).")
    twice = next((member for member in members if members.count(member) > 1), None)
    if twice is not None:
        raise FormulaError(f"mm() has the member {twice} twice.")
    if not scale and not weights:
        raise FormulaError(
            "mm(): scale=FALSE takes weights as they are, and there are none; weights=cbind(1, 1) adds effects up."
        )
    if weights and len(weights) != len(members):
        raise FormulaError(
            f"mm() has {len(members)} members and {len(weights)} weights; give one for each, in the order of the members."
        )
    return Membership(tuple(members), weights, scale)


def _weights(text: str) -> tuple[str, ...]:
    tokens = scan(text)
    if (
        len(tokens) < 3
        or tokens[0].text != "cbind"
        or not tokens[1].call
        or tokens[1].match != len(tokens) - 1
    ):
        raise FormulaError(
            f"mm(): weights are one column for each member, weights=cbind(w1, w2), not {text}."
        )
    return tuple(_arguments(text, tokens, 1))


def _arguments(text: str, tokens: tuple[Token, ...], opener: int) -> list[str]:
    """The texts between the commas of one bracket."""
    commas = [token for token in inside(tokens, opener) if token.text == ","]
    starts = [tokens[opener].stop, *(token.stop for token in commas)]
    stops = [*(token.start for token in commas), tokens[tokens[opener].match].start]
    pieces = [text[a:b].strip() for a, b in zip(starts, stops, strict=True)]
    if "" in pieces:
        raise FormulaError(f"{text} has an empty argument.")
    return pieces
