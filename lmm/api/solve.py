"""solve(): fixed and random effects at variances that are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmm.api.glmer import run_generalized
from lmm.api.lmer import run
from lmm.arguments import caller, checked
from lmm.errors import ArgumentError
from lmm.estimators.control import Control
from lmm.estimators.given_variances import GivenVariances
from lmm.formula.columns.given import Given, own
from lmm.results import Fit


@checked
def solve(
    formula: str,
    data: object,
    *,
    varcomp: object,
    sigma: float | None = None,
    family: Any = None,
    dispersion: float | None = None,
    weights: object = None,
    offset: object = None,
    subset: object = None,
    na_action: str = "omit",
    contrasts: Mapping[str, object] | None = None,
    control: Control | None = None,
) -> Fit:
    """Fixed and random effects at known variances: Henderson's mixed-model equations, exactly.

    Parameters
    ----------
    formula : as in :func:`lmm.lmer`.
    data : pandas, polars or pyarrow table, or a mapping of arrays; N rows. Never modified.
    varcomp : covariances by grouping factor, in squared units of the response (of the linear predictor with a family):
        a (k, k) array or DataFrame, k variances (covariances zero), or a number for a single effect; or the
        ``varcorr()`` of another fit. Zero variances are possible.
    sigma : residual standard deviation of a linear model.
    family : for a generalized model, as in :func:`lmm.glmer`; beta and b are then the joint mode of their log density.
    dispersion : dispersion parameter of a family that has one.
    weights, offset, subset, na_action, contrasts : as in :func:`lmm.lmer`.
    control : :class:`lmm.Control`; nothing is optimised.

    Returns
    -------
    Fit, whose ``sigma`` and ``varcorr()`` are those given, ``llf`` the log-likelihood there and ``vcov()`` the covariance
    of the fixed effects given them.

    Raises
    ------
    ArgumentError : a group is missing or unknown; its covariance is not symmetric, not positive semidefinite or not of
        its term's structure; ``sigma`` or ``dispersion`` is missing or not positive.

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.solve(
    ...     "Reaction ~ Days + (Days|Subject)",
    ...     lmm.datasets.load("sleepstudy"),
    ...     varcomp={"Subject": [[612.1, 9.6], [9.6, 35.07]]},
    ...     sigma=25.59,
    ... )
    >>> fit.ranef()["Subject"].iloc[0].round(4).to_dict()
    {'Intercept': 2.2578, 'Days': 9.1991}
    """
    if control is not None and not isinstance(control, Control):
        raise ArgumentError(f"control must be an lmm.Control(...), not {type(control).__name__}.")
    method = GivenVariances(own(varcomp), sigma, dispersion, control or Control())
    given = Given(weights, offset, subset, na_action, contrasts, caller())
    if family is None:
        return run(formula, data, given=given, method=method)
    return run_generalized(formula, data, family=family, given=given, method=method)
