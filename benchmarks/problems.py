"""Named problems: a formula, a data frame and how to fit it.

``REFERENCE`` problems have numbers from R in ``tests/reference/lme4``; ``TIMED`` problems are what ``make bench``
runs, the generalized ones by Laplace's method. Data come from ``lmm.datasets`` or are simulated from a seed, so that
the tests, the benchmarks and R see the same rows. ``frame(name)`` makes a data set by its name.

    >>> from benchmarks.problems import PROBLEMS, frame
    >>> PROBLEMS["sleep_reml"].formula
    'Reaction ~ Days + (Days|Subject)'
    >>> frame("tiny_unbalanced").shape
    (100, 3)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from benchmarks import generalized
from benchmarks import simulate as sim
from lmm import datasets


@dataclass(frozen=True)
class Basis:
    """The same columns written in two ways: X (ours) = Z (R's) A, where R's are centred and scaled.

    lme4 drops or loses columns like year and year^2, so R fits the well-scaled formula. Then
    beta_R = A beta, vcov_R = A vcov A', and the REML criterion, which holds log|X'V^-1 X|, is R's + 2 log|det A|.
    ``names`` are R's coefficients in the order of the rows of A, ``ours`` those of the columns.
    """

    names: tuple[str, ...]
    ours: tuple[str, ...]
    A: tuple[tuple[float, ...], ...]

    def matrix(self) -> np.ndarray:
        """A as an array."""
        return np.array(self.A)


@dataclass(frozen=True)
class Problem:
    """One model for one data set.

    Attributes
    ----------
    name : unique; names the reference file.
    formula : as typed in Python.
    data : name of the data set, see ``frame``.
    reml : REML (True) or maximum likelihood.
    weights, offset : names of columns, or None.
    family : name of the family of a generalized model with its usual link; None for a linear one.
    r_formula : the formula for R where it differs (another basis of the same model, an R idiom).
    basis : how R's fixed columns relate to ours when ``r_formula`` has another basis.
    same_theta : whether theta means the same in R's formula (not when the random columns are recoded).
    about : what is special about it.
    """

    name: str
    formula: str
    data: str
    reml: bool = True
    weights: str | None = None
    offset: str | None = None
    family: str | None = None
    r_formula: str | None = None
    basis: Basis | None = None
    same_theta: bool = True
    about: str = ""


def _sleep_weighted() -> pd.DataFrame:
    """sleepstudy with weights 1, 2, 0.5 in turn and an offset of 2 ms a day."""
    sleep = datasets.load("sleepstudy")
    return sleep.assign(w=np.resize([1.0, 2.0, 0.5], len(sleep)), off=2.0 * sleep["Days"])


def _sleep_missing() -> pd.DataFrame:
    """sleepstudy with two responses and one day missing."""
    sleep = datasets.load("sleepstudy").astype({"Reaction": float, "Days": float})
    sleep.loc[sleep.index[[2, 49]], "Reaction"] = np.nan
    sleep.loc[sleep.index[76], "Days"] = np.nan
    return sleep


def _verbagg() -> pd.DataFrame:
    """VerbAgg with the answer as 0 or 1, for a linear model."""
    answers = datasets.load("VerbAgg")
    return answers.assign(yes=(answers["r2"].astype(str) == "Y").astype(float))


SHIPPED = (
    "radon",
    "sleepstudy",
    "Dyestuff",
    "Dyestuff2",
    "Penicillin",
    "Pastes",
    "cake",
    "InstEval",
    "Orthodont",
    "Machines",
    "Oats",
)

FRAMES: dict[str, Callable[[], pd.DataFrame]] = {
    "sleep_weighted": _sleep_weighted,
    "sleep_missing": _sleep_missing,
    "verbagg": _verbagg,
    "three_crossed": sim.three_crossed,
    "no_site": lambda: sim.three_crossed(seed=122, site_sd=0.0),
    "crossed_slopes": sim.crossed_slopes,
    "pupils": sim.pupils,
    "nested_three": sim.nested_three,
    "nested_crossed": sim.nested_crossed,
    "deficient": sim.deficient,
    "badly_scaled": sim.badly_scaled,
    "perfect_correlation": sim.perfect_correlation,
    "perfect_negative": lambda: sim.perfect_correlation(seed=157, slope=-0.25),
    "slopes_3": lambda: sim.several_slopes(131, 3),
    "slopes_4": lambda: sim.several_slopes(132, 4),
    "slopes_4_rank2": lambda: sim.several_slopes(133, 4, rank=2),
    "slopes_5": lambda: sim.several_slopes(134, 5),
    "slopes_6": lambda: sim.several_slopes(135, 6),
    "slopes_8_few": lambda: sim.several_slopes(136, 8, groups=25, rows=30),
    "maximal": lambda: sim.maximal(113, [1.0, 0.5, 0.6, 0.4, 0.5], [0.7, 0.4, 0.5, 0.6]),
    "maximal_singular": lambda: sim.maximal(
        114, [1.0, 0.3, 0.0, 0.1, 0.0], [0.7, 0.0, 0.2, 0.0], subjects=30, items=20
    ),
    "weighted": sim.weighted,
    "tiny_unbalanced": sim.tiny_unbalanced,
    "large_mean": sim.large_mean,
    "equal_levels": sim.equal_levels,
    "ratings_20k": lambda: sim.ratings(119, 20_000, 600, 400),
    "groups_200k": lambda: sim.grouped(141, 200_000, 20_000),
    "slopes_1m": lambda: sim.grouped(142, 1_000_000, 100_000),
    "slopes_10m": lambda: sim.grouped(143, 10_000_000, 1_000_000),
    "ratings_1m": lambda: sim.ratings(144, 1_000_000, 6040, 3706),
    "binary_100k": lambda: generalized.binary_crossed(151, 100_000, 2000, 500),
    "births": generalized.births,
    "seizures": generalized.seizures,
}


@lru_cache(maxsize=4)
def frame(name: str) -> pd.DataFrame:
    """The data set of that name; a data set that is not made here comes from ``lmm.datasets``."""
    return FRAMES[name]() if name in FRAMES else datasets.load(name)


_YEARS = (
    (1.0, 2010.0, 2010.0**2, 0.0, 0.0),
    (0.0, 1.0, 4020.0, 0.0, 0.0),
    (0.0, 0.0, 1.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 1e6, 0.0),
    (0.0, 0.0, 0.0, 0.0, 1e-6),
)
_YEAR = ((1.0, 2010.0), (0.0, 1.0))
_FAR = ((1.0, 1e5), (0.0, 1.0))

_SLEEP = "Reaction ~ Days + (Days|Subject)"
_MAXIMAL = "y ~ a*b + c + (1+a*b+c|subj) + (1+a*b|item)"
_PUPILS = "score ~ occasion + (1+occasion|pupil) + (1|teacher) + (1|school)"
_TWO_SLOPES = "y ~ x + (1+x|subj) + (1+x|item)"
_SLOPES_6 = "y ~ x1 + x2 + x3 + x4 + x5 + (1+x1+x2+x3+x4+x5|g)"
_SLOPES_8 = "y ~ x1 + x2 + (1+x1+x2+x3+x4+x5+x6+x7|g)"

REFERENCE = (
    # shipped data
    Problem("radon_reml", "log_radon ~ floor + (1|county)", "radon"),
    Problem("radon_ml", "log_radon ~ floor + (1|county)", "radon", reml=False),
    Problem("radon_slope", "log_radon ~ floor + (1+floor|county)", "radon"),
    Problem("radon_uranium", "log_radon ~ floor*log_uranium + (1|county)", "radon"),
    Problem("sleep_reml", _SLEEP, "sleepstudy"),
    Problem("sleep_ml", _SLEEP, "sleepstudy", reml=False),
    Problem("sleep_intercept", "Reaction ~ Days + (1|Subject)", "sleepstudy"),
    Problem("sleep_intercept_ml", "Reaction ~ Days + (1|Subject)", "sleepstudy", reml=False),
    Problem("sleep_uncorrelated", "Reaction ~ Days + (Days||Subject)", "sleepstudy"),
    Problem("sleep_uncorrelated_ml", "Reaction ~ Days + (1|Subject) + (0+Days|Subject)", "sleepstudy", reml=False),
    Problem("sleep_slope_only", "Reaction ~ Days + (0+Days|Subject)", "sleepstudy"),
    Problem("sleep_poly", "Reaction ~ poly(Days, 2) + (Days|Subject)", "sleepstudy"),
    Problem("sleep_logged", "log(Reaction) ~ I(Days/10) + (I(Days/10)|Subject)", "sleepstudy"),
    Problem("sleep_weights", _SLEEP, "sleep_weighted", weights="w"),
    Problem("sleep_weights_ml", _SLEEP, "sleep_weighted", reml=False, weights="w"),
    Problem("sleep_offset", "Reaction ~ Days + offset(off) + (Days|Subject)", "sleep_weighted"),
    Problem("sleep_missing", _SLEEP, "sleep_missing", about="three rows dropped"),
    Problem("dyestuff_reml", "Yield ~ 1 + (1|Batch)", "Dyestuff"),
    Problem("dyestuff_ml", "Yield ~ 1 + (1|Batch)", "Dyestuff", reml=False),
    Problem("dyestuff2_singular", "Yield ~ 1 + (1|Batch)", "Dyestuff2", about="variance zero"),
    Problem("dyestuff2_singular_ml", "Yield ~ 1 + (1|Batch)", "Dyestuff2", reml=False, about="variance zero"),
    Problem("penicillin_crossed", "diameter ~ 1 + (1|plate) + (1|sample)", "Penicillin"),
    Problem("penicillin_ml", "diameter ~ 1 + (1|plate) + (1|sample)", "Penicillin", reml=False),
    Problem("pastes_nested", "strength ~ 1 + (1|batch/cask)", "Pastes"),
    Problem("pastes_nested_ml", "strength ~ 1 + (1|batch) + (1|batch:cask)", "Pastes", reml=False),
    Problem("cake_factor", "angle ~ recipe*temperature + (1|recipe:replicate)", "cake"),
    Problem("cake_numeric", "angle ~ recipe + temp + (1|recipe:replicate)", "cake"),
    Problem("machines_slopes", "score ~ Machine + (Machine|Worker)", "Machines", about="6 levels, 3 columns"),
    Problem("machines_nested", "score ~ Machine + (1|Worker/Machine)", "Machines"),
    Problem("machines_indicator", "score ~ 0 + Machine + (0+Machine|Worker)", "Machines"),
    Problem("oats_split_plot", "yield ~ Variety*nitro + (1|Block/Variety)", "Oats"),
    Problem("orthodont", "distance ~ age*Sex + (age|Subject)", "Orthodont"),
    Problem("insteval_reml", "y ~ service + (1|s) + (1|d) + (1|dept)", "InstEval"),
    Problem("insteval_ml", "y ~ service + (1|s) + (1|d) + (1|dept:service)", "InstEval", reml=False),
    Problem("insteval_lectage", "y ~ service*lectage + studage + (1|s) + (1|d) + (1|dept)", "InstEval"),
    Problem("verbagg_linear", "yes ~ Anger + Gender + btype + situ + (1|id) + (1|item)", "verbagg", about="0/1 as a number"),
    # crossed and nested
    Problem("three_crossed", "y ~ x + (1|rater) + (1|item) + (1|site)", "three_crossed"),
    Problem("three_crossed_ml", "y ~ x + (1|rater) + (1|item) + (1|site)", "three_crossed", reml=False),
    Problem("crossed_slopes", _TWO_SLOPES, "crossed_slopes"),
    Problem("crossed_slopes_ml", _TWO_SLOPES, "crossed_slopes", reml=False),
    Problem("crossed_slopes_uncorrelated", "y ~ x + (x||subj) + (x||item)", "crossed_slopes"),
    Problem("crossed_split_terms", "y ~ x + (1|item) + (1|subj) + (0+x|subj)", "crossed_slopes", about="one factor in two terms"),
    Problem("pupils", _PUPILS, "pupils", about="24,600 rows; slopes by pupil crossed with teachers within schools"),
    Problem("nested_three", "y ~ x + (1|farm/field/plot)", "nested_three"),
    Problem("nested_three_ml", "y ~ x + (1|farm/field/plot)", "nested_three", reml=False),
    Problem("nested_crossed", "rt ~ cond + (1|subj/cond) + (1|item)", "nested_crossed"),
    Problem("nested_crossed_slopes", "rt ~ cond + (cond|subj) + (1|item)", "nested_crossed"),
    Problem("equal_levels", "y ~ 1 + (1|actor) + (1|partner)", "equal_levels", about="both factors have 30 levels"),
    Problem("ratings_20k", "y ~ 1 + (1|user) + (1|item)", "ratings_20k", about="long-tailed margins"),
    # fixed effects
    Problem("duplicate_column_rank_deficient", "y ~ x + double + sex + (1|g)", "deficient", about="double = 2 x + 1"),
    Problem("empty_cell_rank_deficient", "y ~ x + dose*sex + (1|g)", "deficient", about="no row in (high, m)"),
    Problem("empty_cell_ml_rank_deficient", "y ~ x + dose*sex + (1|g)", "deficient", reml=False, about="no row in (high, m)"),
    Problem("units", "y ~ income + dose + (1|region)", "badly_scaled", about="units of 1e6 and 1e-6"),
    Problem("years_squared", "y ~ year + I(year^2) + income + dose + (1|region)", "badly_scaled",
            r_formula="y ~ yc + yc2 + income_m + dose_u + (1|region)",
            basis=Basis(("(Intercept)", "yc", "yc2", "income_m", "dose_u"), ("Intercept", "year", "I(year^2)", "income", "dose"), _YEARS),
            about="year and year squared, uncentred"),
    Problem("years_squared_ml", "y ~ year + I(year^2) + income + dose + (1|region)", "badly_scaled", reml=False,
            r_formula="y ~ yc + yc2 + income_m + dose_u + (1|region)",
            basis=Basis(("(Intercept)", "yc", "yc2", "income_m", "dose_u"), ("Intercept", "year", "I(year^2)", "income", "dose"), _YEARS)),
    Problem("year_slopes", "y ~ year + (1+year|region)", "badly_scaled", r_formula="y ~ yc + (1+yc|region)",
            basis=Basis(("(Intercept)", "yc"), ("Intercept", "year"), _YEAR), same_theta=False,
            about="slopes of an uncentred year: intercepts in the year 0"),
    Problem("large_mean", "y ~ x + (1|g)", "large_mean", about="mean 1e6, standard deviation 1"),
    Problem("far_predictor", "y ~ far + (1|g)", "large_mean", r_formula="y ~ x + (1|g)",
            basis=Basis(("(Intercept)", "x"), ("Intercept", "far"), _FAR), about="a predictor of mean 1e5 and standard deviation 1"),
    # boundaries
    Problem("no_site_singular", "y ~ x + (1|rater) + (1|item) + (1|site)", "no_site", about="one variance of three is zero"),
    Problem("perfect_correlation", "y ~ x + (1+x|g)", "perfect_correlation", about="correlation 1"),
    Problem("perfect_correlation_ml", "y ~ x + (1+x|g)", "perfect_correlation", reml=False, about="correlation 1"),
    Problem("perfect_negative", "y ~ x + (1+x|g)", "perfect_negative", about="correlation -1"),
    Problem("slopes_4_rank2", "y ~ x1 + x2 + x3 + (1+x1+x2+x3|g)", "slopes_4_rank2", about="a 4 x 4 covariance of rank 2"),
    # many covariance parameters
    Problem("slopes_3", "y ~ x1 + x2 + (1+x1+x2|g)", "slopes_3"),
    Problem("slopes_4", "y ~ x1 + x2 + x3 + (1+x1+x2+x3|g)", "slopes_4"),
    Problem("slopes_5_ml", "y ~ x1 + x2 + x3 + x4 + (1+x1+x2+x3+x4|g)", "slopes_5", reml=False),
    Problem("slopes_6", _SLOPES_6, "slopes_6", about="21 covariance parameters"),
    Problem("slopes_6_diagonal", _SLOPES_6.replace("|g", "||g"), "slopes_6"),
    Problem("slopes_8_few", _SLOPES_8, "slopes_8_few", about="36 covariance parameters from 25 groups"),
    Problem("maximal", _MAXIMAL, "maximal", about="15 + 10 covariance parameters"),
    Problem("maximal_factors", "y ~ A*B + c + (1+A*B+c|subj) + (1+A*B|item)", "maximal", about="the same with factors"),
    Problem("maximal_singular", _MAXIMAL, "maximal_singular", about="many directions without variance"),
    # weights, offsets, small data
    Problem("weighted_crossed", "y ~ x + (1|lab) + (1|batch)", "weighted", weights="m"),
    Problem("weighted_slope_ml", "y ~ x + (1+x|lab) + (1|batch)", "weighted", reml=False, weights="half"),
    Problem("weighted_offset", "y ~ x + (1|lab) + (1|batch)", "weighted", weights="m", offset="base"),
    Problem("tiny_unbalanced", "y ~ x + (1+x|g)", "tiny_unbalanced", about="100 rows, 14 groups of 1 to 25"),
    Problem("tiny_intercept_ml", "y ~ x + (1|g)", "tiny_unbalanced", reml=False),
)  # fmt: skip

TIMED_LINEAR = (
    Problem("sleepstudy", _SLEEP, "sleepstudy"),
    Problem(
        "insteval",
        "y ~ service + (1|s) + (1|d) + (1|dept)",
        "InstEval",
        about="73,421 rows, three crossed factors",
    ),
    Problem(
        "verbagg_lmm",
        "yes ~ Anger + Gender + btype + situ + (1|id) + (1|item)",
        "verbagg",
        about="7,584 rows, as a linear model",
    ),
    Problem(
        "pupils_24k", _PUPILS, "pupils", about="24,600 rows, pupils' slopes x teachers x schools"
    ),
    Problem("maximal_25", _MAXIMAL, "maximal", about="1,728 rows, 25 covariance parameters"),
    Problem("intercept_200k", "y ~ x + (1|g)", "groups_200k", about="200,000 rows, 20,000 groups"),
    Problem("slope_200k", "y ~ x + (1+x|g)", "groups_200k", about="200,000 rows, 20,000 groups"),
    Problem("slope_1m", "y ~ x + (1+x|g)", "slopes_1m", about="1,000,000 rows, 100,000 groups"),
    Problem(
        "ratings_1m",
        "y ~ 1 + (1|user) + (1|item)",
        "ratings_1m",
        about="1,000,000 rows, 6,040 x 3,706 crossed",
    ),
    Problem(
        "slope_10m", "y ~ x + (1+x|g)", "slopes_10m", about="10,000,000 rows, 1,000,000 groups"
    ),
)

TIMED_GENERALIZED = (
    Problem("cbpp", "cbind(incidence, size - incidence) ~ period + (1|herd)", "cbpp", family="binomial",
            about="56 binomial rows in 15 herds"),
    Problem("toenail", "outcome ~ treatment + visit + (1|patientID)", "toenail", family="binomial",
            about="1,908 binary rows, 294 patients, a standard deviation of 4.7"),
    Problem("grouseticks_glmm", "TICKS ~ YEAR + cHEIGHT + (1|BROOD) + (1|INDEX) + (1|LOCATION)", "grouseticks", family="poisson",
            about="403 counts with an effect for each row"),
    Problem("seizures", "seizures ~ treated * visit + offset(log(weeks)) + (1|clinic/patient)", "seizures", family="poisson",
            about="2,400 counts of unequal exposure, patients in clinics"),
    Problem("births_nested", "immune ~ age + schooling + urban + (1|community/mother)", "births", family="binomial",
            about="2,159 binary rows, 1,595 mothers in 161 communities"),
    Problem("verbagg_glmm", "r2 ~ Anger + Gender + btype + situ + (1|id) + (1|item)", "VerbAgg", family="binomial",
            about="7,584 binary rows, 316 persons x 24 items"),
    Problem("binary_100k", "y ~ x + (1|subj) + (1|item)", "binary_100k", family="binomial",
            about="100,000 binary rows, 2,000 x 500 crossed"),
)  # fmt: skip

TIMED = (*TIMED_LINEAR, *TIMED_GENERALIZED)

PROBLEMS: dict[str, Problem] = {p.name: p for p in (*REFERENCE, *TIMED)}
