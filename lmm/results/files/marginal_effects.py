"""A fit in the form that the package marginaleffects works on: rows -> columns of the model, parameters -> predictions.

marginaleffects takes only instances of a class of its own. This one hands it the population's predictions, random effects
set to zero (``re.form = NA`` in R): columns of new rows come from the recorded formula, so that levels, knots and
centres are those of the fit, and standard errors from the covariance of the fixed effects. Of an ordinal model the
thresholds are parameters too and the predictions the probabilities of all categories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lmm import arguments
from lmm.design.design import Design
from lmm.errors import ArgumentError, LmmWarning, warn
from lmm.estimators.optional import need
from lmm.formula.columns.levels import encode, strings
from lmm.results.tables.fixed import kept_positions
from lmm.results.tests.dependence import predictable
from lmm.results.tests.predictors import Variable, columns_in, variables
from lmm.results.uncertainty import Uncertainty

if TYPE_CHECKING:
    import polars as pl

    from lmm.results.fit import Fit

TYPES = ("response", "link")
#: columns that marginaleffects makes itself and refuses in data
#: integers that are kept from being the place of another category, and how far that may go for labels that are integers
PLACES, MOST_PLACES = 4_000, 100_000
RESERVED = frozenset(
    {
        "rowid",
        "type",
        "group",
        "estimate",
        "std_error",
        "p_value",
        "s_value",
        "conf_low",
        "conf_high",
        "term",
        "contrast",
        "statistic",
    }
)
#: links and families that marginaleffects can differentiate itself
LINKS = frozenset({"identity", "log", "logit", "probit", "inverse", "sqrt", "cloglog"})
FAMILIES = frozenset({"gaussian", "binomial", "poisson", "gamma"})


def adapter(fit: Fit, type: str, covariance: Callable[[str], np.ndarray]) -> object:
    """The adapter of a fit; see :meth:`lmm.Fit.marginaleffects`.

    ``covariance`` gives the covariance of the fixed effects by the name of a method of degrees of freedom.
    """
    arguments.choice(type, "marginaleffects: type", TYPES)
    return _adapter_class()(fit, type, covariance)


@lru_cache(maxsize=1)
def _adapter_class() -> Callable[..., object]:
    need("marginaleffects", "fit.marginaleffects()", extra="lmm[interop]")
    try:
        from marginaleffects.classes import ModelAbstract, ModelVault
    except ImportError:
        ModelAbstract = ModelVault = None
    if not hasattr(ModelAbstract, "get_exog"):
        raise ArgumentError(
            "fit.marginaleffects() needs marginaleffects 0.6 or later, where a model brings its own columns of new data; "
            "install it with: pip install -U marginaleffects"
        )
    _check_polars()

    class Adapter(_Adapter, ModelAbstract):
        vault_class = ModelVault

    Adapter.__name__ = Adapter.__qualname__ = "FitAdapter"
    return Adapter


def _check_polars() -> None:
    """Warn of polars 2, whose columns have no ``get_categories``, which marginaleffects 0.6 asks for."""
    own = version("marginaleffects")
    if int(version("polars").partition(".")[0]) >= 2 and own.startswith("0.6."):
        warn(
            f"marginaleffects {own} does not work with polars 2 where a predictor is categorical: comparisons of its levels and new data "
            "fail. Install an earlier one: pip install 'polars<2'.",
            LmmWarning,
        )


class _Adapter:
    """What marginaleffects asks of a model.

    Attributes
    ----------
    model : the fit.
    vault : marginaleffects' record: data of the rows used (polars), coefficients and their names, a formula that names the variables.
    df_resid : infinite: tests and intervals are normal, as R's marginaleffects has them for mixed models.
    """

    vault_class: Callable[..., object]
    df_resid = float("inf")

    def __init__(self, fit: Fit, type: str, covariance: Callable[[str], np.ndarray]):
        design = fit.design
        self.design, self.estimate, self.type = design, fit.estimate, type
        self._covariance = covariance
        self._found = found = variables(design)
        coef, names, self._V = _parameters(fit._uncertainty, type)
        response = _response_column(design)
        # the names of the variables alone: get_exog below knows what the formula makes of them
        formula = f"{_quoted(response)} ~ {' + '.join(_quoted(v.name) for v in found) or '1'}"
        self._levels: dict[str, dict[str, object]] = {}
        super().__init__(  # type: ignore[call-arg]
            fit,
            self.vault_class(
                coef=coef,
                coefnames=np.array(names, dtype=object),
                formula=formula,
                modeldata=self._model_data(found, response),
                package="lmm",
                variable_names=[response, *(v.name for v in found)],
            ),
        )

    def validation(self) -> None:
        """The types of the variables; the data were checked when the model was fitted.

        marginaleffects finds out types itself, but not under every version of polars, nor of numbers that stand for categories.
        """
        data, self.coef, self.formula, self.response_name = (
            self.vault.modeldata, self.vault.coef, self.vault.formula, self.vault.variable_names[0]  # type: ignore[attr-defined]
        )  # fmt: skip
        known = {v.name: v for v in self._found}
        names = self.vault.variable_names  # type: ignore[attr-defined]
        types = {name: _type(known.get(name), data[name]) for name in names}
        self.vault.variables_type = types  # type: ignore[attr-defined]

    def find_predictors(self) -> list[str] | None:
        """The variables of the fixed part; None where there are none, as marginaleffects has it."""
        return list(self.vault.variable_names[1:]) or None  # type: ignore[attr-defined]

    def get_vcov(self, vcov: object = True) -> np.ndarray | None:
        """Covariance of the parameters; ``"kenward_roger"`` gives the adjusted one of a linear model."""
        if vcov is None or vcov is False:
            return None
        if vcov is True:
            return self._V
        if isinstance(vcov, str):
            return np.asarray(self._covariance(vcov))
        raise ArgumentError("vcov must be True, False, 'kenward_roger', or a matrix.")

    def get_df(self) -> int:
        """Denominator degrees of freedom of joint F tests: rows less parameters."""
        return int(self.model.df_resid)  # type: ignore[attr-defined]

    def get_exog(self, newdata: pl.DataFrame) -> np.ndarray:
        """Kept fixed columns of new rows, and beside them the offset where the model has one."""
        frame = self.design.frame
        names = self.find_predictors() or []
        columns = {n: self._column(newdata[n], n) for n in names if n in newdata.columns}
        table = pd.DataFrame(columns, index=pd.RangeIndex(len(newdata)))
        whole = frame.new_X(table)
        X = whole[:, kept_positions(self.design)]
        X[~predictable(self.design, whole, "marginaleffects")] = np.nan
        offset = new_offset(self.design, table)
        return X if offset is None else np.column_stack([X, offset])

    def get_predict(self, params: np.ndarray, newdata: np.ndarray) -> pl.DataFrame:
        """Predictions at other parameters for the columns of :meth:`get_exog`: ``rowid, estimate``; of an ordinal model also ``group``."""
        import polars as pl

        X, params = np.asarray(newdata, dtype=float), np.asarray(params, dtype=float)
        p = len(self.estimate.beta)
        eta = X[:, :p] @ params[:p]
        if X.shape[1] > p:
            eta = eta + X[:, p]
        family = self.estimate.distribution
        rowid = np.arange(len(eta), dtype=np.int32)
        if self.type not in family.category_types:
            phi = self.estimate.phi
            values = family.expected(eta, phi) if self.type == "response" else eta
            return pl.DataFrame({"rowid": rowid, "estimate": values})
        groups = family.category_names
        columns = {
            "rowid": np.tile(rowid, len(groups)),
            "group": np.repeat(groups, len(eta)).tolist(),
            "estimate": family.probabilities(eta, params[p:]).ravel(order="F"),
        }
        return pl.DataFrame(columns)

    def get_autodiff_args(self) -> object:
        """How marginaleffects may differentiate by JAX; a sentence why not otherwise."""
        family = self.estimate.distribution
        if self.design.offset is not None:
            return "models with an offset"
        if self.type in family.predictor_types:
            return {"model_type": "linear", "family": None, "link": None}
        if family.name not in FAMILIES or family.link.name not in LINKS:
            return f"family {family.name!r} with link {family.link.name!r}"
        return {"model_type": "glm", "family": family.name, "link": family.link.name}

    def _model_data(self, found: list[Variable], response: str) -> pl.DataFrame:
        """The user's columns in the rows used, as polars; texts and categoricals as Enum in the order of their levels."""
        import polars as pl

        table = self.design.frame.table
        known = {v.name: v for v in found}
        columns = {}
        for name in table.names:
            if name not in known and name in RESERVED:
                continue
            variable = known.get(name)
            values = variable.values if variable else self.design.rows.used(table.column(name))
            series = self._as_polars(name, values, variable)
            if series is not None:
                columns[name] = series
        if response not in columns:
            columns[response] = pl.Series(response, np.array(self.design.y))
        return pl.DataFrame(columns)

    def _as_polars(
        self, name: str, values: pd.Series, variable: Variable | None
    ) -> pl.Series | None:
        """A column; None for one that polars has no type for, and that the formula does not use."""
        import polars as pl

        if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iufbM":
            return pl.Series(name, values.to_numpy())
        if variable is None:
            if isinstance(values.dtype, pd.CategoricalDtype):
                levels = list(values.cat.categories)
            else:
                present = values.dropna().unique().tolist()
                if not all(isinstance(v, str) for v in present):
                    return None
                levels = sorted(present)
        else:
            levels = variable.levels
            self._levels[name] = dict(zip(strings(pd.Index(levels)), levels, strict=True))
        coded = encode(values, name)
        labels = [*strings(coded.values), None]
        texts = [labels[code] for code in coded.codes]
        return pl.Series(name, texts, dtype=pl.Enum(_by_number(strings(pd.Index(levels)).tolist())))

    def _column(self, series: pl.Series, name: str) -> pd.Series:
        """A column of new rows in the types that the formula was fitted with."""
        levels = self._levels.get(name)
        if levels is None:
            return pd.Series(series.to_numpy(), name=name)
        values = [levels.get(v, v) for v in series.to_list()]
        if all(v is None or v in levels.values() for v in values):
            return pd.Series(pd.Categorical(values, categories=list(levels.values())), name=name)
        return pd.Series(values, name=name)


