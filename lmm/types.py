"""Types that several parts of the package name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import jax
    import numpy as np

#: an array of the namespace ``xp`` that a function is given: NumPy's, or JAX's
Array: TypeAlias = "np.ndarray | jax.Array"
#: an array inside a kernel that runs on NumPy and is traced by JAX: the arithmetic of the two has no common type
KernelArray: TypeAlias = Any
