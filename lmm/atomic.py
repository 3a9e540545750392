"""Files that are written whole or not at all: beside the old one first, then renamed over it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from typing import BinaryIO

from lmm.errors import ArgumentError


@contextlib.contextmanager
def replacing(path: str, name: str, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` when the block ends; whatever ends it earlier leaves the old file.

    Parameters
    ----------
    path : the file; ``name`` is how a message calls it ("checkpoint").
    mode : permissions of a new file, less the process's umask.

    Raises
    ------
    ArgumentError : the file cannot be written.
    """
    unfinished = os.path.join(os.path.dirname(path), f".lmm-{os.getpid()}-{secrets.token_hex(6)}")
    try:
        with open(unfinished, "xb", opener=lambda own, flags: os.open(own, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        raise ArgumentError(
            f"{name}={path!r} cannot be written: {error.strerror or error}."
        ) from error
    finally:  # an interrupt comes here too
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
