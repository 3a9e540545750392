"""A fitted mixed model. Each capability (rows, tests, selection, refits, intervals, criticism, interchange) is a class beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import pandas as pd

from lmm import arguments
from lmm.results.criticism import Criticism
from lmm.results.files import equality, pictures
from lmm.results.interchange import Interchange
from lmm.results.parameters import FitBase
from lmm.results.refitting import Refitting
from lmm.results.resampling import Resampling
from lmm.results.row_methods import Rowwise
from lmm.results.selecting import Selecting
from lmm.results.tables import tidy
from lmm.results.testing import Testing
from lmm.results.text import summary

#: methods of intervals, those of a posterior included
INTERVALS = ("wald", "profile", "boot", "posterior")


@arguments.checked_methods
@dataclass(frozen=True, eq=False, repr=False)
class Fit(Interchange, Criticism, Resampling, Refitting, Selecting, Testing, Rowwise, FitBase):
    """A fitted mixed model; nothing a caller does changes it.

    Every method returns a new object. Tables are pandas, on the user's own names and index.

    Attributes
    ----------
    formula : the formula that was fitted.
    design : matrices, names, levels (``fit.design.X``, ``.names``, ``.terms``; sparse ``.Z`` on request).
    problem : the sums (linear) or rows (generalized) that the estimator worked on.
    estimator : what minimised the criterion.
    estimate : the numbers without their names.

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    >>> fit.fixef().round(3).to_dict()
    {'Intercept': 251.405, 'Days': 10.467}
    >>> round(fit.sigma, 3)
    25.592
    """

    # ---- tables ----

    def tidy(
        self,
        effects: str | Sequence[str] = ("fixed", "ran_pars"),
        conf_int: bool = False,
        conf_level: float = 0.95,
        conf_method: str | None = None,
        ddf: str | None = None,
        component: str = "cond",
    ) -> pd.DataFrame:
        """One row per parameter, as broom.mixed gives.

        Parameters
        ----------
        effects : "fixed", "ran_pars" (standard deviations and correlations), "ran_vals" (conditional modes), or several.
        conf_int : add ``conf_low, conf_high``.
        conf_level : coverage.
        conf_method : "wald", the default, "profile" or "boot", as in :meth:`confint`; of a posterior its quantiles.
        ddf : "satterthwaite" or "kenward_roger" for ``df`` and ``p_value`` of a linear fit, and "wald" intervals that go with them.
        component : as in :meth:`fixef`; the rows of "all" have a column ``component`` in front.

        Returns
        -------
        DataFrame with those of ``effect, group, level, term, estimate, std_error, statistic, df, p_value, conf_low, conf_high``
        that apply; without ``ddf`` p-values are those of generalized fits. Of a posterior ``std_error`` is its standard deviation.
        """
        if component == "all" and len(self.estimate.components) > 1:
            parts = []
            for name in self.estimate.components:
                own = self._component(name) if name != self.estimate.components[0] else self
                part = own.tidy(effects, conf_int, conf_level, conf_method, ddf)
                part.insert(0, "component", name)
                parts.append(part)
            return pd.concat(parts, ignore_index=True)
        if component not in ("cond", "all"):
            return self._component(component).tidy(effects, conf_int, conf_level, conf_method, ddf)
        if conf_method is not None:
            arguments.choice(conf_method, "tidy: conf_method", INTERVALS)
        ddf = self._table_ddf(ddf)
        known = self._ddf(ddf)
        limits = self.conf_int(conf_method, conf_level, ddf=ddf) if conf_int else None
        return tidy.tidy(self._uncertainty, effects, conf_level, limits, known)

    def glance(self) -> pd.DataFrame:
        """One row: ``nobs, sigma, llf, aic, bic, reml_criterion`` (ML: ``deviance``), ``df_resid``; ``elbo`` of a variational fit."""
        return tidy.glance(self.design, self.estimate, self._eta)

    def summary(self, ddf: str | None = None) -> summary.Summary:
        """A summary that prints: lme4's figures, ruled; also HTML, ``as_latex()``, ``as_markdown()`` and ``.tables``."""
        return summary.summarise(
            self.design,
            self.estimate,
            self._uncertainty,
            self._eta,
            self._ddf(self._table_ddf(ddf)),
        )

    @property
    def plot(self) -> object:
        """Pictures of this fit (:class:`lmm.plots.Plots`): ``fit.plot.ranef()``, ``fit.plot.check()``, ...

        Raises
        ------
        MissingPackageError : matplotlib is not installed; ``pip install 'lmm[plot]'``.
        """
        return pictures.of(self)

    # ---- files ----

    def save(self, path: object) -> None:
        """Write the fit to a file, from which :func:`lmm.load` makes it again with the same numbers; see the page on saving.

        The file holds the data that the fit holds, and no code: functions of yours that the formula uses are named in a warning and
        have to be given to :func:`lmm.load`. Of data that was read in chunks it holds where they are.

        Parameters
        ----------
        path : the file; an old one is replaced when the new one is complete.

        Raises
        ------
        ArgumentError : the file cannot be written, or the fit holds code of yours (a family or an estimator).
        """
        from lmm.results.files import archive

        archive.save(self, path, "save")

    # ---- Python ----

    def __repr__(self) -> str:
        return summary.short_text(self.design, self.estimate)

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def __eq__(self, other: object) -> bool:
        """Same model on the same response with the same numbers, up to rounding (1e-8 relative)."""
        if not isinstance(other, Fit):
            return NotImplemented
        return equality.same_design(self.design, other.design) and equality.same_estimate(
            self.estimate, other.estimate
        )

    __hash__ = None  # type: ignore[assignment]

    def __getstate__(self) -> dict[str, object]:
        """The five fields; what was computed from them on demand is computed again, unless that takes rows that do not travel."""
        state = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.design.streamed and self.family is not None:
            state["_uncertainty"] = self._uncertainty
        return state
