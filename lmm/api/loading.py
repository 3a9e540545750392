"""load(): a fit, a batch or a bootstrap from the file that its ``save()`` wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lmm.api.glmer import run_generalized
from lmm.api.lmer import run
from lmm.arguments import checked
from lmm.results.batch_fit import BatchFit
from lmm.results.files import archive
from lmm.results.fit import Fit
from lmm.results.rows.bootstrap import Bootstrap

#: what repeats a call, by the name that a file has for it
CALLS: dict[str, Callable[..., Fit]] = {
    "lmm.api.lmer.run": run,
    "lmm.api.glmer.run_generalized": run_generalized,
}


@checked
def load(path: object, functions: Mapping[str, object] | None = None) -> Fit | BatchFit | Bootstrap:
    """Read a fit, a batch of fits or a bootstrap that ``save()`` wrote; reading runs no code from the file.

    Parameters
    ----------
    path : the file.
    functions : functions and objects of yours that the formula uses, by the names it has for them; a file does not hold them.
        Without them everything works but what evaluates the formula on new data.

    Returns
    -------
    What was saved: :class:`lmm.Fit`, :class:`lmm.BatchFit` or :class:`lmm.results.rows.bootstrap.Bootstrap`, with the same numbers.

    Raises
    ------
    ArgumentError : no such file, one of another kind, a damaged one, one of a newer version.

    Notes
    -----
    A formula is code. Loading evaluates none; predicting new data, updating and refitting a fit do. Use them on files of people whom you
    would let run a script.

    Examples
    --------
    >>> import lmm, tempfile, os
    >>> path = os.path.join(tempfile.mkdtemp(), "sleep.lmm")
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    >>> fit.save(path)
    >>> lmm.load(path) == fit
    True
    """
    found: Fit | BatchFit | Bootstrap = archive.load(path, CALLS, functions)
    return found
