"""What a regression table of several models shows of a fit: coefficients, and the numbers under them.

The names of columns and keys are those of the package maketables (``b, se, t, p``; ``N``, ``ll``, ``aic``), which reads
them from any object and need not be installed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmm.design.design import Design
from lmm.inference.intervals.coverage import t_quantile
from lmm.model.records import Estimate
from lmm.results.tables import criteria
from lmm.results.tables.varcorr import varcorr

LEVELS = {"90": 0.9, "95": 0.95}


@dataclass(frozen=True, eq=False)
class TableModel:
    """A fit as a column of a regression table.

    Attributes
    ----------
    response : as written.
    coefficients : ``b, se, t, p, ci90l, ci90u, ci95l, ci95u`` per coefficient.
    statistics : numbers by key, in the order in which they stand under the table unless others are asked for.
    spread : where the standard errors come from.
    """

    response: str
    coefficients: pd.DataFrame
    statistics: dict[str, object]
    spread: str

    @property
    def __maketables_coef_table__(self) -> pd.DataFrame:
        return self.coefficients

    def __maketables_stat__(self, key: str) -> object:
        return self.statistics.get(key)

    @property
    def __maketables_depvar__(self) -> str:
        return self.response

    @property
    def __maketables_default_stat_keys__(self) -> list[str]:
        return [key for key in self.statistics if not key.startswith("df_")]

    @property
    def __maketables_vcov_info__(self) -> dict[str, object]:
        return {"vcov_type": self.spread, "clustervar": None}


def table_model(
    design: Design, estimate: Estimate, table: pd.DataFrame, ddf: str | None
) -> TableModel:
    """The column that belongs to a table of coefficients made with ``ddf``."""
    spread = ddf or estimate.kind_of_covariance
    return TableModel(design.response, coefficients(table), statistics(design, estimate), spread)


def coefficients(table: pd.DataFrame) -> pd.DataFrame:
    """``b, se, t, p`` and the limits ``ci90l, ci90u, ci95l, ci95u`` of a table of coefficients, dropped columns left out.

    Intervals are estimate and standard error times a quantile of the distribution of the test. Of a posterior ``p`` is missing
    and the limits are normal.
    """
    se = table["std_error"] if "std_error" in table else table["posterior_sd"]
    out = pd.DataFrame({"b": table["estimate"], "se": se})
    out["t"] = table["statistic"] if "statistic" in table else np.nan
    out["p"] = table["p_value"] if "p_value" in table else np.nan
    df = table["df"].to_numpy() if "df" in table else np.full(len(table), np.inf)
    for name, level in LEVELS.items():
        margin = t_quantile(level, df) * se
        out[f"ci{name}l"], out[f"ci{name}u"] = out["b"] - margin, out["b"] + margin
    return out[out["b"].notna()].rename_axis("Coefficient")


def statistics(design: Design, estimate: Estimate) -> dict[str, object]:
    """Numbers by key.

    ``N``, ``ll``, ``aic``, ``bic``, ``df_model``, ``df_resid``; ``SD (x | group)`` and ``Cor (x, y | group)`` of the random effects,
    ``SD (residual)``, ``Levels of group``.
    """
    components = varcorr(design, estimate)
    frame = components.to_frame()
    effects = [
        (_label(name), float(value))
        for name, value in zip(components.names, frame["sdcor"], strict=True)
    ]
    out: dict[str, object] = dict(effects)
    out |= {f"Levels of {term.group}": term.J for term in design.terms}
    out["N"] = design.n
    if np.isfinite(estimate.objective):
        out |= {
            "ll": -estimate.objective / 2.0,
            "aic": criteria.aic(estimate),
            "bic": criteria.bic(estimate, design.n),
        }
    return out | {"df_model": estimate.n_parameters, "df_resid": design.n - estimate.n_parameters}


def _label(name: str) -> str:
    """``SD (Days | Subject)`` of ``sd_Days|Subject``."""
    if name == "sigma":
        return "SD (residual)"
    kind, _, rest = name.partition("_")
    what, _, group = rest.rpartition("|")
    what = what.replace("(Intercept)", "Intercept")
    if kind == "sd":
        return f"SD ({what} | {group})"
    if kind not in ("sd", "cor"):
        return f"{kind.partition('|')[0].capitalize()} ({what or group})"
    # the two columns of cor_a.b|g: the second, the first
    return f"Cor ({what.replace('.Intercept', ', Intercept')} | {group})"
