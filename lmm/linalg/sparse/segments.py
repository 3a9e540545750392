"""The sum over codes: the one reduction whose fast form differs by device.

``segment_sum(values, index, size)[..., s] = sum of values[..., j] over j with index[j] == s``.
NumPy counts with ``bincount``; under JAX it is ``segment_sum``.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from lmm.types import KernelArray as Array


def segment_sum(xp: ModuleType, values: Array, index: Array, size: int) -> Array:
    """Sum the last axis of ``values`` (..., J) into ``size`` segments given by ``index`` (J,)."""
    if xp is np:
        flat = values.reshape(-1, values.shape[-1])
        out = np.empty((len(flat), size))
        for row, value in zip(out, flat, strict=True):
            row[:] = np.bincount(index, weights=value, minlength=size)
        return out.reshape(*values.shape[:-1], size)
    import jax

    moved = xp.moveaxis(values, -1, 0)
    return xp.moveaxis(jax.ops.segment_sum(moved, index, num_segments=size), 0, -1)
