"""The dense tail over several devices: Cholesky factorisation, solves and inverse of S (q, q), a share of the rows each.

Blocks of rows are dealt out in turn (block i lies on device i mod P), so that every device has work until
the end. The factorisation looks left: for block column j

    L_ij = (S_ij - sum_{m<j} L_im L_jm') L_jj^-T,   i >= j,

its owner's rows L_j. go to every device, each updates its own rows with one matrix product, and the
triangle L_jj is factored everywhere at once: q^3 / 3P multiplications a device, q^2 / 2 numbers sent.
The inverse solves L L' X = I with a share of the columns of X on each device, and of X only the blocks that
are not zero (forwards) or not known by symmetry (backwards): 2 q^3 / 3P.

What is written here runs inside ``jit``. Each loop over the blocks that lie at the same place on their devices is one
compiled loop of fixed sizes, for compiling must not take longer the more blocks there are; of the triangle it computes
a staircase, 1.9 times the multiplications with four blocks a device, 1.4 times with eight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from lmm.errors import ArgumentError
from lmm.linalg.devices.backend import our_settings
from lmm.types import KernelArray as Array

#: rows in a block at the most
BLOCK = 1024
#: columns of a dense tail from which all devices take a share unasked
WORTH = 4096
#: the name of the mesh's axis
AXIS = "devices"


class Cut(NamedTuple):
    """How q rows are dealt out: ``size`` devices, ``own`` blocks of ``block`` rows on each."""

    q: int
    size: int
    own: int
    block: int

    @property
    def blocks(self) -> int:
        """Blocks in all."""
        return self.size * self.own


def cut(q: int, count: int) -> Cut:
    """Two blocks a device, or more of the largest size."""
    block = min(BLOCK, max(1, -(-q // (2 * count))))
    return Cut(q, count, -(-q // (count * block)), block)


@dataclass(frozen=True)
class ShardedFactor:
    """L by blocks of rows (blocks, block, q padded) in the order of their devices, log|S|, and q."""

    L: Array
    logdet: Array
    q: int


def count_for(devices: int | None, q: int, worth: int | None = None) -> int:
    """How many devices share a dense tail of q columns, or q rows.

    ``devices`` as the user asks; None takes all devices of JAX's default kind where q is at least ``worth`` (``WORTH``).
    Numbers that are no power of two are rounded down to one, so that bucketed sizes are divisible.
    """
    import jax

    if q == 0 or devices == 1 or (devices is None and q < (WORTH if worth is None else worth)):
        return 1
    available = jax.devices()
    if devices is not None and devices > len(available):
        kind = available[0].platform
        raise ArgumentError(
            f"devices={devices}, but JAX has {len(available)} of its default kind ({kind})."
        )
    return 1 << ((devices or len(available)).bit_length() - 1)


def mesh_for(devices: int | None, q: int, worth: int | None = None) -> Any:
    """The mesh for a dense tail of q columns, or q rows, by :func:`count_for`; None for one device."""
    count = count_for(devices, q, worth)
    return None if count == 1 else _mesh(count)


@cache
def _mesh(count: int) -> Any:
    import jax
    from jax.sharding import Mesh

    _register()
    return Mesh(np.array(jax.devices()[:count]), (AXIS,))


@cache
def _register() -> None:
    import jax

    jax.tree_util.register_dataclass(ShardedFactor, ["L", "logdet"], ["q"])


def put(mesh: Any, arrays: Any, axis: int | None = None) -> Any:
    """Arrays on all devices of a mesh: shares along ``axis`` where that is divisible, else copies."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    def place(array: Any) -> Any:
        array = np.asarray(array)
        spec = PartitionSpec()
        if axis is not None and array.shape[axis] % mesh.size == 0:
            spec = PartitionSpec(*[None] * axis, AXIS)
        return jax.device_put(array, NamedSharding(mesh, spec))

    with our_settings():
        return jax.tree.map(place, arrays)


