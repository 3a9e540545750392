"""Posterior of Reaction ~ Days + (Days|Subject) on sleepstudy by importance sampling in NumPy: means and sds with Monte Carlo errors.

Independent of the package but for the data: every subject has the same ten days, so its responses are normal with one 10 x 10
covariance V = Z G Z' + sigma^2 I; the fixed effects, normal a priori, are integrated out given (G, sigma). What is left, two log
standard deviations, the correlation's atanh and log sigma, is drawn from a multivariate t fitted in two rounds.

Priors are the defaults that lmm.priors states: the predictor at the mean of Days Normal(mean y, 10 s_y), Days Normal(0, 10 s_y / s_x);
of the effects at the mean of Days standard deviations HalfNormal(2.5 s_y) and HalfNormal(2.5 s_y / s_x) and a uniform correlation
(LKJ(1) of a 2 x 2 matrix); sigma HalfNormal(2.5 s_y).

Run: python tests/reference/make_nuts_sleepstudy.py   (writes nuts_sleepstudy.json beside itself; about twenty seconds)
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import lmm

DRAWS, BATCH, SEED = 2_000_000, 20_000, 20240607


def main() -> None:
    data = lmm.datasets.load("sleepstudy")
    days = np.arange(10.0)
    Y = data.sort_values(["Subject", "Days"])["Reaction"].to_numpy(float).reshape(18, 10)
    assert (data.sort_values(["Subject", "Days"])["Days"].to_numpy().reshape(18, 10) == days).all()
    Z = np.column_stack([np.ones(10), days])
    s_y = Y.std()
    H = np.array([[1.0, -days.mean()], [0.0, 1.0]])  # effects at zero days of those at the mean
    m0, S0 = np.array([Y.mean(), 0.0]), H @ np.diag([10 * s_y, 10 * s_y / days.std()]) ** 2 @ H.T
    sd_scale = 2.5 * s_y / np.array([1.0, days.std()])

    def evaluate(x: np.ndarray) -> dict[str, np.ndarray]:
        """Log posterior density (up to a constant) and conditional moments at x (N, 4)."""
        centred, rho_c, sigma = np.exp(x[:, :2]), np.tanh(x[:, 2]), np.exp(x[:, 3])
        G = np.empty((len(x), 2, 2))
        G[:, 0, 0], G[:, 1, 1] = centred[:, 0] ** 2, centred[:, 1] ** 2
        G[:, 0, 1] = G[:, 1, 0] = rho_c * centred[:, 0] * centred[:, 1]
        G = H @ G @ H.T
        sd = np.sqrt(np.diagonal(G, axis1=1, axis2=2))
        rho = G[:, 0, 1] / sd.prod(axis=1)
        V = Z @ G @ Z.T + sigma[:, None, None] ** 2 * np.eye(10)
        Vi = np.linalg.inv(V)
        _, logdet = np.linalg.slogdet(V)
        # y_i = Z beta + e_i, e_i ~ N(0, V), beta ~ N(m0, S0): integrate beta out
        P = 18 * Z.T @ Vi @ Z + np.linalg.inv(S0)
        h = (Z.T @ Vi @ Y.sum(axis=0)[:, None])[:, :, 0] + np.linalg.solve(S0, m0)
        C = np.linalg.inv(P)
        mean = np.einsum("nij,nj->ni", C, h)
        quadratic = (
            np.einsum("nij,ij->n", Vi, Y.T @ Y)
            + m0 @ np.linalg.solve(S0, m0)
            - np.einsum("ni,ni->n", mean, h)
        )
        loglik = -0.5 * (18 * logdet + np.linalg.slogdet(P)[1] + quadratic)
        prior = -0.5 * np.sum((centred / sd_scale) ** 2, axis=1) - 0.5 * (sigma / (2.5 * s_y)) ** 2
        jacobian = x[:, 0] + x[:, 1] + x[:, 3] + np.log1p(-(rho_c**2))
        # the first subject's effects: G Z'V^-1 (y_1 - Z beta), linear in beta
        K = G @ Z.T @ Vi
        b = np.einsum("nij,j->ni", K, Y[0]) - np.einsum("nij,nj->ni", K @ Z, mean)
        b_cov = G - K @ Z @ G + (K @ Z) @ C @ np.swapaxes(K @ Z, 1, 2)
        return {
            "log": loglik + prior + jacobian,
            "sd": sd,
            "rho": rho,
            "sigma": sigma,
            "mean": mean,
            "C": C,
            "b": b,
            "b_cov": b_cov,
        }

    rng = np.random.default_rng(SEED)
    centre, scale, df = (
        np.array([np.log(25.0), np.log(6.0), 0.1, np.log(26.0)]),
        np.diag([0.3, 0.25, 0.35, 0.06]),
        8.0,
    )

    def propose(count: int) -> tuple[np.ndarray, np.ndarray]:
        L = scale
        z = rng.standard_normal((count, 4)) / np.sqrt(rng.chisquare(df, count) / df)[:, None]
        return centre + z @ L.T, -(df + 4) / 2 * np.log1p(np.sum(z**2, axis=1) / df) - np.log(
            np.diagonal(L)
        ).sum()

    for _ in range(3):  # fit the proposal
        x, log_q = propose(50_000)
        w = evaluate(x)["log"] - log_q
        w = np.exp(w - w.max())
        w /= w.sum()
        centre = w @ x
        scale = 1.1 * np.linalg.cholesky(np.einsum("n,ni,nj->ij", w, x - centre, x - centre))

    logs, firsts, seconds = [], [], []
    for _ in range(DRAWS // BATCH):
        x, log_q = propose(BATCH)
        at = evaluate(x)
        logs.append(at["log"] - log_q)
        # conditional means, and conditional second moments, of every quantity
        first = np.column_stack(
            [at["mean"], at["sd"][:, 0], at["rho"], at["sd"][:, 1], at["sigma"], at["b"]]
        )
        variance = np.zeros_like(first)
        variance[:, :2] = np.diagonal(at["C"], axis1=1, axis2=2)
        variance[:, 6:] = np.diagonal(at["b_cov"], axis1=1, axis2=2)
        firsts.append(first)
        seconds.append(first**2 + variance)
    log_w, first, second = np.concatenate(logs), np.concatenate(firsts), np.concatenate(seconds)
    w = np.exp(log_w - log_w.max())
    w /= w.sum()
    mean = w @ first
    var = w @ second - mean**2
    mcse = np.sqrt(w**2 @ (first - mean) ** 2)
    # of the variance, then of its root
    var_mcse = np.sqrt(w**2 @ (second - 2 * mean * first + mean**2 - var) ** 2)
    names = [
        "Intercept",
        "Days",
        "sd_(Intercept)|Subject",
        "cor_Days.(Intercept)|Subject",
        "sd_Days|Subject",
        "sigma",
    ]
    names += ["Subject[308,Intercept]", "Subject[308,Days]"]
    out = {
        "draws": DRAWS,
        "effective": round(float(1 / np.sum(w**2))),
        "posterior": {
            name: {
                "mean": m,
                "mean_mcse": e,
                "sd": float(np.sqrt(v)),
                "sd_mcse": float(ve / (2 * np.sqrt(v))),
            }
            for name, m, e, v, ve in zip(
                names, mean.tolist(), mcse.tolist(), var.tolist(), var_mcse.tolist(), strict=True
            )
        },
    }
    Path(__file__).with_name("nuts_sleepstudy.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
