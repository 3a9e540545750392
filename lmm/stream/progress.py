"""A progress bar of rows, with rows per second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lmm.errors import ArgumentError


@contextmanager
def rows_bar(text: str, total: int | None) -> Iterator[Callable[[int], Any]]:
    """A bar of ``total`` rows (None where that is not known); gives what is called with the number of rows just done."""
    with tqdm_bar()(desc=text, total=total, unit=" rows", unit_scale=True) as bar:
        yield bar.update


def tqdm_bar() -> Any:
    """tqdm's bar, or ArgumentError that says how to get it."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ArgumentError("progress=True needs tqdm; install it with: pip install tqdm") from error
    return tqdm
