"""Power by simulation: how often a test finds an effect of a given size, for samples of given sizes.

Data of n levels of a grouping factor are made from the levels there are, in turn; responses are simulated from the model, the model is
fitted to each, and the share of tests that reject is the power. Its interval is Clopper & Pearson's (1934, Biometrika 26).

The tests are those of :mod:`lmm.inference.refits.rejections`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm.arguments import checked, choice, instance
from lmm.arguments import generator as random_generator
from lmm.errors import ArgumentError, nearest
from lmm.inference.refits import refits, rejections
from lmm.inference.refits.simulated_responses import simulate_slabs
from lmm.results.rows.assumed import assume
from lmm.results.rows.bootstrap import term_of
from lmm.results.text.progress_bar import bar

if TYPE_CHECKING:
    from lmm.results.fit import Fit

TESTS = ("t", "z", "lrt")


@checked
def power(
    fit: Fit,
    coefficient: str | Sequence[str],
    *,
    parameters: Mapping[str, float] | None = None,
    along: str | None = None,
    n: int | Sequence[int] | None = None,
    nsim: int = 1000,
    alpha: float = 0.05,
    test: str | None = None,
    rng: None | int | np.random.Generator = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Power of a test of one coefficient, or of several at once, by simulation.

    Parameters
    ----------
    fit : a pilot's fit, or any fit of the model to data of the planned design.
    coefficient : name of a coefficient; several names are tested together (``test="lrt"``).
    parameters : what to assume instead of the estimates, named as the rows of :meth:`lmm.Fit.confint`:
        ``{"Days": 5, "sd_Days|Subject": 8, "sigma": 30}``.
    along : grouping factor whose number of levels varies; by default the one that holds all others.
    n : numbers of its levels; None for those of the fit. Levels beyond those of the data repeat them in turn, with all that lies within.
    nsim : data sets simulated for each n.
    alpha : level of the test.
    test : "t" (the default of a linear model), "z" (of a generalized one) or "lrt" (of several coefficients).
    rng, progress : as in :meth:`lmm.Fit.bootstrap`.

    Returns
    -------
    DataFrame, a row per n: ``n``, ``nobs``, ``power`` with its 95 % limits ``lower, upper``, ``rejected``, ``nsim``, ``failures`` (fits
    that failed or did not converge, counted as not rejecting).

    Raises
    ------
    ArgumentError : for an unknown coefficient, parameter, test or grouping factor; DataError where n levels do not identify the model.

    Examples
    --------
    >>> import lmm
    >>> fit = lmm.lmer("Reaction ~ Days + (Days|Subject)", lmm.datasets.load("sleepstudy"))
    >>> table = lmm.power(fit, "Days", parameters={"Days": 5}, n=[6, 18, 36], nsim=200, rng=1)
    >>> table["power"].is_monotonic_increasing
    True
    """
    instance(fit, "power: fit", "Fit", "lmm.lmer() or lmm.glmer()")
    design, estimate = fit.design, fit.estimate
    refusal = "power: for linear and generalized fits by maximum likelihood."
    estimate.require_likelihood(refusal)
    estimate.distribution.require_mean(refusal)
    names = [coefficient] if isinstance(coefficient, str) else list(coefficient)
    for name in names:
        if name not in design.names:
            raise ArgumentError(
                f"power: there is no coefficient {name!r}; there is {', '.join(design.names)}.{nearest(name, design.names)}"
            )
    if test is None:
        test = "lrt" if len(names) > 1 else estimate.distribution.default_test
    choice(test, "power: test", TESTS)
    if len(names) != 1 and test != "lrt":
        raise ArgumentError(f"power: test={test!r} is of one coefficient; several take test='lrt'.")
    if test == "t":
        estimate.distribution.require_linear(
            "power: test='t' needs a linear model; a generalized one has 'z' and 'lrt'."
        )
    truth = assume(design, estimate, None if parameters is None else dict(parameters))
    if design.residual and n is not None:
        raise ArgumentError(
            "power: n= copies levels, which is not done for a model with residual=; simulate the larger data and fit them."
        )
    t = term_of(design, along, "power") if (along is not None or n is not None) else None
    sizes = (
        [design.terms[t].J if t is not None else 0]
        if n is None
        else [int(size) for size in np.atleast_1d(np.asarray(n))]
    )
    if t is not None and min(sizes) < 2:
        raise ArgumentError(
            f"power: n={min(sizes)} levels of {design.terms[t].group} are too few; a variance needs two."
        )
    generator, place = random_generator(rng), [design.names.index(name) for name in names]
    rows = []
    with bar(len(sizes) * nsim, "power", progress) as told:
        for size in sizes:
            own = design if t is None or n is None else rejections.extended(design, t, size)
            slabs = simulate_slabs(own, truth, nsim, generator, refits.HELD)
            p, failed = rejections.p_values(
                own, fit.problem, fit._method, truth, place, test, slabs, told
            )
            rejected = int(np.sum(p < alpha))
            low, high = rejections.clopper_pearson(rejected, nsim)
            label = design.units[0].J if t is None and design.units else size
            rows.append((label, own.n, rejected / nsim, low, high, rejected, nsim, failed))
    return pd.DataFrame(
        rows, columns=["n", "nobs", "power", "lower", "upper", "rejected", "nsim", "failures"]
    )
