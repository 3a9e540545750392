"""Fits of several models side by side: likelihood ratio tests and information criteria.

Models are sorted by their number of parameters; each is tested against the one before it, twice the difference of their
log-likelihoods being chi-squared when the smaller model holds and is nested in the larger one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lmm.arguments import caller, checked
from lmm.errors import ArgumentError, ComparisonWarning, warn
from lmm.inference.tests.likelihood_ratio import chi_squared_p
from lmm.results.fit import Fit
from lmm.results.tests.neighbours import by_maximum_likelihood, check_likelihood

REFITTED = "refitting models by ML instead of REML"


@checked
def anova(*fits: Fit, refit: bool = True) -> pd.DataFrame:
    """Compare fitted models by likelihood ratio tests.

    Parameters
    ----------
    fits : two or more fits of the same response on the same rows.
    refit : fit models that were fitted by REML again by maximum likelihood, which says so in a :class:`lmm.ComparisonWarning`.
        REML criteria of models with different fixed effects are those of different data: with ``refit=False`` they are compared
        only where the fixed effects span the same space.

    Returns
    -------
    DataFrame ``npar, aic, bic, llf, deviance, chisq, df, p_value``, deviance -2 llf, sorted by ``npar``; each row is tested against the
    one above it (NaN where the number of parameters is the same). Indexed by the names that the fits have where ``anova`` is
    called, ``m1, m2, ...`` otherwise. ``attrs["notes"]`` has what was said in warnings, ``attrs["formulas"]`` the formulas by name.

    A variance that is zero under the smaller model makes these p-values too large; :meth:`lmm.Fit.ranova` has the right ones beside them.

    Raises
    ------
    ArgumentError : when the fits differ in response, rows, weights, offset, family or quadrature, or are no likelihood fits.

    Examples
    --------
    >>> import lmm
    >>> sleep = lmm.datasets.load("sleepstudy")
    >>> slopes = lmm.lmer("Reaction ~ Days + (Days|Subject)", sleep, REML=False)
    >>> intercepts = lmm.lmer("Reaction ~ Days + (1|Subject)", sleep, REML=False)
    >>> lmm.anova(slopes, intercepts)[["npar", "deviance", "chisq", "df"]].round(2)
                npar  deviance  chisq   df
    intercepts     4   1794.08    NaN  NaN
    slopes         6   1751.94  42.14  2.0
    """
    scope = caller()
    if len(fits) < 2:
        raise ArgumentError(
            "anova: give two fits or more, lmm.anova(m1, m2); the tests of one fit's terms are fit.anova()."
        )
    for fit in fits:
        if not isinstance(fit, Fit):
            raise ArgumentError(f"anova: compares fits, not {type(fit).__name__}.")
        check_likelihood(fit, "anova")
    names = _names(fits, *scope.maps)
    _check_same(fits, names)
    notes: list[str] = []
    compared = list(fits)
    if refit and any(fit.estimate.reml for fit in fits):
        notes.append(REFITTED)
        compared = [by_maximum_likelihood(fit) for fit in fits]
    elif not refit:
        _check_criteria(fits, names)
    order = sorted(range(len(fits)), key=lambda i: compared[i].df_model)
    compared, names = [compared[i] for i in order], [names[i] for i in order]
    notes += [
        note
        for i in range(1, len(compared))
        if (note := _nesting(compared[i - 1], compared[i], names[i - 1], names[i]))
    ]
    for note in notes:
        warn(note, ComparisonWarning)
    table = _table(compared, names)
    table.attrs["notes"] = tuple(notes)
    table.attrs["formulas"] = {
        name: str(fit.formula) for name, fit in zip(names, compared, strict=True)
    }
    return table


def _table(fits: Sequence[Fit], names: Sequence[str]) -> pd.DataFrame:
    llf = np.array([fit.llf for fit in fits])
    npar = np.array([fit.df_model for fit in fits])
    df = np.concatenate([[np.nan], np.diff(npar)])
    chisq = np.concatenate([[np.nan], np.maximum(0.0, 2.0 * np.diff(llf))])
    p_value = [np.nan, *(chi_squared_p(x, int(q)) for x, q in zip(chisq[1:], df[1:], strict=True))]
    columns = {
        "npar": npar,
        "aic": [fit.aic for fit in fits],
        "bic": [fit.bic for fit in fits],
        "llf": llf,
        "deviance": -2.0 * llf,
    }
    return pd.DataFrame(
        {**columns, "chisq": chisq, "df": df, "p_value": p_value}, index=pd.Index(list(names))
    )


def _names(fits: Sequence[Fit], *scopes: Mapping[str, object]) -> list[str]:
    """What each fit is called in the caller's scope; m1, m2, ... where one has no name or shares it."""
    found = []
    for fit in fits:
        known = (
            name
            for scope in scopes
            for name, value in list(scope.items())
            if value is fit and not name.startswith("_")
        )
        found.append(next(known, None))
    if None in found or len(set(found)) < len(found):
        return [f"m{i + 1}" for i in range(len(fits))]
    return [str(name) for name in found]


