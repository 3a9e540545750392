"""Ratings with the margins of MovieLens-25M: 162,541 users x 59,047 movies, 25.0 million rows.

Users rate 20 movies at the least and 154 in the mean, with a long tail; half of the movies have a handful of ratings and a
few have tens of thousands. Which user meets which movie is drawn at random in proportion to both margins; or, with
``clusters``, users and movies belong to clusters and a share ``within`` of a user's ratings falls in his own, as it does
for people who watch the same films. Random pairing is the easy case for an iterative solver, clusters the hard one.
"""

from __future__ import annotations

import numpy as np

ROWS, USERS, MOVIES = 25_000_000, 162_541, 59_047
USERS_PER_ROW, ITEMS_PER_ROW = USERS / ROWS, MOVIES / ROWS
#: standard deviations of users, movies and residuals; mean
SD_USER, SD_MOVIE, SD, MEAN = 0.43, 0.47, 0.95, 3.5
#: rows drawn at a time
CHUNK = 2_000_000


def movies(
    rows: int = ROWS,
    users: int = USERS,
    items: int = MOVIES,
    seed: int = 1,
    clusters: int = 0,
    within: float = 0.0,
) -> dict[str, np.ndarray]:
    """Columns ``user`` and ``movie`` (int32) and ``rating`` (float64), users in order as in the published file.

    Parameters
    ----------
    rows, users, items : sizes; not every movie need occur.
    clusters, within : number of clusters and share of a user's ratings within his own; 0 for pairing at random.
    """
    rng = np.random.default_rng(seed)
    activity = 20.0 + np.exp(np.log(51.0) + 1.39 * rng.standard_normal(users))
    popularity = np.minimum(np.exp(np.log(6.0) + 2.92 * rng.standard_normal(items)), 81_000.0)
    user = np.repeat(np.arange(users, dtype=np.int32), counts(activity, rows))
    movie = np.empty(rows, dtype=np.int32)
    edges = np.cumsum(popularity)
    own_user, own_edges, own_items = cluster(rng, users, items, popularity, clusters)
    for first in range(0, rows, CHUNK):
        part = slice(first, min(first + CHUNK, rows))
        drawn = np.searchsorted(edges, rng.random(part.stop - part.start) * edges[-1], side="right")
        if clusters:
            at_home = rng.random(len(drawn)) < within
            home = own_user[user[part][at_home]]
            low, high = own_edges[home], own_edges[home + 1]
            sums = np.concatenate([[0.0], np.cumsum(popularity[own_items])])
            target = sums[low] + rng.random(len(home)) * (sums[high] - sums[low])
            drawn[at_home] = own_items[
                np.clip(np.searchsorted(sums, target, side="right") - 1, low, high - 1)
            ]
        movie[part] = np.minimum(drawn, items - 1)
    rating = MEAN + SD * rng.standard_normal(rows)
    rating += (SD_USER * rng.standard_normal(users))[user]
    rating += (SD_MOVIE * rng.standard_normal(items))[movie]
    return {"user": user, "movie": movie, "rating": rating}


def counts(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to the weights that add up to ``total``."""
    edges = np.round(np.cumsum(weights) * (total / weights.sum())).astype(np.int64)
    edges[-1] = total
    return np.diff(edges, prepend=0)


def cluster(
    rng: np.random.Generator, users: int, items: int, popularity: np.ndarray, clusters: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each user's cluster (users,), where each cluster's movies begin and end (clusters + 1,), and the movies in that order."""
    if not clusters:
        return np.zeros(users, dtype=np.int64), np.array([0, items]), np.arange(items)
    label = rng.permutation(np.arange(items) % clusters)
    order = np.argsort(label, kind="stable")
    return (
        rng.integers(0, clusters, users),
        np.searchsorted(label[order], np.arange(clusters + 1)),
        order,
    )
