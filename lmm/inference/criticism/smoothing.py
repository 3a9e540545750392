"""Curves through points: locally weighted regression, and densities by kernels.

Lowess fits a straight line around every x0 with tricube weights (1 - (|x - x0| / h)^3)^3, h the distance to the r-th nearest
point, r a share of them; passes that follow weigh each point by (1 - (e / 6m)^2)^2, e its residual and m the median |e|.

Cleveland (1979), JASA 74, with the edges of his program (full weight within 0.001 h, none beyond 0.999 h).
"""

from __future__ import annotations

import numpy as np

#: where x varies less than this share of its range inside a window, a mean takes the line's place
FLAT = 1e-3


def lowess(
    x: np.ndarray, y: np.ndarray, span: float = 2.0 / 3.0, iterations: int = 3, points: int = 101
) -> tuple[np.ndarray, np.ndarray]:
    """Locally weighted straight lines.

    Parameters
    ----------
    x, y : (n,), finite.
    span : share of the points in a window.
    iterations : robust passes after the first; 0 where the mean is wanted of a response that is skewed or binary.
    points : where the curve is evaluated at most, quantiles of x; straight lines between them.

    Returns
    -------
    Increasing values of x (m,) and the curve there (m,).
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    at = np.unique(x)
    if len(at) > points:
        at = np.unique(np.quantile(x, np.linspace(0.0, 1.0, points)))
    nearest = min(max(2, int(span * len(x) + 1e-7)), len(x))
    robust = np.ones(len(x))
    curve = _pass(x, y, at, nearest, robust)
    for _ in range(iterations):
        error = np.abs(y - np.interp(x, at, curve))
        wide = 6.0 * np.median(error)
        if wide < 1e-7 * error.mean():
            break
        robust = np.where(
            error <= 0.001 * wide,
            1.0,
            np.where(error > 0.999 * wide, 0.0, (1.0 - (error / wide) ** 2) ** 2),
        )
        curve = _pass(x, y, at, nearest, robust)
    return at, curve


def _pass(
    x: np.ndarray, y: np.ndarray, at: np.ndarray, nearest: int, robust: np.ndarray
) -> np.ndarray:
    """The curve (m,) for given robustness weights (n,)."""
    out, width = np.empty(len(at)), float(np.ptp(x))
    for i, x0 in enumerate(at):
        distance = np.abs(x - x0)
        h = np.partition(distance, nearest - 1)[nearest - 1]
        inside = np.flatnonzero(distance <= 0.999 * h)
        d = distance[inside]
        w = robust[inside] * np.where(
            d <= 0.001 * h, 1.0, (1.0 - (d / h if h > 0.0 else d) ** 3) ** 3
        )
        total = w.sum()
        if total <= 0.0:
            out[i] = np.nan
            continue
        w = w / total
        center = w @ x[inside]
        spread = w @ (x[inside] - center) ** 2
        if h > 0.0 and np.sqrt(spread) > FLAT * width:
            w = w * (1.0 + (x0 - center) / spread * (x[inside] - center))
        out[i] = w @ y[inside]
    known = np.isfinite(out)
    return out if known.all() or not known.any() else np.interp(at, at[known], out[known])


def density(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Density (m,) at the points ``at`` by a Gaussian kernel.

    The bandwidth is Silverman's (1986, eq. 3.31), 0.9 min(sd, IQR / 1.34) n^(-1/5). More than 1,000 values are first sorted into cells of a
    tenth of it, which moves none by more than a twentieth.
    """
    values, at = np.asarray(values, dtype=float), np.asarray(at, dtype=float)
    h = bandwidth(values)
    weights = np.full(len(values), 1.0 / len(values))
    if len(values) > 1_000:
        low = values.min()
        cells = np.round((values - low) / (0.1 * h)).astype(np.intp)
        used, counts = np.unique(cells, return_counts=True)
        weights, values = counts / len(values), low + used * 0.1 * h
    z = (at[:, None] - values) / h
    return np.asarray(np.exp(-0.5 * z * z) @ weights / (h * np.sqrt(2.0 * np.pi)))


def bandwidth(values: np.ndarray) -> float:
    """Silverman's rule; the standard deviation alone where half the values are equal, 1 where all are."""
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    iqr = float(np.subtract(*np.quantile(values, [0.75, 0.25]))) / 1.34
    scale = min(sd, iqr) if iqr > 0.0 else sd
    return 0.9 * scale * len(values) ** -0.2 if scale > 0.0 else 1.0