def _by_number(labels: list[str]) -> list[str]:
    """Categories of an Enum in which an integer stands for its own text.

    marginaleffects casts new data to the type of the fit's, and polars takes an integer for the place of a category.
    """
    numbers = [int(label) for label in labels if label.isdecimal() and str(int(label)) == label]
    room = max([PLACES, *(number + 1 for number in numbers if number < MOST_PLACES)])
    taken = {str(number) for number in range(room)}
    return [
        *(str(number) for number in range(room)),
        *(label for label in labels if label not in taken),
    ]


def new_offset(design: Design, table: pd.DataFrame) -> np.ndarray | None:
    """Offset of new rows: that of the formula, and the mean of one that was an argument; (m,), None without one."""
    if design.offset is None:
        return None
    frame = replace(design.frame, offset_given=False)
    own = frame.new_offset(table)
    if design.frame.offset_given is False:
        return own
    inside = frame.new_offset(design.frame.table)
    total = (
        design.offset
        if inside is None
        else design.offset - design.rows.used(pd.Series(inside)).to_numpy()
    )
    return np.full(len(table), total.mean()) + (0.0 if own is None else own)


def _parameters(known: Uncertainty, type: str) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Estimates, names and covariance of all that predictions depend on."""
    estimate, names = known.estimate, list(known.design.names)
    if type not in estimate.distribution.category_types:
        return np.array(estimate.beta), names, np.array(known.beta)
    if known.joint is None:
        raise ArgumentError(
            "marginaleffects: probabilities of categories need the covariance of the thresholds, which this fit has not; "
            "fit with nAGQ=1, or use type='link'."
        )
    own = estimate.family.reported(estimate.phi)[0]
    V = known.full_covariance(known.beta).to_numpy()
    first = len(estimate.theta)
    values = np.concatenate([estimate.beta, np.asarray(estimate.phi)])
    return values, [*names, *own], V[first:, first:]


def _response_column(design: Design) -> str:
    """The column that stands for the response."""
    if design.response in design.frame.table:
        return design.response
    inside = columns_in(design, [design.response])
    return inside[0] if inside else "response"


def _type(variable: Variable | None, series: pl.Series) -> str:
    """marginaleffects' word for a column."""
    values = series.to_numpy() if variable is None else variable.values.to_numpy()
    if series.dtype.is_numeric():
        if variable is not None and variable.categorical:
            return "character"
        if np.isin(values, (0, 1)).all():
            return "binary"
        return "integer" if series.dtype.is_integer() else "numeric"
    return "boolean" if values.dtype == bool else "character"


def _quoted(name: str) -> str:
    """A name as formulaic, which marginaleffects uses, reads it; that has no way to write a backtick."""
    if "`" in name:
        raise ArgumentError(
            f"marginaleffects cannot take the column {name!r}, whose name has a backtick; rename it."
        )
    return name if name.isidentifier() else f"`{name}`"
