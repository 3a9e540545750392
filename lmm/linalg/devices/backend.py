"""Where arrays live: NumPy, or JAX in double precision inside our own scope.

Importing lmm changes no setting of JAX. Kernels are jitted once per structure and shape; the number
of traces is counted, so that a test can see that a second fit compiles nothing. Only NumPy arrays
cross the border.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np

from lmm.arguments import checked, file_path
from lmm.errors import ArgumentError

#: traces of each jitted kernel since the process began
traces: Counter[str] = Counter()
_cache_path: Path | None = None
#: the devices that kernels called now are written for; None: one
_mesh: ContextVar[Any] = ContextVar("lmm_mesh", default=None)


def bucket(size: int) -> int:
    """The padded length for ``size``: the next of 1, 1.25, 1.5, 1.75 times a power of two, at least 8."""
    if size <= 8:
        return 8
    power = 1 << ((size - 1).bit_length() - 1)
    for quarter in (5, 6, 7, 8):
        if size <= power * quarter // 4:
            return power * quarter // 4
    raise AssertionError


@cache
def has_accelerator() -> bool:
    """Whether JAX's default device is not a CPU; JAX is imported only when a plugin for such a device is installed."""
    plugins = {*entry_points(group="jax_plugins")}
    if not plugins and importlib.util.find_spec("jax_plugins") is None:
        return False
    import jax

    return str(jax.default_backend()) != "cpu"


@cache
def device_memory() -> int | None:
    """Bytes of memory of JAX's first default device, or None where it does not tell."""
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return None if limit is None else int(limit)


def mesh() -> Any:
    """The ``jax.sharding.Mesh`` that kernels are being called for, or None for a single device."""
    return _mesh.get()


@contextlib.contextmanager
def over(devices: Any) -> Iterator[None]:
    """Kernels called inside are for this mesh of devices (None: one device)."""
    token = _mesh.set(devices)
    try:
        yield
    finally:
        _mesh.reset(token)


@cache
def _jitted(kernel: Callable[..., Any], static: tuple[Any, ...], mesh: Any) -> Callable[..., Any]:
    """Compiled for the mesh, which the kernel reads while it is traced."""
    import jax
    import jax.numpy as jnp

    def traced(*arrays: Any) -> Any:
        traces[kernel.__name__] += 1
        return kernel(jnp, *arrays, **dict(static))

    return partial(jax.jit(traced))


@contextlib.contextmanager
def our_settings() -> Iterator[None]:
    """JAX as our kernels are written for, whatever the user has set: double precision, promotion as in NumPy, infinities allowed."""
    import jax

    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),
        jax.debug_infs(False),
    ):
        yield


def call(kernel: Callable[..., Any], *arrays: Any, **static: Any) -> Any:
    """``kernel(jnp, *arrays, **static)`` compiled, on the default device; NumPy in, NumPy out."""
    import jax

    with our_settings(), _compile_cache():
        out = _jitted(kernel, tuple(sorted(static.items())), mesh())(*arrays)
        return jax.tree.map(np.asarray, out)


def put(arrays: Any) -> Any:
    """Arrays on the default device, in double precision."""
    import jax

    with our_settings():
        return jax.tree.map(
            lambda a: a if isinstance(a, jax.Array) else jax.device_put(np.asarray(a)), arrays
        )


@checked
def enable_compile_cache(path: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled kernels on disk, for this package's compilations alone.

    Opt-in: nothing is written unless this is called. A cache directory that you have set for JAX
    yourself is left alone and used as it is.

    Parameters
    ----------
    path : directory; default ``~/.cache/lmm/xla``. Made with mode 0700.

    Returns
    -------
    The directory.

    Raises
    ------
    ArgumentError : the directory cannot be made or written to.

    Example
    -------
    >>> import lmm, tempfile
    >>> path = lmm.enable_compile_cache(tempfile.mkdtemp())
    """
    global _cache_path
    target = (
        Path.home() / ".cache" / "lmm" / "xla"
        if path is None
        else Path(file_path(path, "enable_compile_cache: path"))
    )
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(
            f"enable_compile_cache: path={str(target)!r} cannot be made a folder: {error.strerror or error}."
        ) from error
    if not os.access(target, os.W_OK):
        raise ArgumentError(f"enable_compile_cache: path={str(target)!r} cannot be written to.")
    _cache_path = target
    return target


@contextlib.contextmanager
def _compile_cache() -> Iterator[None]:
    """Our cache directory around a call, when asked for and when the user has none of his own."""
    if _cache_path is None:
        yield
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if jax.config.values.get("jax_compilation_cache_dir") is not None:
        yield
        return
    try:
        from jax._src.config import compilation_cache_dir, persistent_cache_min_compile_time_secs
    except ImportError:  # a private name: without it we compile again, nothing worse
        yield
        return
    try:
        with compilation_cache_dir(str(_cache_path)), persistent_cache_min_compile_time_secs(0.0):
            yield
    finally:
        compilation_cache.reset_cache()  # else a directory that the user sets later would be ignored
