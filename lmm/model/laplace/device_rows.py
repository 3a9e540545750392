"""Rows of a generalized model on JAX's devices: the passes over rows, a share of the rows on each device.

:class:`DeviceRows` are rows in memory whose two costly requests, :class:`~lmm.model.laplace.passes.ScoreSums` and
:class:`~lmm.model.laplace.passes.LeverageSums`, are answered by one compiled function of arrays: linear predictor, density and derivatives
row by row, sums by gathers (:mod:`lmm.linalg.sparse.gather_product`), and over several devices one ``psum`` of the sums. That is
all that travels: parameters there, sums back. Densities are the families' own (:mod:`lmm.families.namespace`), their derivatives
by forward differentiation. Expected information of links that are not canonical, ordinal families and leverages whose coupling
is sparse are left to NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from lmm.errors import ArgumentError
from lmm.families.base import Family
from lmm.linalg.devices import backend, sharded
from lmm.linalg.sparse.gather_product import Rounds, shared_rounds, sum_segments
from lmm.linalg.tail import Layout
from lmm.model.laplace.leverage import Tables
from lmm.model.laplace.passes import LeverageSums, Scores, ScoreSums, Slopes, Weighted
from lmm.model.laplace.rows import Block, Rows
from lmm.model.problem import GeneralizedProblem

Array = Any

#: rows from which all devices take a share unasked
WORTH = 1_000_000


class Share(NamedTuple):
    """Rows of P devices, P first: values (P, m), Q (P, m, p), codes and how to sum by level and by pair of levels.

    ``real`` is False where a row only pads.
    """

    y: Array
    weights: Array
    offset: Array
    real: Array
    Q: Array
    codes: tuple[Array, ...]
    columns: tuple[tuple[Array | None, ...], ...]
    levels: tuple[Rounds, ...]
    pairs: tuple[Rounds, ...]


class Inverse(NamedTuple):
    """The arrays of :class:`~lmm.model.laplace.leverage.Tables`."""

    own: tuple[Array, ...]
    parents: tuple[tuple[Array, ...], ...]
    across: tuple[Array | None, ...]
    K: Array


class Placed(NamedTuple):
    """Rows on their devices, and the mesh (None: one device)."""

    share: Share
    mesh: Any


_placed: WeakKeyDictionary[DeviceRows, Placed] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False, kw_only=True)
class DeviceRows(Rows):
    """All rows in memory, here and on ``devices`` of JAX's (None: all of them where there are many rows)."""

    devices: int | None = None

    @property
    def where(self) -> str:
        """In words, which devices."""
        count = sharded.count_for(self.devices, self.n, WORTH)
        return "jax" if count == 1 else f"jax, shared by {count} devices"

    def total(self, requests: Sequence[Callable[[Block], Any]]) -> list[Any]:
        """The answers of requests to all rows."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Callable[[Block], Any]) -> Any:
        if isinstance(request, ScoreSums) and request.family.shares_weights(not request.expected):
            return self._expansion(request)
        if (
            isinstance(request, LeverageSums)
            and request.family.shares_weights(request.observed)
            and isinstance(request.tables, Tables)
            and request.tables.B is None
        ):
            return self._slopes(request, request.tables)
        return request(self)

    def placed(self) -> Placed:
        """The rows on their devices, sent there once."""
        if self not in _placed:
            mesh = sharded.mesh_for(self.devices, self.n, WORTH)
            share = shares(self, 1 if mesh is None else mesh.size)
            _placed[self] = Placed(
                backend.put(share) if mesh is None else sharded.put(mesh, share, 0), mesh
            )
        return _placed[self]

    def _call(self, kernel: Callable[..., Any], *arrays: Any, **static: Any) -> Any:
        share, mesh = self.placed()
        with backend.over(mesh):
            return backend.call(kernel, share, *arrays, **static)

    def _expansion(self, asked: ScoreSums) -> Scores:
        static = {"family": asked.family, "fixed": asked.fixed, "joined": tuple(self.place)}
        kernel, negative, sums, fixed_score, gram = self._call(
            expansion, asked.gamma, list(asked.b), float(asked.phi), **static
        )
        score, diag, fixed = zip(
            *(
                self._split(own, len(b), asked.fixed)
                for own, b in zip(sums[0], asked.b, strict=True)
            ),
            strict=True,
        )
        pairs = {}
        for (t, s), own in zip(self.place, sums[1], strict=True):
            pairs[t, s] = own.reshape(len(asked.b[t]), len(asked.b[s]), own.shape[-1])
        found = Weighted(
            list(diag), pairs, list(fixed) if asked.fixed else None, gram if asked.fixed else None
        )
        sums_of = found if asked.observed else None, found if asked.expected else None
        return Scores(float(kernel), int(negative), list(score), fixed_score, *sums_of)

    def _split(
        self, sums: np.ndarray, k: int, fixed: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Z'r (k, J), Z'WZ (k, k, J) and Z'WQ (p, k, J) of a term from their stack."""
        score, rest = sums[:k], sums[k:]
        A = np.empty((k, k, sums.shape[-1]))
        lower = np.tril_indices(k)
        A[lower] = A[lower[::-1]] = rest[: len(lower[0])]
        own = rest[k * (k + 1) // 2 :]
        return score, A, own.reshape(self.p if fixed else 0, k, sums.shape[-1])

    def _slopes(self, asked: LeverageSums, at: Tables) -> Slopes:
        plan = at.plan
        inverse = Inverse(
            tuple(at.own), tuple(tuple(each) for each in at.parents), tuple(at.across), at.K
        )
        static = {
            "family": asked.family,
            "chain": plan.chain,
            "tail": plan.tail,
            "layout": plan.layout,
        }
        sums, fixed_t, gram, own = self._call(
            slopes, asked.gamma, list(asked.b), float(asked.phi), inverse, **static
        )
        constant = (
            float(asked.family.constant(self.y, self.weights, asked.phi).sum())
            if asked.constant
            else 0.0
        )
        ks = [len(b) for b in asked.b]
        r = asked.family.n_parameters
        starts = [k + self.p * k for k in ks]
        return Slopes(
            t=[all_[:k] for all_, k in zip(sums, ks, strict=True)],
            fixed_t=fixed_t,
            fixed=[
                all_[k:start].reshape(self.p, k, all_.shape[-1])
                for all_, k, start in zip(sums, ks, starts, strict=True)
            ],
            gram=gram,
            fixed_observed=None,
            gram_observed=None,
            constant=constant,
            first=own.first,
            squares=own.squares,
            second=own.second,
            moved=own.moved,
            mixed=[
                all_[start:].reshape(r, k, all_.shape[-1])
                for all_, k, start in zip(sums, ks, starts, strict=True)
            ]
            if r
            else [],
            fixed_mixed=own.fixed_mixed,
            working=None,
        )


class OwnSums(NamedTuple):
    """Sums that involve the family's own parameters (r of them, one at the most): see :class:`~lmm.model.laplace.passes.Slopes`."""

    first: Array
    squares: Array
    second: Array
    moved: Array
    fixed_mixed: Array


def is_written(family: Family) -> bool:
    """Whether JAX can evaluate a family's density."""
    try:
        family.require_jax()
    except ArgumentError:
        return False
    return True


def on_devices(problem: GeneralizedProblem, devices: int | None = None) -> GeneralizedProblem:
    """The problem with the rows that its passes read on devices; itself where JAX cannot evaluate its family, or rows meet
    several levels of a term."""
    rows = problem.source
    if any(size.several for size in problem.plan.terms):
        return problem
    if not is_written(problem.family) or not isinstance(rows, Rows):
        return problem
    there = DeviceRows(
        **{field.name: getattr(rows, field.name) for field in fields(Rows)}, devices=devices
    )
    return (
        replace(problem, rows=there) if problem.merged is None else replace(problem, merged=there)
    )


def shares(rows: Rows, count: int) -> Share:
    """Rows in ``count`` equal shares, padded to a bucket."""
    n = rows.n
    m = backend.bucket(-(-n // count))

    def split(values: np.ndarray, fill: float = 0) -> np.ndarray:
        out = np.full((count * m, *values.shape[1:]), fill, dtype=values.dtype)
        out[:n] = values
        return out.reshape(count, m, *values.shape[1:])

    counts = [size.J for size in rows.plan.terms]
    return Share(
        y=split(rows.y.astype(float)),
        weights=split(rows.weights.astype(float)),
        offset=split(rows.offset.astype(float)),
        real=split(np.ones(n, dtype=bool)),
        Q=split(rows.Q),
        codes=tuple(split(code.astype(np.int32)) for code in rows.codes),
        columns=tuple(
            tuple(None if z is None else split(z) for z in columns) for columns in rows.columns
        ),
        levels=tuple(
            shared_rounds(split(code.astype(np.int32), -1), J)
            for code, J in zip(rows.codes, counts, strict=True)
        ),
        pairs=tuple(
            shared_rounds(split(place.astype(np.int32), -1), len(rows.pattern.pairs[key].rows))
            for key, place in rows.place.items()
        ),
    )


def expansion(
    xp: ModuleType,
    share: Share,
    gamma: Array,
    b: list[Array],
    phi: Array,
    *,
    family: Family,
    fixed: bool,
    joined: tuple[tuple[int, int], ...],
) -> Any:
    """Kernel, rows with negative weights, stacked sums per term and per pair of terms, Q'r and Q'WQ."""

    def local(own: Share, gamma: Array, b: list[Array], phi: Array) -> Any:
        kernel, r, W = density(
            xp, family, own, predictor(xp, own, gamma, b), phi, ((0, 0), (1, 0), (2, 0))
        )
        W = -W
        by_term = []
        for rounds, z in zip(own.levels, own.columns, strict=True):
            values = [times(r, a) for a in z] + [
                times(W, z[a], z[c]) for a in range(len(z)) for c in range(a + 1)
            ]
            if fixed:
                values += [times(W, a, q) for q in own.Q.T for a in z]
            by_term.append(sum_segments(xp, rounds, xp.stack(values)))
        by_pair = [
            sum_segments(
                xp,
                rounds,
                xp.stack([times(W, a, c) for a in own.columns[t] for c in own.columns[s]]),
            )
            for rounds, (t, s) in zip(own.pairs, joined, strict=True)
        ]
        gram = own.Q.T @ (own.Q * W[:, None]) if fixed else xp.zeros((0, 0))
        return xp.sum(kernel), xp.sum(~(W >= 0.0)), (by_term, by_pair), own.Q.T @ r, gram

    return over_rows(local, share, gamma, b, phi)


def slopes(
    xp: ModuleType,
    share: Share,
    gamma: Array,
    b: list[Array],
    phi: Array,
    at: Inverse,
    *,
    family: Family,
    chain: tuple[int, ...],
    tail: tuple[int, ...],
    layout: Layout,
) -> Any:
    """Z't, Z'WQ and, where the family has a dispersion, Z'(d2l / deta drho) stacked per term; Q't, Q'WQ and :class:`OwnSums`."""
    r = family.n_parameters
    in_rho = ((0, 1), (0, 2), (1, 1), (2, 1)) if r else ()

    def local(own: Share, gamma: Array, b: list[Array], phi: Array, at: Inverse) -> Any:
        d2, d3, *rho = density(
            xp, family, own, predictor(xp, own, gamma, b), phi, ((2, 0), (3, 0), *in_rho)
        )
        W, leverage = -d2, leverages(xp, own, at, chain, tail, layout)
        t = -d3 * leverage
        by_term = []
        for rounds, z in zip(own.levels, own.columns, strict=True):
            values = (
                [times(t, a) for a in z]
                + [times(W, a, q) for q in own.Q.T for a in z]
                + [times(rho[2], a) for a in z if r]
            )
            by_term.append(sum_segments(xp, rounds, xp.stack(values)))
        none = xp.zeros(0)
        sums = OwnSums(none, none, xp.zeros((0, 0)), none, xp.zeros((own.Q.shape[1], 0)))
        if r:
            weights = xp.where(own.real, own.weights, 1.0) if family.merges else 1.0
            squares = xp.sum(rho[0] ** 2 / weights)
            sums = OwnSums(
                xp.sum(rho[0])[None],
                squares[None],
                xp.sum(rho[1])[None, None],
                -(rho[3] @ leverage)[None],
                (own.Q.T @ rho[2])[:, None],
            )
        return by_term, own.Q.T @ t, own.Q.T @ (own.Q * W[:, None]), sums

    return over_rows(local, share, gamma, b, phi, at)


def over_rows(local: Callable[..., Any], share: Share, *same: Any) -> Any:
    """``local`` of each device's rows and of what is the same for all, summed over devices."""
    import jax
    from jax.sharding import PartitionSpec

    def one(share: Share, *same: Any) -> Any:
        return local(jax.tree.map(lambda a: a[0], share), *same)

    mesh = backend.mesh()
    if mesh is None:
        return one(share, *same)

    def added(share: Share, *same: Any) -> Any:
        return jax.lax.psum(one(share, *same), sharded.AXIS)

    rows, everywhere = PartitionSpec(sharded.AXIS), PartitionSpec()
    mapped = jax.shard_map(
        added,
        mesh=mesh,
        in_specs=(rows, *(everywhere for _ in same)),
        out_specs=everywhere,
        check_vma=False,
    )
    return mapped(share, *same)


def predictor(xp: ModuleType, own: Share, gamma: Array, b: list[Array]) -> Array:
    """offset + Q gamma + Z b (m,); zero in rows that only pad."""
    eta = own.offset + own.Q @ gamma
    for code, columns, effects in zip(own.codes, own.columns, b, strict=True):
        for z, effect in zip(columns, effects, strict=True):
            eta = eta + times(xp.take(effect, code, mode="clip"), z)
    return xp.where(own.real, eta, 0.0)


def density(
    xp: ModuleType,
    family: Family,
    own: Share,
    eta: Array,
    phi: Array,
    orders: tuple[tuple[int, int], ...],
) -> list[Array]:
    """Derivatives (m,) of the log density in eta and rho = log phi, of each order wanted; without its constant where rho is not moved."""
    import jax

    of = family.log_density if any(in_rho for _, in_rho in orders) else family.kernel
    rho, ones = xp.log(phi), xp.ones_like(eta)

    def value(eta: Array, rho: Array) -> Array:
        return of(own.y, eta, own.weights, xp.exp(rho) if family.has_dispersion else 1.0)

    def along_eta(f: Callable[..., Array]) -> Callable[..., Array]:
        return lambda eta, rho: jax.jvp(lambda e: f(e, rho), (eta,), (ones,))[1]

    def along_rho(f: Callable[..., Array]) -> Callable[..., Array]:
        return lambda eta, rho: jax.jvp(lambda x: f(eta, x), (rho,), (xp.ones_like(rho),))[1]

    written = None
    if family.slopes_in_jax and family.link.slopes_in_jax:
        written = family.derivatives(own.y, eta, own.weights, phi)
    out = []
    for in_eta, in_rho in orders:
        if written is not None and in_eta and not in_rho:
            out.append(xp.where(own.real, written[in_eta - 1], 0.0))
            continue
        f: Callable[..., Array] = value
        for _ in range(in_rho):
            f = along_rho(f)
        for _ in range(in_eta):
            f = along_eta(f)
        out.append(
            xp.where(own.real, f(eta, rho), 0.0)
        )  # rows that only pad have a response that may be impossible
    return out


def leverages(
    xp: ModuleType,
    own: Share,
    at: Inverse,
    chain: tuple[int, ...],
    tail: tuple[int, ...],
    layout: Layout,
) -> Array:
    """l_i per row, (m,), as :func:`lmm.model.laplace.leverage.leverages` with dense couplings."""
    total = xp.zeros(own.y.shape)
    places = [
        (own.columns[t][a], own.codes[t] + (slot.offset + a * slot.J))
        for slot, t in zip(layout, tail, strict=True)
        for a in range(slot.k)
    ]
    for i, t in enumerate(chain):
        z, code = own.columns[t], own.codes[t]
        for a in range(len(z)):
            for b in range(len(z)):
                total = total + times(at.own[i][a, b][code], z[a], z[b])
            for s, N in enumerate(at.parents[i]):
                other = own.columns[chain[i + 1 + s]]
                for b in range(len(other)):
                    total = total + 2.0 * times(N[a, b][code], z[a], other[b])
            across = at.across[i]
            if across is not None:
                for other_z, column in places:
                    total = total + 2.0 * times(across[a][code, column], z[a], other_z)
    for first_z, first in places:
        for second_z, second in places:
            total = total + times(at.K[first, second], first_z, second_z)
    return total


def times(v: Array, *columns: Array | None) -> Array:
    """v times columns of values, None one of ones."""
    for column in columns:
        if column is not None:
            v = v * column
    return v
