"""Types that several parts of the package name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import jax
    import numpy as np

#: an array of the namespace ``xp`` that a function is given: NumPy's, or JAX's
Array: TypeAlias = "np.ndarray | jax.Array"
#: an array inside a kernel that runs on NumPy and is traced by JAX: the arithmetic of the two has no common type
KernelArray: TypeAlias = Any
#: a function of arrays that NumPy runs, or that JAX has compiled
Kernel: TypeAlias = "Callable[..., Any]"
#: what one evaluation of a search, or a window of a chain, tells: numbers and arrays by name
TraceLine: TypeAlias = dict[str, Any]
