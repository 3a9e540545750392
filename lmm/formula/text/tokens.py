"""Formula text -> tokens with their place in the text.

Quotes and backticks are opaque; brackets are matched here, so that every later stage may trust
them and point at the user's own characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from lmm.errors import FormulaError

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<quoted>`(?:[^`\\]|\\[`\\]|\\(?![`\\]))*`)
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>(?:[^\W\d]|\.(?=[^\W\d]))[\w.]*)
      | (?P<open>[(\[{])
      | (?P<close>[)\]}])
      | (?P<op>%[^%\s]*%|\|\||\*\*|//|<=|>=|==|!=|<-|[|~+\-*/:^.,=<>&!;%])
      | (?P<odd>.)""",
    re.VERBOSE | re.DOTALL,
)
_PAIRS = {"(": ")", "[": "]", "{": "}"}
#: a name in backticks
QUOTED = re.compile(r"`(?:[^`\\]|\\[`\\]|\\(?![`\\]))*`")
_PLAIN = re.compile(r"(?:[^\W\d]|\.(?=[^\W\d]))[\w.]*")
_ESCAPED = re.compile(r"\\([`\\])")
_OPERATOR_WORDS = frozenset(("and", "or", "not", "in", "is", "if", "else", "for", "lambda"))
#: operators that compare or join conditions
COMPARISONS = frozenset(("<", ">", "<=", ">=", "==", "!=", "&", "!", "%in%"))
#: brackets inside one another, and signs in a row, that a formula may have
DEEPEST = 60


@dataclass(frozen=True)
class Token:
    """One token: ``text == source[start:stop]``; ``kind`` is string, quoted, number, name, open, close or op.

    ``match`` is the position in the token list of the bracket that closes (or opens) this one, and
    ``call`` says that an opening bracket belongs to the name right before it, as in ``log(x)``.
    """

    kind: str
    text: str
    start: int
    stop: int
    match: int = -1
    call: bool = False


@lru_cache(maxsize=512)
def scan(text: str) -> tuple[Token, ...]:
    """Tokens of ``text`` without white space; FormulaError for a quote or bracket that is not closed."""
    tokens: list[Token] = []
    waiting: list[int] = []
    signs = 0
    for found in _TOKEN.finditer(text):
        kind, piece, (start, stop) = str(found.lastgroup), found.group(), found.span()
        match, call = -1, False
        if kind == "space":
            continue
        if kind == "odd":
            what = (
                "this quote is not closed"
                if piece in "\"'`"
                else f"the character {piece!r} has no meaning in a formula"
            )
            raise FormulaError(f"cannot read the formula: {what}.", text, (start, stop))
        if kind == "open":
            before = tokens[-1] if tokens else None
            call = piece == "{" or (
                before is not None
                and before.stop == start
                and before.kind in ("name", "quoted", "close")
            )
            waiting.append(len(tokens))
            if len(waiting) > DEEPEST:
                raise FormulaError(
                    f"cannot read the formula: more than {DEEPEST} brackets inside one another.",
                    text,
                    (start, stop),
                )
        elif kind == "close":
            if not waiting or _PAIRS[tokens[waiting[-1]].text] != piece:
                raise FormulaError(
                    f"cannot read the formula: nothing is open that this {piece!r} could close.",
                    text,
                    (start, stop),
                )
            match = waiting.pop()
            opener = tokens[match]
            tokens[match] = Token(
                opener.kind, opener.text, opener.start, opener.stop, len(tokens), opener.call
            )
        signs = signs + 1 if piece in ("-", "+", "!", "~") else 0
        if signs > DEEPEST:
            raise FormulaError(
                f"cannot read the formula: more than {DEEPEST} signs in a row.", text, (start, stop)
            )
        tokens.append(Token(kind, piece, start, stop, match, call))
    if waiting:
        opener = tokens[waiting[-1]]
        raise FormulaError(
            f"cannot read the formula: this {opener.text!r} is never closed.",
            text,
            (opener.start, opener.stop),
        )
    return tuple(tokens)


def quote(name: str) -> str:
    """A column's name as a formula takes it: as it is, or in backticks, a backtick or backslash in it after a backslash.

    Every formula that is put together from names goes through here, so that no name is read as anything but a name.

    Examples
    --------
    >>> quote("a.b"), quote("odd name"), quote("a`b")
    ('a.b', '`odd name`', '`a\\\\`b`')
    """
    if _PLAIN.fullmatch(name) and name not in _OPERATOR_WORDS:
        return name
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def unquote(text: str) -> str:
    """The name that a text is: :func:`quote` undone; any text that is not one name in backticks is returned as it is."""
    return _ESCAPED.sub(r"\1", text[1:-1]) if QUOTED.fullmatch(text) else text


def outside(tokens: tuple[Token, ...]) -> list[Token]:
    """Tokens outside every bracket."""
    out, i = [], 0
    while i < len(tokens):
        out.append(tokens[i])
        i = tokens[i].match if tokens[i].kind == "open" else i + 1
    return out


def operator_word(tokens: Sequence[Token], i: int) -> bool:
    """Whether a name is Python's word between or before operands, ``x in y``, ``not x``, and not a column of that name."""
    token = tokens[i]
    if token.kind != "name" or token.text not in _OPERATOR_WORDS or i + 1 >= len(tokens):
        return False
    after = tokens[i + 1]
    return (
        after.kind in ("name", "quoted", "number", "string", "open")
        or after.text in ("-", "+", "!", "~")
        or token.text == "lambda"
    )


def spaced(text: str) -> str:
    """``text`` with each run of white space as one blank, what stands in quotes and backticks untouched."""
    out: list[str] = []
    stop = 0
    for token in scan(text):
        if out and token.start > stop:
            out.append(" ")
        out.append(token.text)
        stop = token.stop
    return "".join(out)


def inside(tokens: tuple[Token, ...], opener: int) -> list[Token]:
    """Tokens at the own level of the bracket at ``opener``."""
    return outside(tuple(_moved(t, opener + 1) for t in tokens[opener + 1 : tokens[opener].match]))


def _moved(token: Token, by: int) -> Token:
    return replace(token, match=token.match - by) if token.match >= 0 else token
