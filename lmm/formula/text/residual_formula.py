"""Text of a residual structure, ``us(visit | id)``, -> what tells rows apart, what keeps them together, what has its own parameters.

word(columns | subject)            rows of one subject are correlated, told apart by the levels or numbers of ``columns``
word(columns | strata/subject)     one set of parameters for each level of ``strata``
diag(columns)                      no correlation: one variance for each level
... + nugget                       an independent error on top
"""

from __future__ import annotations

from dataclasses import dataclass

from lmm.covariance import STRUCTURES
from lmm.errors import FormulaError, nearest
from lmm.formula.text.grouping import Interaction, grouping_factors, label
from lmm.formula.text.tokens import Token, inside, outside, scan, spaced

#: what a residual structure looks like
SHAPE = "a residual structure is written us(visit | id), us(visit | arm/id), ou(week | id) + nugget or diag(sex)"
#: words of structures without correlations, which need no subject
UNCORRELATED = ("diag", "homdiag")


@dataclass(frozen=True)
class ResidualFormula:
    """A residual structure that has been read, not yet met any data.

    Attributes
    ----------
    text : as the user wrote it.
    structure : word of the covariance structure, a key of ``lmm.covariance.STRUCTURES``.
    columns : expressions by which the rows of a subject are told apart, ``("visit",)`` or ``("lat", "lon")``.
    subject : expressions whose joint levels are the subjects; none where no two rows are correlated.
    strata : expressions whose joint levels have parameters of their own; none as a rule.
    nugget : whether an independent error comes on top.
    """

    text: str
    structure: str
    columns: tuple[str, ...]
    subject: Interaction
    strata: Interaction
    nugget: bool

    @property
    def expressions(self) -> tuple[str, ...]:
        """Every text that names columns."""
        return tuple(dict.fromkeys([*self.columns, *self.subject, *self.strata]))

    @property
    def subjects(self) -> str:
        """Name of the subjects, ``"id"``; empty where no two rows are correlated."""
        return label(self.subject)

    def __str__(self) -> str:
        return self.text


def parse_residual(text: object) -> ResidualFormula:
    """Read ``residual=``.

    Raises
    ------
    FormulaError : with the text and a caret under the part that cannot be read.

    Examples
    --------
    >>> from lmm.formula.text.residual_formula import parse_residual
    >>> read = parse_residual("us(visit | arm/id)")
    >>> read.structure, read.columns, read.subject, read.strata
    ('us', ('visit',), ('id', 'arm'), ('arm',))
    """
    if not isinstance(text, str):
        raise FormulaError(f"residual= is text: {SHAPE}; not {type(text).__name__}.")
    tokens = scan(text)
    if len(tokens) < 3 or tokens[0].kind != "name" or not tokens[1].call:
        raise FormulaError(f"{SHAPE}.", text)
    word, close = tokens[0].text, tokens[1].match
    if word not in STRUCTURES:
        words = ", ".join(STRUCTURES)
        raise FormulaError(
            f"{word!r} is not a covariance structure; it is one of {words}.{nearest(word, STRUCTURES)}",
            text,
            (tokens[0].start, tokens[0].stop),
        )
    if STRUCTURES[word].takes_rank:
        raise FormulaError(
            f"{word}(...) has a singular covariance, which residuals cannot have; use it in a random term.",
            text,
            (tokens[0].start, tokens[0].stop),
        )
    nugget = _nugget(text, tokens[close + 1 :])
    start, stop = tokens[1].stop, tokens[close].start
    bars = [t for t in inside(tokens, 1) if t.text in ("|", "||")]
    if len(bars) > 1 or any(t.text == "||" for t in bars):
        raise FormulaError(f"one bar stands in a residual structure; {SHAPE}.", text, (start, stop))
    if not bars:
        if word not in UNCORRELATED:
            raise FormulaError(
                f"{word}(...) needs the subjects within which residuals are correlated: write {word}({spaced(text[start:stop])} | id).",
                text,
                (tokens[0].start, tokens[close].stop),
            )
        left, subject, strata = text[start:stop], Interaction(()), Interaction(())
    else:
        left = text[start : bars[0].start]
        subject, strata = _subjects(text, bars[0].stop, stop)
    columns = _columns(left, text, start)
    if not columns:
        raise FormulaError(f"what tells the rows apart is missing; {SHAPE}.", text, (start, stop))
    return ResidualFormula(spaced(text), word, columns, subject, strata, nugget)


