"""Checks of arguments, each written once: what a value must be, said in one sentence that names the argument.

Every function returns the value in the type that is wanted, or raises :class:`lmm.ArgumentError`. ``name`` is the argument as
the message shows it, with the method in front where that helps: ``"bootstrap: nsim"``. NumPy's numbers count as numbers; a
bool is never one.

:func:`checked` reads what an argument must be from its annotation, for every public function and method.
"""

from __future__ import annotations

import functools
import inspect
import math
import numbers
import os
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from lmm.errors import ArgumentError, CapacityError, LmmError, nearest

#: characters of a value that a message shows
SHOWN = 60


def shown(value: Any) -> str:
    """A value as a message shows it: its repr on one line, cut where it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a repr of the user's own may fail
        text = ""
    if not text or len(text) > SHOWN:
        kind = type(value).__name__
        shape = getattr(value, "shape", None)
        return (
            f"<{kind} of shape {shape}>"
            if isinstance(shape, tuple)
            else text[: SHOWN - 3] + "..."
            if text
            else f"<{kind}>"
        )
    return text


def number(
    value: Any,
    name: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """A finite number within limits: greater than ``above``, at least ``least``, less than ``below``, at most ``most``.

    Examples
    --------
    >>> number(0.5, "alpha", above=0, below=1)
    0.5
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise ArgumentError(
            f"{name}={shown(value)} must be {_a_number(above, least, below, most)}."
        )
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    inside = math.isfinite(found)
    inside = inside and (above is None or found > above) and (least is None or found >= least)
    inside = inside and (below is None or found < below) and (most is None or found <= most)
    if not inside:
        raise ArgumentError(
            f"{name}={shown(value)} must be {_a_number(above, least, below, most)}."
        )
    return found


def _a_number(
    above: float | None, least: float | None, below: float | None, most: float | None
) -> str:
    if above == 0 and below is None and most is None:
        return "a positive number"
    limits = []
    for limit, word in (
        (above, "greater than"),
        (least, "at least"),
        (below, "less than"),
        (most, "at most"),
    ):
        if limit is not None:
            limits.append(f"{word} {limit:g}")
    return "a finite number" if not limits else f"a number {' and '.join(limits)}"


