"""Formula text -> tokens with their place in the text.

Quotes and backticks are opaque; brackets are matched here, so that every later stage may trust
them and point at the user's own characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from lmm.errors import FormulaError

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
      | (?P<quoted>`[^`]*`)
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>(?:[^\W\d]|\.(?=[^\W\d]))[\w.]*)
      | (?P<open>[(\[{])
      | (?P<close>[)\]}])
      | (?P<op>%[^%\s]*%|\|\||\*\*|//|<=|>=|==|!=|<-|[|~+\-*/:^.,=<>&!;%])
      | (?P<odd>.)""",
    re.VERBOSE | re.DOTALL,
)
_PAIRS = {"(": ")", "[": "]", "{": "}"}


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
    for found in _TOKEN.finditer(text):
        kind, piece, (start, stop) = str(found.lastgroup), found.group(), found.span()
        match, call = -1, False
        if kind == "space":
            continue
        if kind == "odd":
            what = "this quote is not closed" if piece in "\"'`" else f"the character {piece!r} has no meaning in a formula"
            raise FormulaError(f"cannot read the formula: {what}.", text, (start, stop))
        if kind == "open":
            before = tokens[-1] if tokens else None
            call = piece == "{" or (before is not None and before.stop == start and before.kind in ("name", "quoted", "close"))
            waiting.append(len(tokens))
        elif kind == "close":
            if not waiting or _PAIRS[tokens[waiting[-1]].text] != piece:
                raise FormulaError(f"cannot read the formula: nothing is open that this {piece!r} could close.", text, (start, stop))
            match = waiting.pop()
            opener = tokens[match]
            tokens[match] = Token(opener.kind, opener.text, opener.start, opener.stop, len(tokens), opener.call)
        tokens.append(Token(kind, piece, start, stop, match, call))
    if waiting:
        opener = tokens[waiting[-1]]
        raise FormulaError(f"cannot read the formula: this {opener.text!r} is never closed.", text, (opener.start, opener.stop))
    return tuple(tokens)


def python_powers(text: str) -> str:
    """R's ``^`` as Python's ``**`` wherever the text is evaluated, that is inside calls and braces."""
    out, at, depth = [], 0, 0
    for token in scan(text):
        if token.kind == "open" and (token.call or depth):
            depth += 1
        elif token.kind == "close" and depth:
            depth -= 1
        elif token.text == "^" and depth:
            out += [text[at : token.start], "**"]
            at = token.stop
    return "".join(out) + text[at:]


def python_expression(text: str) -> str:
    """A whole text that is evaluated (a response, an offset): ``^`` is a power everywhere."""
    return python_powers("{" + text + "}")[1:-1]
