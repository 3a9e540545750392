"""Rows of a generalized model on JAX's devices: the passes of the canonical families, a share of the rows on each device.

:class:`DeviceRows` are rows in memory whose two costly requests, :class:`~lmm.model.passes.Expand` and
:class:`~lmm.model.passes.Slope`, are answered by one compiled function of arrays: linear predictor, density and derivatives
row by row, sums by gathers (:mod:`lmm.linalg.gather_product`), and over several devices one ``psum`` of the sums. That is
all that travels: parameters there, sums back. Binomial with the logit link and Poisson with the log link are done so;
requests of other families, and leverages whose coupling is sparse, are answered by NumPy as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from lmm.families.binomial import Binomial
from lmm.families.poisson import Poisson
from lmm.linalg import backend, sharded
from lmm.linalg.gather_product import Rounds, shared_rounds, sum_segments
from lmm.linalg.tail import Layout
from lmm.model.leverage import Tables
from lmm.model.passes import Expand, Expansion, Slope, Slopes, Weighted
from lmm.model.problem import GeneralizedProblem
from lmm.model.rows import Block, Rows

Array = Any

#: families and links whose formulas are here
CANONICAL = {(Binomial, "logit"): "binomial", (Poisson, "log"): "poisson"}
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
    """The arrays of :class:`~lmm.model.leverage.Tables`."""

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
        family = formulas(getattr(request, "family", None))
        if family is None:
            return request(self)
        if isinstance(request, Expand):
            return self._expansion(request, family)
        if isinstance(request, Slope) and request.tables is not None and request.tables.B is None:
            return self._slopes(request, request.tables, family)
        return request(self)

    def placed(self) -> Placed:
        """The rows on their devices, sent there once."""
        if self not in _placed:
            mesh = sharded.mesh_for(self.devices, self.n, WORTH)
            share = shares(self, 1 if mesh is None else mesh.size)
            _placed[self] = Placed(backend.put(share) if mesh is None else sharded.put(mesh, share, 0), mesh)
        return _placed[self]

    def _call(self, kernel: Callable[..., Any], *arrays: Any, **static: Any) -> Any:
        share, mesh = self.placed()
        with backend.over(mesh):
            return backend.call(kernel, share, *arrays, **static)

    def _expansion(self, asked: Expand, family: str) -> Expansion:
        kernel, sums, fixed_score, gram = self._call(
            expansion, asked.gamma, list(asked.b), family=family, fixed=asked.fixed, joined=tuple(self.place)
        )
        score, diag, fixed = zip(*(self._split(own, len(b), asked.fixed) for own, b in zip(sums[0], asked.b, strict=True)), strict=True)
        pairs = {}
        for (t, s), own in zip(self.place, sums[1], strict=True):
            pairs[t, s] = own.reshape(len(asked.b[t]), len(asked.b[s]), own.shape[-1])
        found = Weighted(list(diag), pairs, list(fixed) if asked.fixed else None, gram if asked.fixed else None)
        return Expansion(float(kernel), 0, list(score), fixed_score, found if asked.observed else None, found if asked.expected else None)

    def _split(self, sums: np.ndarray, k: int, fixed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Z'r (k, J), Z'WZ (k, k, J) and Z'WQ (p, k, J) of a term from their stack."""
        score, rest = sums[:k], sums[k:]
        A = np.empty((k, k, sums.shape[-1]))
        lower = np.tril_indices(k)
        A[lower] = A[lower[::-1]] = rest[: len(lower[0])]
        own = rest[k * (k + 1) // 2 :]
        return score, A, own.reshape(self.p if fixed else 0, k, sums.shape[-1])

    def _slopes(self, asked: Slope, at: Tables, family: str) -> Slopes:
        plan = at.plan
        inverse = Inverse(tuple(at.own), tuple(tuple(each) for each in at.parents), tuple(at.across), at.K)
        static = {"family": family, "chain": plan.chain, "tail": plan.tail, "layout": plan.layout}
        sums, fixed_t, gram = self._call(slopes, asked.gamma, list(asked.b), inverse, **static)
        constant = float(asked.family.constant(self.y, self.weights, asked.phi).sum()) if asked.constant else 0.0
        ks = [len(b) for b in asked.b]
        none = np.zeros(0)
        return Slopes(
            t=[own[:k] for own, k in zip(sums, ks, strict=True)],
            fixed_t=fixed_t,
            fixed=[own[k:].reshape(self.p, k, own.shape[-1]) for own, k in zip(sums, ks, strict=True)],
            gram=gram,
            fixed_observed=None,
            gram_observed=None,
            constant=constant,
            first=none,
            squares=none,
            second=np.zeros((0, 0)),
            moved=none,
            mixed=[],
            fixed_mixed=np.zeros((self.p, 0)),
            working=None,
        )


def formulas(family: Any) -> str | None:
    """The name of the formulas for a family and its link, where they are here."""
    return CANONICAL.get((type(family), getattr(getattr(family, "link", None), "name", None)))  # type: ignore[arg-type]


def on_devices(problem: GeneralizedProblem, devices: int | None = None) -> GeneralizedProblem:
    """The problem with the rows that its passes read on devices; itself where its family has no formulas here."""
    rows = problem.source
    if formulas(problem.family) is None or not isinstance(rows, Rows):
        return problem
    there = DeviceRows(**{field.name: getattr(rows, field.name) for field in fields(Rows)}, devices=devices)
    return replace(problem, rows=there) if problem.merged is None else replace(problem, merged=there)


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
        columns=tuple(tuple(None if z is None else split(z) for z in columns) for columns in rows.columns),
        levels=tuple(shared_rounds(split(code.astype(np.int32), -1), J) for code, J in zip(rows.codes, counts, strict=True)),
        pairs=tuple(
            shared_rounds(split(place.astype(np.int32), -1), len(rows.pattern.pairs[key].rows)) for key, place in rows.place.items()
        ),
    )