def factorize(mesh: Any, S: Array) -> ShardedFactor:
    """Cholesky of I + S, S (q, q) symmetric."""
    import jax
    import jax.numpy as jnp

    q = S.shape[0]
    at = cut(q, mesh.size)
    padded = jnp.pad(S, (0, at.blocks * at.block - q)) + jnp.eye(at.blocks * at.block)

    def local(rows: Array) -> tuple[Array, Array]:
        me = jax.lax.axis_index(AXIS)

        def column(i0: int, owner: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            rows, logdet = carry
            start = (i0 * at.size + owner) * at.block
            before = rows[i0:, :, : (i0 + 1) * at.size * at.block]
            mine = _share(
                me == owner, jnp.where(jnp.arange(before.shape[2]) < start, before[0], 0.0)
            )
            panel = _columns(at, rows[i0:], start) - jnp.einsum("iab,cb->iac", before, mine)
            corner = jnp.linalg.cholesky(_share(me == owner, panel[0]))
            done = jax.scipy.linalg.solve_triangular(
                corner, panel.reshape(-1, at.block).T, lower=True
            ).T.reshape(panel.shape)
            # the first block of this device is above the diagonal, on it, or below
            first = jnp.where(me == owner, corner, jnp.where(me < owner, 0.0, done[0]))
            rows = jax.lax.dynamic_update_slice(
                rows, jnp.concatenate([first[None], done[1:]]), (i0, 0, start)
            )
            return rows, logdet + 2.0 * jnp.sum(jnp.log(jnp.diagonal(corner)))

        carry = (rows, jnp.zeros((), rows.dtype))
        for i0 in range(at.own):
            carry = jax.lax.fori_loop(0, at.size, partial(column, i0), carry)
        upper = jnp.arange(rows.shape[2])[None, None] > _row_numbers(at, me)[:, :, None]
        return jnp.where(upper, 0.0, carry[0]), carry[1]

    L, logdet = _over(mesh, local, ("rows",), ("rows", "same"))(_deal(at, padded))
    return ShardedFactor(L, logdet, q)


def forward(mesh: Any, factor: ShardedFactor, b: Array) -> Array:
    """L^-1 b for b (r, q)."""
    import jax
    import jax.numpy as jnp

    at = cut(factor.q, mesh.size)

    def local(L: Array, right: Array) -> Array:
        me = jax.lax.axis_index(AXIS)

        def row(i0: int, owner: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            rest, out = carry
            j = i0 * at.size + owner
            panel = _columns(at, L[i0:], j * at.block)
            x = _share(me == owner, _triangular(panel[0], rest[i0], 0))  # (block, r)
            rest = rest.at[i0:].add(-jnp.einsum("iab,br->iar", panel, x))
            return rest, out.at[j].set(x)

        carry = (right.reshape(at.own, at.size, at.block, -1)[:, me], jnp.zeros_like(right))
        for i0 in range(at.own):
            carry = jax.lax.fori_loop(0, at.size, partial(row, i0), carry)
        return carry[1]

    return _flat(at, _over(mesh, local, ("rows", "same"), "same")(factor.L, _blocks(at, b)))


def backward(mesh: Any, factor: ShardedFactor, b: Array) -> Array:
    """L^-T b for b (r, q)."""
    import jax
    import jax.numpy as jnp

    at = cut(factor.q, mesh.size)

    def local(L: Array, right: Array) -> Array:
        me = jax.lax.axis_index(AXIS)

        def row(i0: int, step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            known, out = carry  # what this device's rows are, as far as solved
            owner = at.size - 1 - step
            j = i0 * at.size + owner
            panel = _columns(at, L[i0:], j * at.block)
            below = jax.lax.psum(jnp.einsum("iab,iar->br", panel, known[i0:]), AXIS)
            x = _share(me == owner, _triangular(panel[0], right[j] - below, 1))
            return known.at[i0].set(jnp.where(me == owner, x, known[i0])), out.at[j].set(x)

        carry = (jnp.zeros((at.own, *right.shape[1:])), jnp.zeros_like(right))
        for i0 in reversed(range(at.own)):
            carry = jax.lax.fori_loop(0, at.size, partial(row, i0), carry)
        return carry[1]

    return _flat(at, _over(mesh, local, ("rows", "same"), "same")(factor.L, _blocks(at, b)))


def inverse(mesh: Any, factor: ShardedFactor) -> Array:
    """S^-1 (q, q), both triangles, its rows shared out."""
    import jax
    import jax.numpy as jnp

    q = factor.q
    at = cut(q, mesh.size)
    size = at.blocks * at.block

    def local(L: Array) -> Array:
        me = jax.lax.axis_index(AXIS)

        def panel_at(i0: int, owner: Array) -> tuple[Array, Array]:
            """Block (j, j) of L, and block column j from block i0 * count on with only what is below j."""
            own = _columns(at, L[i0:], (i0 * at.size + owner) * at.block)
            every = jax.lax.all_gather(own, AXIS, axis=1).reshape(-1, at.block, at.block)
            below = jnp.arange(len(every)) > owner
            return every[owner], jnp.where(below[:, None, None], every, 0.0)

        def forth(i0: int, owner: Array, X: Array) -> Array:
            j, near = i0 * at.size + owner, i0 + 1  # columns beyond block j are still zero in row j
            corner, below = panel_at(i0, owner)
            x = _triangular(corner, X[j, :, :near], 0)
            X = X.at[i0 * at.size :, :, :near].add(-jnp.einsum("iab,bcd->iacd", below, x))
            return X.at[j, :, :near].set(x)

        def back(i0: int, step: Array, X: Array) -> Array:
            owner = at.size - 1 - step
            j, near = (
                i0 * at.size + owner,
                i0 + 1,
            )  # the rows above a column's own block are known by symmetry
            corner, below = panel_at(i0, owner)
            known = jnp.einsum("iab,iacd->bcd", below, X[i0 * at.size :, :, :near])
            return X.at[j, :, :near].set(_triangular(corner, X[j, :, :near] - known, 1))

        # X (blocks, block, own, block): all rows, this device's columns of the identity
        rows = jnp.arange(size).reshape(at.blocks, at.block, 1, 1)
        X = (rows == _row_numbers(at, me)).astype(L.dtype)
        for i0 in range(at.own):
            X = jax.lax.fori_loop(0, at.size, partial(forth, i0), X)
        for i0 in reversed(range(at.own)):
            X = jax.lax.fori_loop(0, at.size, partial(back, i0), X)
        return X.transpose(2, 3, 0, 1).reshape(at.own, at.block, size)  # columns as rows

    transposed = _gathered(
        at, _over(mesh, local, ("rows",), "rows")(factor.L)
    )  # upper triangle of S^-1, which is symmetric
    upper = jnp.triu(transposed)
    return shared(mesh, (upper + jnp.triu(upper, 1).T)[:q, :q])


def shared(mesh: Any, matrix: Array) -> Array:
    """The same matrix with its rows shared out, where their number is divisible."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    spec = PartitionSpec(AXIS) if matrix.shape[0] % mesh.size == 0 else PartitionSpec()
    return jax.lax.with_sharding_constraint(matrix, NamedSharding(mesh, spec))


def gram(mesh: Any, Y: Array) -> Array:
    """Y'Y (q, q) for Y (m, q): a device's rows of Y each, summed and its rows shared out."""
    import jax

    m, q = Y.shape
    if m % mesh.size or q % mesh.size:
        return shared(mesh, Y.T @ Y)

    def local(own: Array) -> Array:
        return jax.lax.psum_scatter(own.T @ own, AXIS, tiled=True)

    return _over(mesh, local, ("rows",), "rows")(Y)


def _share(mine: Array, value: Array) -> Array:
    """The value of the one device where ``mine`` holds, on all of them."""
    import jax
    import jax.numpy as jnp

    return jax.lax.psum(jnp.where(mine, value, 0.0), AXIS)


def _columns(at: Cut, L: Array, start: Array) -> Array:
    """A block of columns of rows (i, block, size) from ``start``."""
    import jax

    return jax.lax.dynamic_slice_in_dim(L, start, at.block, axis=2)


def _blocks(at: Cut, b: Array) -> Array:
    """(r, q) as (blocks, block, r)."""
    import jax.numpy as jnp

    return jnp.pad(b, ((0, 0), (0, at.blocks * at.block - at.q))).T.reshape(at.blocks, at.block, -1)


def _flat(at: Cut, x: Array) -> Array:
    """The inverse of :func:`_blocks`."""
    return x.reshape(at.blocks * at.block, -1).T[:, : at.q]


def _triangular(corner: Array, x: Array, trans: int) -> Array:
    import jax

    return jax.scipy.linalg.solve_triangular(
        corner, x.reshape(x.shape[0], -1), lower=True, trans=trans
    ).reshape(x.shape)


def _row_numbers(at: Cut, me: Array) -> Array:
    """(own, block): which rows of S a device has."""
    import jax.numpy as jnp

    return ((jnp.arange(at.own) * at.size + me) * at.block)[:, None] + jnp.arange(at.block)


def _deal(at: Cut, S: Array) -> Array:
    """(q, q) as (blocks, block, q), blocks in the order of the devices."""
    rows = S.reshape(at.own, at.size, at.block, -1)
    return rows.transpose(1, 0, 2, 3).reshape(at.blocks, at.block, -1)


def _gathered(at: Cut, rows: Array) -> Array:
    """The inverse of :func:`_deal`."""
    return (
        rows.reshape(at.size, at.own, at.block, -1)
        .transpose(1, 0, 2, 3)
        .reshape(at.blocks * at.block, -1)
    )


def _over(mesh: Any, function: Callable[..., Any], into: Any, out: Any) -> Callable[..., Any]:
    """``function`` on every device: arguments and results "rows" by their first axis, or the "same" everywhere."""
    import jax
    from jax.sharding import PartitionSpec

    spec = {"rows": PartitionSpec(AXIS), "same": PartitionSpec()}
    out_specs = spec[out] if isinstance(out, str) else tuple(spec[o] for o in out)
    mapped: Callable[..., Any] = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(spec[i] for i in into),
        out_specs=out_specs,
        check_vma=False,
    )
    return mapped