def _nugget(text: str, rest: tuple[Token, ...]) -> bool:
    """Whether ``+ nugget`` follows."""
    if not rest:
        return False
    if [t.text for t in rest] != ["+", "nugget"]:
        raise FormulaError(
            "only '+ nugget', an independent error, can be added to a residual structure.",
            text,
            (rest[0].start, rest[-1].stop),
        )
    return True


def _subjects(text: str, start: int, stop: int) -> tuple[Interaction, Interaction]:
    """What stands right of the bar: subjects, and strata where there is a slash; ``1`` is one subject of all rows."""
    right = text[start:stop]
    if not right.strip():
        raise FormulaError(
            f"the subjects are missing right of the bar; {SHAPE}.", text, (start - 1, stop)
        )
    if right.strip() == "1":
        return Interaction(("1",)), Interaction(())
    lead = start + len(right) - len(right.lstrip())
    found = grouping_factors(right.strip(), text, lead)
    slashes = [t for t in outside(scan(right)) if t.text == "/"]
    if len(found) == 2 and len(slashes) == 1:
        return found[1], found[0]
    if len(found) > 1:
        raise FormulaError(
            "right of the bar stands what the subjects are, id or site:id, or strata/subjects, arm/id.",
            text,
            (start, stop),
        )
    return found[0], Interaction(())


def _columns(left: str, text: str, start: int) -> tuple[str, ...]:
    """Expressions joined by ``+`` or ``:``; an implied ``0 +`` may be written."""
    out, at = [], 0
    pieces = []
    for token in outside(scan(left)):
        if token.text in ("+", ":"):
            pieces.append(left[at : token.start])
            at = token.stop
    pieces.append(left[at:])
    for piece in pieces:
        own = piece.strip()
        if own and own != "0":
            out.append(own)
    return tuple(out)


#: mmrm's and SAS's names of structures, homogeneous where theirs are
OTHER_NAMES = {
    "us": "us",
    "un": "us",
    "ar1": "ar1",
    "ar1h": "hetar1",
    "arh1": "hetar1",
    "cs": "homcs",
    "csh": "cs",
    "toep": "homtoep",
    "toeph": "toep",
    "ad": "ad",
    "adh": "hetad",
    "sp_exp": "exp",
    "sp_gau": "gau",
}


def lifted(text: str) -> tuple[str, str]:
    """The formula of a model for repeated measures without its structure, and the structure in this package's words.

    Raises
    ------
    FormulaError : there is none, or more than one.

    Examples
    --------
    >>> from lmm.formula.text.residual_formula import lifted
    >>> lifted("FEV1 ~ ARMCD * AVISIT + csh(AVISIT | ARMCD / USUBJID)")
    ('FEV1 ~ ARMCD * AVISIT', 'cs(AVISIT | ARMCD / USUBJID)')
    """
    tokens = scan(text)
    found = [
        i
        for i, token in enumerate(tokens)
        if token.call
        and i
        and any(t.text == "|" for t in inside(tokens, i))
        and tokens[i - 1].kind == "name"
    ]
    names = ", ".join(OTHER_NAMES)
    if len(found) != 1:
        what = (
            "has no covariance structure" if not found else "has more than one covariance structure"
        )
        raise FormulaError(
            f"the formula {what}; write 'y ~ arm * visit + us(visit | subject)', with one of {names}.",
            text,
        )
    opener = found[0]
    word, close = tokens[opener - 1], tokens[tokens[opener].match]
    if word.text not in OTHER_NAMES:
        raise FormulaError(
            f"{word.text!r} is not a covariance structure; it is one of {names}.{nearest(word.text, OTHER_NAMES)}",
            text,
            (word.start, word.stop),
        )
    before = tokens[opener - 2] if opener > 1 else None
    after = tokens[tokens[opener].match + 1] if tokens[opener].match + 1 < len(tokens) else None
    start, stop = word.start, close.stop
    if before is not None and before.text == "+":
        start = before.start
    elif after is not None and after.text == "+":
        stop = after.stop
    elif before is None or before.text != "~":
        raise FormulaError(
            "a covariance structure can only be added, with '+'.", text, (start, stop)
        )
    rest = spaced(text[:start] + " " + text[stop:]).strip()
    if rest.endswith("~"):
        rest += " 1"
    content = text[tokens[opener].stop : close.start].replace(",", " +")
    return rest, f"{OTHER_NAMES[word.text]}({content.strip()})"
