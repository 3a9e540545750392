"""Simulated binary and count data, drawn like those of :mod:`benchmarks.simulate` from its two stable streams."""

from __future__ import annotations

import numpy as np
import pandas as pd

from benchmarks.simulate import Draw, factor, labels

#: counts that a Poisson draw may reach
LARGEST_COUNT = 400


def bernoulli(draw: Draw, eta: np.ndarray) -> np.ndarray:
    """0 or 1 per row with the logit eta."""
    return (draw.uniform(len(eta)) < 1.0 / (1.0 + np.exp(-eta))).astype(np.int64)


def poisson(draw: Draw, eta: np.ndarray) -> np.ndarray:
    """Counts with the log mean eta, by inverting the distribution function at one uniform value per row."""
    u, mean = draw.uniform(len(eta)), np.exp(eta)
    count = np.zeros(len(eta), dtype=np.int64)
    term = np.exp(-mean)
    total = term.copy()
    for k in range(1, LARGEST_COUNT + 1):
        count += u > total
        term = term * mean / k
        total += term
    return count


def binary_crossed(seed: int, n: int, subjects: int, items: int) -> pd.DataFrame:
    """n answers of subjects to items, cells drawn at random; factors are known by integers."""
    d = Draw(seed)
    subj, item, x = d.whole(n, subjects), d.whole(n, items), d.normal(n).round(3)
    eta = -0.5 + 0.4 * x + 1.1 * d.normal(subjects)[subj] + 0.8 * d.normal(items)[item]
    return pd.DataFrame({"y": bernoulli(d, eta), "x": x, "subj": subj + 1, "item": item + 1})


def births(
    seed: int = 152, n: int = 2159, mothers: int = 1595, communities: int = 161
) -> pd.DataFrame:
    """Immunisation of children by mother and community: most mothers have one child. Mothers are numbered anew in every community."""
    d = Draw(seed)
    home = np.concatenate([np.arange(communities), d.whole(mothers - communities, communities)])
    mother = np.concatenate([np.arange(mothers), d.whole(n - mothers, mothers)])[d.order(n)]
    community = home[mother]
    number = np.zeros(mothers, dtype=np.int64)
    for c in range(communities):
        own = np.flatnonzero(home == c)
        number[own] = 1 + np.arange(len(own))
    age, schooling = d.whole(n, 5), d.whole(mothers, 3)[mother]
    urban = (d.uniform(communities) < 0.3).astype(np.int64)[community]
    u, v = 1.0 * d.normal(communities)[community], 1.5 * d.normal(mothers)[mother]
    eta = -0.8 + 0.4 * age + 0.4 * schooling - 0.6 * urban + u + v
    return pd.DataFrame({"immune": bernoulli(d, eta), "age": age, "schooling": factor(schooling, ["none", "primary", "secondary"]),
                         "urban": urban, "community": labels("c", community), "mother": number[mother]})  # fmt: skip


def seizures(
    seed: int = 153, clinics: int = 24, patients: int = 400, visits: int = 6
) -> pd.DataFrame:
    """Seizures counted over two to eight weeks before each visit, by patient within clinic; ``visit`` runs from -1 to 1."""
    d = Draw(seed)
    n = patients * visits
    patient, visit = np.arange(n) // visits, np.arange(n) % visits
    clinic = np.concatenate([np.arange(clinics), d.whole(patients - clinics, clinics)])[patient]
    treated = d.whole(patients, 2)[patient]
    weeks, time = 2 + d.whole(n, 7), (2.0 * visit / (visits - 1) - 1.0).round(3)
    eta = (
        0.3
        - 0.2 * treated
        - 0.1 * time
        - 0.15 * treated * time
        + 0.3 * d.normal(clinics)[clinic]
        + 0.8 * d.normal(patients)[patient]
    )
    return pd.DataFrame({"seizures": poisson(d, eta + np.log(weeks)), "treated": treated, "visit": time, "weeks": weeks,
                         "clinic": labels("k", clinic), "patient": patient + 1})  # fmt: skip
