"""Settings of a session: which degrees of freedom tables of coefficients have where none are named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import TracebackType

from lmm.errors import ArgumentError
from lmm.inference.tests.ddf import check, method_name
from lmm.model.records import Estimate

UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Settings:
    """``ddf``: "satterthwaite", "kenward_roger", or None for tables without degrees of freedom and p-values."""

    ddf: str | None = None


_current = [Settings()]


class Options:
    """The settings in force; as a context manager it sets back at its end those that were in force before."""

    def __init__(self, settings: Settings, before: Settings):
        self.settings, self._before = settings, before

    def __enter__(self) -> Options:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _current[0] = self._before

    def __repr__(self) -> str:
        return f"lmm.options(ddf={self.settings.ddf!r})"


def options(ddf: str | None = UNCHANGED) -> Options:
    """Settings of the session, for all fits, until they are changed; in a ``with`` block until its end.

    Parameters
    ----------
    ddf : degrees of freedom and p-values that ``summary()``, ``coef_table()`` and ``tidy()`` of linear fits have where none are named:
        "satterthwaite", "kenward_roger", or None for none, the default. ``anova()`` and ``contrast()`` use it too, in place of
        Satterthwaite's. A fit with a method of its own, such as :func:`lmm.mmrm`, keeps that.

    Returns
    -------
    The settings in force, which print. Without arguments nothing is changed.

    Raises
    ------
    ArgumentError : for a name of no method.

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    >>> with lmm.options(ddf="satterthwaite"):
    ...     print(fit.coef_table()["df"].round(2).tolist())
    [17.0, 17.0]
    >>> lmm.options()
    lmm.options(ddf=None)
    """
    before = _current[0]
    if ddf != UNCHANGED:
        _current[0] = replace(before, ddf=method_name(ddf))
    return Options(_current[0], before)


def session_ddf(estimate: Estimate) -> str | None:
    """The session's method, where this fit can have it; generalized models and posteriors have no degrees of freedom."""
    try:
        return check(estimate, _current[0].ddf)
    except ArgumentError:
        return None
