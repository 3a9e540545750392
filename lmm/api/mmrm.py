"""mmrm(): models for repeated measures, with the formula and the names of the R package mmrm and of SAS."""

from __future__ import annotations

from collections.abc import Mapping

from lmm.api.lmer import check_control, run
from lmm.arguments import caller, checked
from lmm.errors import FormulaError
from lmm.estimators import Control, MaximumLikelihood
from lmm.formula import Given
from lmm.formula.text.residual_formula import lifted
from lmm.inference.tests.ddf import method_name
from lmm.results import Fit


@checked
def mmrm(
    formula: str,
    data: object,
    *,
    REML: bool = True,
    weights: object = None,
    offset: object = None,
    subset: object = None,
    na_action: str = "omit",
    contrasts: Mapping[str, object] | None = None,
    ddf: str = "kenward_roger",
    start: object = None,
    control: Control | None = None,
) -> Fit:
    """Fit a mixed model for repeated measures (MMRM).

    The same as :func:`lmm.lmer` with ``residual=``, in other words: the structure stands in the formula, has the names of mmrm and SAS,
    and tables have degrees of freedom.

    Parameters
    ----------
    formula : ``"FEV1 ~ RACE + ARMCD * AVISIT + us(AVISIT | USUBJID)"``. The structure is one of ``us`` (``un``), ``ar1, ar1h, cs, csh,
        toep, toeph, ad, adh, sp_exp``, homogeneous without an h at the end; ``us(AVISIT | ARMCD / USUBJID)`` has parameters by arm.
    data : pandas, polars or pyarrow table, or a mapping of arrays; N rows. Never modified. Visits are in the order of a categorical.
    REML, weights, offset, subset, na_action, contrasts, start, control : as in :func:`lmm.lmer`.
    ddf : degrees of freedom of tables: "kenward_roger" (the linear form, which does not depend on how the covariance is parametrised
        and is SAS's for ``un``), "kenward_roger_full", "satterthwaite", "between_within", "residual".

    Returns
    -------
    Fit

    Raises
    ------
    LmmError : a kind for each thing that can be wrong, naming the column or the place in the formula.

    Notes
    -----
    Kenward & Roger (1997, Biometrics 53; 2009, Comput. Stat. Data Anal. 53), with the observed information.

    Examples
    --------
    >>> import lmm
    >>> fev = lmm.datasets.load("fev")
    >>> fit = lmm.mmrm("FEV1 ~ RACE + ARMCD * AVISIT + us(AVISIT | USUBJID)", fev)
    >>> fit.coef_table().loc["ARMCD[T.TRT]", ["estimate", "std_error", "df"]].round(3).to_dict()
    {'estimate': 3.776, 'std_error': 1.084, 'df': 146.265}
    """
    if not isinstance(formula, str):
        raise FormulaError(
            f"a formula is a string such as 'y ~ arm * visit + us(visit | id)', not {type(formula).__name__}."
        )
    rest, residual = lifted(formula)
    return run(
        rest,
        data,
        REML=REML,
        given=Given(weights, offset, subset, na_action, contrasts, caller()),
        residual=residual,
        start=start,
        method=MaximumLikelihood(bool(REML), check_control(control), ddf=method_name(ddf)),
    )
