"""Simulated data sets: the same rows for the tests, the benchmarks and R.

Each function draws from a numpy ``Generator`` with a seed of its own, using only ``random`` and
``standard_normal``, whose streams have been the same in every numpy release (``choice``,
``integers`` and ``permutation`` have not). Values are rounded to a few decimals, so that a CSV
file carries them exactly.
"""

from __future__ import annotations

import numpy as np
import pandas as pd


class Draw:
    """Random numbers from a seed, by way of the two stable streams alone."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normal values."""
        return self._rng.standard_normal(shape)

    def uniform(self, *shape: int) -> np.ndarray:
        """Values in [0, 1)."""
        return self._rng.random(shape)

    def whole(self, n: int, high: int) -> np.ndarray:
        """n integers in 0..high-1."""
        return (self._rng.random(n) * high).astype(np.int64)

    def order(self, n: int) -> np.ndarray:
        """A permutation of 0..n-1."""
        return np.argsort(self._rng.random(n), kind="stable")

    def from_weights(self, n: int, weights: np.ndarray) -> np.ndarray:
        """n integers drawn in proportion to the weights."""
        edges = np.cumsum(weights)
        return np.searchsorted(edges, self._rng.random(n) * edges[-1], side="right").clip(
            max=len(weights) - 1
        )

    def correlated(self, n: int, sd: list[float], correlation: float = 0.0) -> np.ndarray:
        """(n, k) effects with the given standard deviations and one common correlation."""
        k = len(sd)
        R = np.full((k, k), correlation) + (1 - correlation) * np.eye(k)
        return self.normal(n, k) @ np.linalg.cholesky(R).T * np.asarray(sd)


def factor(codes: np.ndarray, levels: list[str]) -> pd.Categorical[str]:
    """Codes 0, 1, ... as a categorical with these levels."""
    return pd.Categorical.from_codes(codes.tolist(), pd.Index(levels))


def labels(prefix: str, codes: np.ndarray) -> pd.Categorical[str]:
    """Codes as a categorical "s01", "s02", ... with its levels in the order of the codes."""
    width = len(str(int(codes.max()) + 1))
    used = np.unique(codes)
    return factor(np.searchsorted(used, codes), [f"{prefix}{c + 1:0{width}d}" for c in used])