def _check_same(fits: Sequence[Fit], names: Sequence[str]) -> None:
    """ArgumentError naming the first thing in which two fits differ that makes their likelihoods incommensurate."""
    first = fits[0]
    a = first.design
    for fit, name in zip(fits[1:], names[1:], strict=True):
        b, pair = fit.design, f"anova: {names[0]} and {name}"
        if a.n != b.n:
            raise ArgumentError(
                f"{pair} were fitted to different rows, {a.n} and {b.n}; fit both to the rows complete in every column used "
                "(data.dropna(subset=[...]), or subset=)."
            )
        if not a.rows.same_response(b.rows):
            what = (
                f"different responses, {a.response} and {b.response}"
                if a.response != b.response
                else "different rows"
            )
            raise ArgumentError(
                f"{pair} were fitted to {what}; their likelihoods cannot be compared."
            )
        for what, mine, its, default in (
            ("weights", a.weights, b.weights, 1.0),
            ("offset", a.offset, b.offset, 0.0),
        ):
            if not a.rows.same_given(mine, its, default):
                raise ArgumentError(f"{pair} were fitted with different {what}.")
        if first.family != fit.family:
            one, other = (f.family or "a linear model" for f in (first, fit))
            raise ArgumentError(
                f"{pair} differ in the distribution of the response, {one} and {other}; see fit.aic of each."
            )
        if (first.estimate.nagq, first.estimate.method == "laplace2") != (
            fit.estimate.nagq,
            fit.estimate.method == "laplace2",
        ):
            raise ArgumentError(
                f"{pair} approximate the likelihood differently, by nAGQ={_points(first)} and nAGQ={_points(fit)}; fit both with the same."
            )
        one, other = (f._method.control.curvature for f in (first, fit))
        if one != other and not fit.estimate.distribution.is_canonical:
            raise ArgumentError(
                f"{pair} approximate the likelihood differently, with control=lmm.Control(curvature={one!r}) and {other!r}; "
                "fit both with the same."
            )


def _points(fit: Fit) -> str:
    return "'laplace2'" if fit.estimate.method == "laplace2" else str(fit.estimate.nagq)


def _check_criteria(fits: Sequence[Fit], names: Sequence[str]) -> None:
    """ArgumentError where REML criteria would be compared that are those of different data, or with log-likelihoods."""
    reml = [fit.estimate.reml for fit in fits]
    if not any(reml):
        return
    if not all(reml):
        raise ArgumentError(
            "anova: with refit=False, fits by REML cannot be compared with fits by maximum likelihood."
        )
    for fit, name in zip(fits[1:], names[1:], strict=True):
        a, b = fits[0].design, fit.design
        if not a.p == b.p == a.rows.rank_with(b.rows):
            raise ArgumentError(
                f"anova: {names[0]} and {name} have different fixed effects, so that their REML criteria are those of different data; "
                "use refit=True."
            )


def _nesting(small: Fit, large: Fit, name: str, other: str) -> str | None:
    """What to say where one model is not a special case of the other."""
    a, b = small.design, large.design
    if a.rows.rank_with(b.rows) > b.p:
        return f"{name} is not nested in {other}: their fixed effects span different spaces; the test means nothing, AIC and BIC do."
    if small.df_model == large.df_model:
        return None
    groups = {term.group: term for term in b.terms}
    for term in a.terms:
        within = groups.get(term.group)
        if within is None or not a.rows.spans(within, term):
            return f"{name} is not nested in {other}: its random effects by {term.group} are not among those of {other}."
    return None