def expansion(xp: Any, share: Share, gamma: Array, b: list[Array], *, family: str, fixed: bool, joined: tuple[tuple[int, int], ...]) -> Any:
    """Kernel, stacked sums per term and per pair of terms, Q'r and Q'WQ."""

    def local(own: Share, gamma: Array, b: list[Array]) -> Any:
        kernel, r, W, _ = density(xp, family, own, predictor(xp, own, gamma, b))
        by_term = []
        for rounds, z in zip(own.levels, own.columns, strict=True):
            values = [times(r, a) for a in z] + [times(W, z[a], z[c]) for a in range(len(z)) for c in range(a + 1)]
            if fixed:
                values += [times(W, a, q) for q in own.Q.T for a in z]
            by_term.append(sum_segments(xp, rounds, xp.stack(values)))
        by_pair = [
            sum_segments(xp, rounds, xp.stack([times(W, a, c) for a in own.columns[t] for c in own.columns[s]]))
            for rounds, (t, s) in zip(own.pairs, joined, strict=True)
        ]
        gram = own.Q.T @ (own.Q * W[:, None]) if fixed else xp.zeros((0, 0))
        return xp.sum(kernel), (by_term, by_pair), own.Q.T @ r, gram

    return over_rows(local, share, gamma, b)


def slopes(
    xp: Any,
    share: Share,
    gamma: Array,
    b: list[Array],
    at: Inverse,
    *,
    family: str,
    chain: tuple[int, ...],
    tail: tuple[int, ...],
    layout: Layout,
) -> Any:
    """Z't and Z'WQ stacked per term, Q't and Q'WQ."""

    def local(own: Share, gamma: Array, b: list[Array], at: Inverse) -> Any:
        _, _, W, dW = density(xp, family, own, predictor(xp, own, gamma, b))
        t = leverages(xp, own, at, chain, tail, layout) * dW
        by_term = []
        for rounds, z in zip(own.levels, own.columns, strict=True):
            values = [times(t, a) for a in z] + [times(W, a, q) for q in own.Q.T for a in z]
            by_term.append(sum_segments(xp, rounds, xp.stack(values)))
        return by_term, own.Q.T @ t, own.Q.T @ (own.Q * W[:, None])

    return over_rows(local, share, gamma, b, at)


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
    mapped = jax.shard_map(added, mesh=mesh, in_specs=(rows, *(everywhere for _ in same)), out_specs=everywhere, check_vma=False)
    return mapped(share, *same)


def predictor(xp: Any, own: Share, gamma: Array, b: list[Array]) -> Array:
    """offset + Q gamma + Z b (m,); zero in rows that only pad."""
    eta = own.offset + own.Q @ gamma
    for code, columns, effects in zip(own.codes, own.columns, b, strict=True):
        for z, effect in zip(columns, effects, strict=True):
            eta = eta + times(xp.take(effect, code, mode="clip"), z)
    return xp.where(own.real, eta, 0.0)


def density(xp: Any, family: str, own: Share, eta: Array) -> tuple[Array, Array, Array, Array]:
    """The log density's part that eta moves, its slope r, W = -d2log f/deta2 and dW/deta, each (m,)."""
    y, w = own.y, own.weights
    if family == "binomial":
        p, q = 1.0 / (1.0 + xp.exp(-eta)), 1.0 / (1.0 + xp.exp(eta))
        W = w * p * q
        return w * (y * eta - xp.logaddexp(0.0, eta)), w * (y - p), W, W * (q - p)
    mu = xp.exp(eta)
    return w * (y * eta - mu), w * (y - mu), w * mu, w * mu


def leverages(xp: Any, own: Share, at: Inverse, chain: tuple[int, ...], tail: tuple[int, ...], layout: Layout) -> Array:
    """l_i per row, (m,), as :func:`lmm.model.leverage.leverages` with dense couplings."""
    total = xp.zeros(own.y.shape)
    places = [
        (own.columns[t][a], own.codes[t] + (slot.offset + a * slot.J)) for slot, t in zip(layout, tail, strict=True) for a in range(slot.k)
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
