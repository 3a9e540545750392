"""A progress bar for what takes many fits: tqdm's, where there is tqdm and somebody to see it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lmm.errors import MissingPackageError


@contextmanager
def bar(
    total: int, what: str, progress: bool | None, unit: str = "fit"
) -> Iterator[Callable[[int], None]]:
    """What to tell of the fits done, or of other units.

    Parameters
    ----------
    progress : True shows a bar (MissingPackageError without tqdm), False none; None one that appears after two seconds where tqdm is
        installed and standard error is a terminal, or the program a notebook with widgets.
    """
    if progress is False:
        yield lambda done: None
        return
    try:
        import tqdm.std as bars
    except ImportError as error:
        if progress:
            raise MissingPackageError(
                "progress=True needs tqdm; install it with: pip install tqdm", "tqdm"
            ) from error
        yield lambda done: None
        return
    widgets = "ipykernel" in sys.modules and importlib.util.find_spec("ipywidgets") is not None
    if widgets:
        import tqdm.notebook as bars
    seen = progress or widgets or sys.stderr.isatty()
    with bars.tqdm(
        total=total,
        desc=what,
        unit=unit,
        delay=0.0 if progress else 2.0,
        disable=not seen,
        leave=False,
    ) as shown:
        yield lambda done: (shown.update(done), None)[1]