def crossed(subjects: int, items: int, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a complete crossing, in random order."""
    order = draw.order(subjects * items)
    return order // items, order % items


def three_crossed(seed: int = 101, n: int = 2400, site_sd: float = 0.6) -> pd.DataFrame:
    """Ratings by 30 raters of 45 items at 12 sites, cells drawn at random, so none is complete."""
    d = Draw(seed)
    rater, item, site = d.whole(n, 30), d.whole(n, 45), d.whole(n, 12)
    x = d.normal(n).round(3)
    y = (
        5
        + 0.4 * x
        + 0.8 * d.normal(30)[rater]
        + 1.1 * d.normal(45)[item]
        + site_sd * d.normal(12)[site]
        + d.normal(n)
    )
    return pd.DataFrame(
        {
            "y": y.round(4),
            "x": x,
            "rater": rater + 1,
            "item": labels("i", item),
            "site": labels("site", site),
        }
    )


def crossed_slopes(seed: int = 102) -> pd.DataFrame:
    """42 subjects by 24 items, complete, with a slope of x for both."""
    d = Draw(seed)
    subj, item = crossed(42, 24, d)
    x = d.normal(len(subj)).round(3)
    bs, bi = d.correlated(42, [1.0, 0.5], 0.4), d.correlated(24, [0.7, 0.4], -0.3)
    y = (
        3
        + 0.5 * x
        + bs[subj, 0]
        + bs[subj, 1] * x
        + bi[item, 0]
        + bi[item, 1] * x
        + d.normal(len(subj))
    )
    return pd.DataFrame(
        {"y": y.round(4), "x": x, "subj": labels("s", subj), "item": labels("i", item)}
    )


def pupils(
    seed: int = 103, pupils: int = 4100, teachers: int = 300, schools: int = 40, occasions: int = 6
) -> pd.DataFrame:
    """Test scores of pupils on successive occasions; teachers belong to one school, a pupil has a new teacher each time.

    One pupil in twelve moves to another school half way, so pupils are not nested in schools.
    """
    d = Draw(seed)
    n = pupils * occasions
    pupil, occasion = np.arange(n) // occasions, np.arange(n) % occasions
    home, second = d.whole(pupils, schools), d.whole(pupils, schools)
    moves = d.uniform(pupils) < 1 / 12
    school = np.where((occasion >= occasions // 2) & moves[pupil], second[pupil], home[pupil])
    staff = np.array([len(range(s, teachers, schools)) for s in range(schools)])
    teacher = school + schools * np.floor(d.uniform(n) * staff[school]).astype(np.int64)
    b = d.correlated(pupils, [6.0, 1.2], 0.25)
    staff_room = 2.5 * d.normal(teachers)[teacher] + 3 * d.normal(schools)[school]
    y = 50 + 3 * occasion + b[pupil, 0] + b[pupil, 1] * occasion + staff_room + 4 * d.normal(n)
    return pd.DataFrame({"score": y.round(3), "occasion": occasion.astype(float), "pupil": pupil + 1,
                         "teacher": labels("t", teacher), "school": labels("sch", school)})  # fmt: skip


def nested_three(seed: int = 104) -> pd.DataFrame:
    """Plots in fields in farms: 10 farms, 3-6 fields each, 4 plots each, 1-4 readings; labels start anew inside each farm and field."""
    d = Draw(seed)
    rows = []
    for farm, fields in enumerate(3 + d.whole(10, 4)):
        for field in range(fields):
            for plot in range(4):
                rows += [(farm, field, plot)] * int(1 + d.whole(1, 4)[0])
    a, b, c = np.array(rows).T
    ab, abc = a * 10 + b, (a * 10 + b) * 10 + c
    x = d.uniform(len(a)).round(3)
    y = (
        20
        - 2 * x
        + 2 * d.normal(10)[a]
        + 1.2 * d.normal(100)[ab]
        + 0.8 * d.normal(1000)[abc]
        + 0.7 * d.normal(len(a))
    )
    return pd.DataFrame(
        {
            "y": y.round(4),
            "x": x,
            "farm": labels("f", a),
            "field": labels("a", b),
            "plot": labels("p", c),
        }
    )


def nested_crossed(seed: int = 105) -> pd.DataFrame:
    """Reaction times of 30 subjects in 3 conditions to 20 items: conditions nested in subjects, crossed with items."""
    d = Draw(seed)
    subj, item = crossed(30, 20, d)
    cond = d.whole(len(subj), 3)
    y = (500 + np.array([0.0, 20.0, 35.0])[cond] + 40 * d.normal(30)[subj] + 18 * d.normal(90)[subj * 3 + cond]
         + 25 * d.normal(20)[item] + 50 * d.normal(len(subj)))  # fmt: skip
    return pd.DataFrame(
        {
            "rt": y.round(3),
            "cond": labels("c", cond),
            "subj": labels("s", subj),
            "item": labels("i", item),
        }
    )


def deficient(seed: int = 106) -> pd.DataFrame:
    """Columns that depend on each other: ``double`` is 2 x + 1, and no row is in cell (dose=high, sex=m)."""
    d = Draw(seed)
    n = 360
    g, dose, sex = d.whole(n, 24), d.whole(n, 3), d.whole(n, 2)
    dose = np.where((dose == 2) & (sex == 1), 1, dose)
    x = d.normal(n).round(3)
    y = (
        1
        + 0.7 * x
        + 0.5 * dose
        + 0.3 * sex
        - 0.4 * (dose == 1) * sex
        + 0.8 * d.normal(24)[g]
        + d.normal(n)
    )
    return pd.DataFrame({"y": y.round(4), "x": x, "double": 2 * x + 1, "dose": factor(dose, ["low", "mid", "high"]),
                         "sex": factor(sex, ["f", "m"]), "g": labels("g", g)})  # fmt: skip


def badly_scaled(seed: int = 107) -> pd.DataFrame:
    """Calendar years, an income in units of 1e6 and a dose in units of 1e-6, with well-scaled copies of each."""
    d = Draw(seed)
    g = np.repeat(np.arange(40), 21)
    yc = np.tile(np.arange(-10.0, 11.0), 40)
    income_m, dose_u = (3 + d.normal(840)).round(3), (5 * d.uniform(840)).round(3)
    b = d.correlated(40, [1.5, 0.12], 0.3)
    y = (
        10
        + 0.2 * yc
        - 0.015 * yc**2
        + 0.6 * income_m
        - 0.5 * dose_u
        + b[g, 0]
        + b[g, 1] * yc
        + d.normal(840)
    )
    return pd.DataFrame({"y": y.round(4), "year": yc + 2010, "income": (income_m * 1e6).round(), "dose": (dose_u * 1e-6).round(9),
                         "yc": yc, "yc2": yc**2, "income_m": income_m, "dose_u": dose_u, "region": labels("r", g)})  # fmt: skip


def perfect_correlation(seed: int = 157, slope: float = 0.25) -> pd.DataFrame:
    """Slopes that are a multiple of the intercepts: the correlation is estimated as 1 or -1."""
    d = Draw(seed)
    g = np.repeat(np.arange(30), 8)
    x = np.tile(np.arange(8.0), 30)
    b = d.normal(30)
    y = 4 + 0.3 * x + 1.2 * b[g] + slope * b[g] * x + 1.5 * d.normal(240)
    return pd.DataFrame({"y": y.round(4), "x": x, "g": labels("g", g)})


def several_slopes(
    seed: int, k: int, groups: int = 60, rows: int = 24, rank: int | None = None
) -> pd.DataFrame:
    """Random intercept and k - 1 slopes ``x1 ... x5`` whose covariance has the given rank (full by default)."""
    d = Draw(seed)
    g = np.repeat(np.arange(groups), rows)
    n = len(g)
    x = d.normal(n, k - 1).round(3)
    columns = np.column_stack([np.ones(n), x])
    loadings = d.normal(k, rank or k) * 0.6
    b = d.normal(groups, rank or k) @ loadings.T
    y = columns @ (1 + 0.3 * np.arange(k)) + np.einsum("nk,nk->n", columns, b[g]) + d.normal(n)
    frame = pd.DataFrame({"y": y.round(4), **{f"x{j + 1}": x[:, j] for j in range(k - 1)}})
    return frame.assign(g=labels("g", g))


def maximal(
    seed: int, sd_subj: list[float], sd_item: list[float], subjects: int = 48, items: int = 36
) -> pd.DataFrame:
    """A two-by-two design within subjects and items with a covariate c: the place where analysts write maximal models."""
    d = Draw(seed)
    subj, item = crossed(subjects, items, d)
    n = len(subj)
    a, b = (subj + item) % 2 - 0.5, ((subj + item) // 2 + d.whole(n, 2)) % 2 - 0.5
    c = d.normal(n).round(3)
    by_subj = np.column_stack([np.ones(n), a, b, c, a * b])
    by_item = by_subj[:, [0, 1, 2, 4]]
    us, ui = d.correlated(subjects, sd_subj, 0.3), d.correlated(items, sd_item, 0.2)
    y = (
        by_subj @ np.array([6.0, 0.4, -0.3, 0.2, 0.1])
        + (by_subj * us[subj]).sum(1)
        + (by_item * ui[item]).sum(1)
        + d.normal(n)
    )
    return pd.DataFrame({"y": y.round(4), "a": a, "b": b, "c": c, "A": factor((a > 0).astype(int), ["no", "yes"]),
                         "B": factor((b > 0).astype(int), ["left", "right"]),
                         "subj": labels("s", subj), "item": labels("i", item)})  # fmt: skip


def weighted(seed: int = 115) -> pd.DataFrame:
    """Means of m readings each, so that a row's variance is sigma^2 / m; two crossed factors and a known part ``base``."""
    d = Draw(seed)
    n = 600
    lab, batch, m = d.whole(n, 20), d.whole(n, 35), 1 + d.whole(n, 9)
    x, base = d.normal(n).round(3), (10 * d.uniform(n)).round(2)
    y = (
        base
        + 2
        + 0.5 * x
        + 0.9 * d.normal(20)[lab]
        + 0.5 * d.normal(35)[batch]
        + 1.4 * d.normal(n) / np.sqrt(m)
    )
    return pd.DataFrame({"y": y.round(4), "x": x, "base": base, "m": m.astype(float), "half": m / 2 + 0.25,
                         "lab": labels("L", lab), "batch": labels("b", batch)})  # fmt: skip


def tiny_unbalanced(seed: int = 116) -> pd.DataFrame:
    """100 rows in 14 groups of 1 to 25 rows, in no order, identified by plain integers with gaps."""
    d = Draw(seed)
    g = d.from_weights(100, 0.75 ** np.arange(14))
    x = d.normal(100).round(2)
    b = d.correlated(14, [1.0, 0.6], -0.4)
    y = 2 + x + b[g, 0] + b[g, 1] * x + 0.8 * d.normal(100)
    return pd.DataFrame({"y": y.round(3), "x": x, "g": 7 * g + 3})


def large_mean(seed: int = 117) -> pd.DataFrame:
    """A response of mean 1e6 and standard deviation near 1: sums of squares lose twelve digits unless centred."""
    d = Draw(seed)
    g = d.whole(500, 25)
    x = d.normal(500).round(3)
    y = 1e6 + 0.3 * x + 0.7 * d.normal(25)[g] + 0.8 * d.normal(500)
    return pd.DataFrame({"y": y.round(5), "x": x, "far": x + 1e5, "g": labels("g", g)})


def equal_levels(seed: int = 118) -> pd.DataFrame:
    """A round robin: 30 players as rows and 30 as columns, so that both factors have as many levels."""
    d = Draw(seed)
    actor, partner = crossed(30, 30, d)
    keep = actor != partner
    actor, partner = actor[keep], partner[keep]
    y = 1 + 0.9 * d.normal(30)[actor] + 0.4 * d.normal(30)[partner] + d.normal(len(actor))
    return pd.DataFrame(
        {"y": y.round(4), "actor": labels("p", actor), "partner": labels("p", partner)}
    )


def ratings(seed: int, n: int, users: int, items: int) -> pd.DataFrame:
    """Ratings with long-tailed margins like MovieLens: log-normal activity of users, power-law popularity of items."""
    d = Draw(seed)
    user = d.from_weights(n, np.exp(0.9 * d.normal(users)))
    item = d.from_weights(n, (30 + np.arange(items)) ** -1.1)
    user[:users], item[:items] = d.order(users), d.order(items)  # nobody is left out
    user_effect, item_effect = 0.45 * d.normal(users), 0.6 * d.normal(items)
    y = 3.5 + user_effect[user] + item_effect[item] + 0.9 * d.normal(n)
    return pd.DataFrame({"y": y.round(3), "user": user + 1, "item": item + 1})


def grouped(seed: int, n: int, groups: int, slope_sd: float = 0.5) -> pd.DataFrame:
    """n rows in random order over many groups, known by integers, with a random intercept and slope."""
    d = Draw(seed)
    g, x = d.whole(n, groups), d.normal(n).round(4)
    b0, b1 = d.normal(groups), slope_sd * d.normal(groups)
    y = 1 + 0.5 * x + b0[g] + (0.3 * b0 + b1)[g] * x + d.normal(n)
    return pd.DataFrame({"y": y.round(4), "x": x, "g": g + 1})
