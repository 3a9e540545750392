"""A progress bar of rows, with rows per second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from lmm.errors import MissingPackageError

#: shows how far a pass is: (text, rows or None) -> context manager of what is called with the rows just done
Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], object]]]


@contextmanager
def rows_bar(text: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A bar of ``total`` rows (None where that is not known); gives what is called with the number of rows just done."""
    with tqdm_bar()(desc=text, total=total, unit=" rows", unit_scale=True) as bar:
        yield bar.update


def tqdm_bar() -> Any:
    """tqdm's bar, or MissingPackageError that says how to get it."""
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise MissingPackageError(
            "progress=True needs tqdm; install it with: pip install tqdm", "tqdm"
        ) from error
    return tqdm
