"""The array namespace of what is given: densities and links are written once, for NumPy and for JAX.

``namespace(eta)`` are NumPy and SciPy's special functions for arrays of NumPy and for numbers, ``jax.numpy`` and
``jax.scipy.special`` for what JAX has made. A function written with it is eager there and can be compiled, placed on devices and
differentiated here.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
from scipy import special

from lmm.types import KernelArray


class Namespace(NamedTuple):
    """``xp``, array functions; ``special``, special functions by SciPy's names."""

    xp: ModuleType
    special: ModuleType

    @property
    def eager(self) -> bool:
        """Whether values can be looked at."""
        return self.xp is np

    def log_expit(self, x: KernelArray) -> tuple[KernelArray, KernelArray]:
        """log p and log(1 - p) of p = 1 / (1 + exp(-x))."""
        if self.eager:
            log = np.log1p(np.exp(-np.abs(x)))
            return np.minimum(x, 0.0) - log, -np.maximum(x, 0.0) - log
        return -self.xp.logaddexp(-x, 0.0), -self.xp.logaddexp(
            x, 0.0
        )  # whose derivatives hold at zero too


NUMPY = Namespace(np, special)
EAGER = (np.ndarray, float, int, np.generic)


def namespace(*arrays: object) -> Namespace:
    """The namespace of arrays: JAX's where one of them is JAX's."""
    return _jax() if any(is_jax(array) for array in arrays) else NUMPY


def is_jax(array: object) -> bool:
    """Whether JAX has made an array or traces it."""
    return not isinstance(array, EAGER) and type(array).__module__.split(".")[0] in (
        "jax",
        "jaxlib",
    )


def _jax() -> Namespace:
    import jax.numpy as jnp
    from jax.scipy import special as jax_special

    functions: ModuleType = jax_special
    return Namespace(jnp, functions)