def whole(value: Any, name: str, *, least: int | None = None, most: int | None = None) -> int:
    """A whole number (Python's or NumPy's, no float) within limits.

    Examples
    --------
    >>> whole(20, "nsim", least=1)
    20
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)
    if not is_whole or (least is not None and value < least) or (most is not None and value > most):
        wanted = "a whole number"
        if least == 1:
            wanted = "a positive whole number"
        elif least is not None:
            wanted = f"a whole number, {least} or more"
        if most is not None:
            wanted += f", {most} at most"
        raise ArgumentError(f"{name}={shown(value)} must be {wanted}.")
    return int(value)


def flag(value: Any, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"{name}={shown(value)} must be True or False.")
    return bool(value)


def flag_or_none(value: Any, name: str) -> bool | None:
    """True, False or None."""
    if value is not None and not isinstance(value, bool | np.bool_):
        raise ArgumentError(f"{name}={shown(value)} must be True, False or None.")
    return None if value is None else bool(value)


@overload
def choice(value: Any, name: str, options: Sequence[str]) -> str: ...
@overload
def choice(value: Any, name: str, options: Sequence[str | None]) -> str | None: ...
def choice(value: Any, name: str, options: Sequence[str | None]) -> str | None:
    """One of the options; the nearest is offered for a misspelt word.

    Examples
    --------
    >>> choice("numpy", "backend", ("auto", "numpy", "jax"))
    'numpy'
    """
    if (value is None or isinstance(value, str)) and value in options:
        return None if value is None else str(value)
    words = [option for option in options if option is not None]
    hint = nearest(value, words) if isinstance(value, str) else ""
    raise ArgumentError(
        f"{name}={shown(value)} is not one of {', '.join(map(repr, options))}.{hint}"
    )


def text(value: Any, name: str) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ArgumentError(f"{name}={shown(value)} must be text.")
    return str(value)


def names(value: Any, name: str, known: Iterable[str]) -> list[str]:
    """One of the known names, or several of them (list, tuple, Index, array of text), as a list without repetitions.

    Examples
    --------
    >>> names("Days", "coefficient", ["Intercept", "Days"])
    ['Days']
    """
    options = [str(option) for option in known]
    given = (
        [value] if isinstance(value, str) else sequence(value, name, "a name or a list of names")
    )
    for one in given:
        if not isinstance(one, str):
            raise ArgumentError(
                f"{name}={shown(value)} must be a name or a list of names; there is {_listed(options)}."
            )
        if one not in options:
            raise ArgumentError(
                f"{name}={one!r}: there is no such name; there is {_listed(options)}.{nearest(one, options)}"
            )
    if not given:
        raise ArgumentError(f"{name}={shown(value)} names nothing; there is {_listed(options)}.")
    return list(dict.fromkeys(map(str, given)))


def _listed(options: list[str], most: int = 12) -> str:
    more = f" and {len(options) - most} more" if len(options) > most else ""
    return ", ".join(map(repr, options[:most])) + more if options else "none"


def sequence(value: Any, name: str, wanted: str) -> list[Any]:
    """The entries of a list, tuple, Index, Series or one-dimensional array."""
    is_array = getattr(value, "ndim", None) == 1 and hasattr(value, "__iter__")
    if not isinstance(value, list | tuple | range) and not is_array:
        raise ArgumentError(f"{name}={shown(value)} must be {wanted}.")
    return list(value)


def mapping(value: Any, name: str, wanted: str) -> dict[str, Any]:
    """A mapping (a dict, a Series) whose keys are text."""
    if hasattr(value, "to_dict") and getattr(value, "ndim", None) == 1:
        value = value.to_dict()
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ArgumentError(f"{name}={shown(value)} must be {wanted}.")
    return dict(value)


def numbers_of(value: Any, name: str, wanted: str) -> np.ndarray:
    """Finite real numbers as float64, in the shape that they have; ``wanted`` says in words what is asked for."""
    given = np.asarray(value) if not isinstance(value, dict | set | str | bytes) else np.array(None)
    if given.dtype == object and given.ndim:
        try:
            given = given.astype(float)
        except (TypeError, ValueError):
            given = np.array(None)
    if given.dtype.kind not in "iuf" or not np.isfinite(given).all():
        raise ArgumentError(f"{name}={shown(value)} must be {wanted}.")
    return np.array(given, dtype=float)


def generator(value: Any, name: str = "rng") -> np.random.Generator:
    """The random generator that a seed stands for; a generator is used as it is.

    Examples
    --------
    >>> generator(1).integers(10)
    np.int64(4)
    """
    wanted = "must be a seed (None or a whole number, 0 or more) or a numpy.random.Generator."
    empty = isinstance(value, list | tuple | np.ndarray) and not len(
        np.atleast_1d(np.asarray(value))
    )
    if empty or isinstance(value, bool | np.bool_ | str):
        raise ArgumentError(f"{name}={shown(value)} {wanted}")
    try:
        return np.random.default_rng(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}={shown(value)} {wanted}") from error


def seed(value: Any, name: str = "seed") -> int:
    """A whole number, 0 or more, that fits 32 bits: what NumPy and JAX both take as a seed."""
    return whole(value, name, least=0, most=2**32 - 1)


def instance(value: Any, name: str, kind: str, how: str) -> Any:
    """A result of ours of the class named ``kind``, as ``how`` makes it."""
    if type(value).__name__ != kind or type(value).__module__.split(".")[0] != __package__:
        raise ArgumentError(f"{name}={shown(value)} must be what {how} gives.")
    return value


def file_path(value: Any, name: str) -> str:
    """The path of a file, as text; what no file system has as a name is refused."""
    try:
        found = os.fspath(value)
    except TypeError:
        found = None
    if isinstance(found, bytes):
        found = os.fsdecode(found)
    if not isinstance(found, str) or not found or "\0" in found:
        raise ArgumentError(f"{name}={shown(value)} must be the path of a file.")
    return found


# ---- by annotation ----

Check = Callable[[Any], bool]
F = TypeVar("F", bound=Callable[..., Any])
K = TypeVar("K", bound=type)
#: arguments that have errors of a kind of their own
ELSEWHERE = frozenset({"formula", "family", "control", "contrasts", "na_action"})


def _is_number(value: Any) -> bool:
    return (
        not isinstance(value, bool | np.bool_)
        and isinstance(value, numbers.Real)
        and math.isfinite(value)
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple | range) or (
        getattr(value, "ndim", None) == 1 and hasattr(value, "__iter__")
    )


def _is_names(value: Any) -> bool:
    return _is_sequence(value) and len(value) > 0 and all(isinstance(one, str) for one in value)


def _is_numbers(value: Any) -> bool:
    return _is_sequence(value) and len(value) > 0 and all(_is_number(one) for one in value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        hasattr(value, "to_dict") and getattr(value, "ndim", None) == 1
    )


def _is_named_numbers(value: Any) -> bool:
    own = dict(value) if _is_mapping(value) else {None: None}
    return all(isinstance(name, str) and _is_number(one) for name, one in own.items())


def _is_random(value: Any) -> bool:
    try:
        generator(value)
    except ArgumentError:
        return False
    return True


#: part of an annotation -> (what it takes, in words)
KINDS: dict[str, tuple[Check, str]] = {
    "None": (lambda value: value is None, "None"),
    "bool": (lambda value: isinstance(value, bool | np.bool_), "True or False"),
    "int": (_is_whole, "a whole number"),
    "float": (_is_number, "a finite number"),
    "str": (lambda value: isinstance(value, str), "text"),
    "Sequence[str]": (_is_names, "a list of names"),
    "Sequence[int]": (
        lambda value: _is_numbers(value) and all(_is_whole(one) for one in value),
        "a list of whole numbers",
    ),
    "Sequence[object]": (lambda value: _is_sequence(value) and len(value) > 0, "a list"),
    "Mapping[str, float]": (_is_named_numbers, "a mapping of names to numbers"),
    "Mapping[str, object]": (
        lambda value: _is_mapping(value) and all(isinstance(one, str) for one in dict(value)),
        "a mapping of names",
    ),
    "np.ndarray": (_is_numbers, "a list or array of finite numbers"),
    "np.random.Generator": (_is_random, "a numpy.random.Generator"),
    "os.PathLike[str]": (lambda value: isinstance(value, os.PathLike), "a path"),
    "Callable[[object], object]": (callable, "a function"),
}
_SHARE: tuple[Check, str] = (
    lambda value: 0.0 < value < 1.0,
    "must lie between 0 and 1, for example 0.95",
)
#: what numbers of these names must be beyond their type, wherever they are arguments
LIMITS: dict[str, tuple[Check, str]] = {
    "level": _SHARE,
    "conf_level": _SHARE,
    "alpha": (_SHARE[0], "must lie between 0 and 1"),
    "nsim": (lambda value: value >= 1, "must be a positive whole number"),
    "columns": (lambda value: value >= 1, "must be a positive whole number"),
    "digits": (lambda value: 1 <= value <= 100, "must be a whole number from 1 to 100"),
    "labels": (lambda value: value >= 0, "must be a whole number, 0 or more"),
    "span": (
        lambda value: 0.0 < value <= 1.0,
        "must be a share of the rows, greater than 0 and at most 1",
    ),
    "tol": (lambda value: value >= 0.0, "must be a number, 0 or more"),
}


def _parts(annotation: str) -> list[str]:
    """``A | B[C | D]`` -> A, B[C | D]."""
    parts, depth = [""], 0
    for character in annotation:
        depth += (character == "[") - (character == "]")
        if character == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _by_annotation(annotation: object) -> tuple[list[Check], str] | None:
    """What an annotation takes and how to say it; None where it does not tell."""
    parts = _parts(annotation.replace("Any", "object")) if isinstance(annotation, str) else []
    if parts == ["Rng"]:
        parts = ["None", "int", "np.random.Generator"]
    if not parts or any(part not in KINDS for part in parts):
        return None
    random = "np.random.Generator" in parts
    if random:  # which also says which whole numbers are seeds
        parts = ["np.random.Generator"]
    words = [KINDS[part][1] for part in sorted(parts, key=lambda part: part == "None")]
    said = (
        "a seed (None or a whole number, 0 or more) or a numpy.random.Generator"
        if random
        else _either(words)
    )
    return [KINDS[part][0] for part in parts], said


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def checked(function: F) -> F:
    """The function with its arguments checked against their annotations before it runs.

    A default is taken as it is. Annotations that name other types are left to the function.

    Raises
    ------
    ArgumentError : ``name: argument=value must be ...``.
    LmmError : rounding left a matrix without the inverse that it must have.
    CapacityError : memory ran out.
    """
    parameters = list(inspect.signature(function).parameters.values())
    rules: dict[str, tuple[object, list[Check], str]] = {}
    for one in parameters:
        rule = _by_annotation(one.annotation)
        if (
            rule is not None
            and one.name not in ELSEWHERE
            and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        ):
            rules[one.name] = (one.default, *rule)
    order = [
        one.name
        for one in parameters
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    label = function.__name__

    @functools.wraps(function)
    def run(*given: object, **named: object) -> object:
        for name, value in (*zip(order, given, strict=False), *named.items()):
            rule = rules.get(name)
            if rule is None or value is rule[0]:
                continue
            if not any(check(value) for check in rule[1]):
                raise ArgumentError(f"{label}: {name}={shown(value)} must be {rule[2]}.")
            if name in LIMITS and _is_number(value) and not LIMITS[name][0](value):
                raise ArgumentError(f"{label}: {name}={shown(value)} {LIMITS[name][1]}.")
        try:
            return function(*given, **named)
        except np.linalg.LinAlgError as error:
            raise LmmError(
                f"{label}: a matrix that must have an inverse has none ({error}): rounding leaves no digits of it. Weights or columns of "
                "very different size, and fits that did not converge, are the usual causes."
            ) from error
        except MemoryError as error:
            raise CapacityError(
                f"{label}: there is not enough memory ({str(error) or 'no size is told'}); ask for less at a time."
            ) from error

    return run  # type: ignore[return-value]


def checked_methods(kind: K) -> K:
    """The class with the arguments of all its public methods checked, those of its bases in this package included."""
    for owner in kind.__mro__:
        if owner.__module__.split(".")[0] != __package__:
            continue
        for name, method in list(vars(owner).items()):
            if (
                not name.startswith("_")
                and inspect.isfunction(method)
                and not hasattr(method, "__wrapped__")
            ):
                setattr(owner, name, checked(method))
    return kind


def caller() -> ChainMap[str, Any]:
    """The names that the caller of the function that asks can use: its local ones, then its module's."""
    frame = sys._getframe(2)
    while frame.f_globals.get("__name__") == __name__ and frame.f_back is not None:
        frame = frame.f_back
    return ChainMap(frame.f_locals, frame.f_globals)
