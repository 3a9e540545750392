"""Fits in files: one zip, arrays as ``.npy``, everything else as JSON; reading one runs nothing that the file brings.

A fit is a graph of records (dataclasses of this package), containers, arrays and pandas objects. Writing numbers its nodes, the
parts of a node before the node; reading makes them again in that order, each from its fields:

    fit.json           format, versions, and the list of nodes, each [kind, ...]; {"r": 3} is the node 3
    arrays/0.npy ...   the arrays that are not small, as NumPy writes them, not compressed

What a file can ask for is a closed list: this package's own records, a few of formulaic's, arrays without objects, pandas'
columns. A class is found by its name in that list, never imported by it; no constructor of a record runs; no pickle is opened.
Shapes are checked against the bytes that are there before an array is made.

Functions are code and are not written. A function of the caller that a formula uses is left out by name, and has to be given to
:func:`lmm.load` where predictions are to use it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from lmm import __version__, arguments
from lmm.atomic import replacing
from lmm.errors import ArgumentError, LmmWarning, warn
from lmm.results.files.archive_reading import ArchiveReader
from lmm.results.files.archive_records import Broken
from lmm.results.files.archive_writing import ArchiveWriter
from lmm.results.fit import Fit

KIND, FORMAT = "lmm fit", 2
NODES = "fit.json"
#: bytes of the nodes at the most
LARGEST_NODES = 2**31


def save(value: object, path: object, what: str) -> None:
    """Write a fit, a batch or a bootstrap. See :meth:`lmm.Fit.save`."""
    target = arguments.file_path(path, f"{what}: path")
    if os.path.isdir(target):
        raise ArgumentError(
            f"{what}: path={target!r} is a folder; give the name of a file, {os.path.join(target, 'fit.lmm')!r}."
        )
    if isinstance(value, Fit) and value.design.streamed and value.family is not None:
        with contextlib.suppress(ArgumentError):  # needs a pass over the rows, which do not travel
            assert value._uncertainty.beta is not None
    with replacing(target, f"{what}: path") as file:
        writer = _write(value, file)
    if writer.left_out:
        names = ", ".join(map(repr, writer.left_out))
        warn(
            f"save: the data's columns {names} hold objects that a file cannot hold and were left out.",
            LmmWarning,
        )
    if writer.needed:
        names = ", ".join(writer.needed)
        warn(
            f"save: the formula uses functions or objects of yours that a file cannot hold: {names}. To predict from the loaded fit give "
            f"them: lmm.load(path, functions={{{next(iter(writer.needed))!r}: ...}}).",
            LmmWarning,
        )


def _write(value: object, file: BinaryIO) -> ArchiveWriter:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        writer = ArchiveWriter(archive)
        root = writer.value(value, type(value).__name__)
        head = {"format": KIND, "version": FORMAT, "lmm": __version__, "kind": type(value).__name__}
        head |= {
            "numpy": np.__version__,
            "pandas": pd.__version__,
            "formulaic": importlib.import_module("formulaic").__version__,
        }
        archive.writestr(
            zipfile.ZipInfo(NODES), json.dumps({**head, "root": root, "nodes": writer.nodes})
        )
    return writer


def load(
    path: object, calls: Mapping[str, Callable[..., object]], functions: Mapping[str, object] | None
) -> Any:
    """Read what :func:`save` wrote. See :func:`lmm.load`; ``calls`` are the functions of ``CALLS``."""
    target = arguments.file_path(path, "load: path")
    given = (
        {}
        if functions is None
        else arguments.mapping(functions, "load: functions", "a dict of names to functions")
    )
    foreign = f"load: {target!r} is no file of a fit"
    if os.path.exists(target) and not os.path.isfile(target):
        raise ArgumentError(
            f"{foreign}; it is {'a folder' if os.path.isdir(target) else 'a device or pipe'}."
        )
    try:
        with open(target, "rb") as file:
            return _read(file, calls, given)
    except OSError as error:
        raise ArgumentError(
            f"load: {target!r} cannot be read: {error.strerror or error}."
        ) from error
    except _OtherVersion as error:
        raise ArgumentError(f"load: {target!r} {error}") from None
    except Broken as error:
        raise ArgumentError(f"{foreign}, or it is damaged: it holds {error}.") from None
    except zipfile.BadZipFile as error:
        raise ArgumentError(f"{foreign}, or it is damaged: {error}.") from None
    except ImportError as error:
        raise ArgumentError(
            f"load: {target!r} needs a package that is not installed: {error}."
        ) from error
    except ArgumentError:
        raise
    except (
        Exception
    ) as error:  # a damaged file may hold anything; whatever cannot be made of it is said so
        raise ArgumentError(
            f"{foreign}, or it is damaged: {type(error).__name__}: {str(error)[:200]}."
        ) from error


class _OtherVersion(Exception):
    """A version that this one cannot read."""


def _read(
    file: BinaryIO, calls: Mapping[str, Callable[..., object]], functions: Mapping[str, object]
) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if (
            len(set(names)) != len(names)
            or NODES not in names
            or any(n != NODES and not n.startswith("arrays/") for n in names)
        ):
            raise Broken("other members than those of a fit")
        info = archive.getinfo(NODES)
        if (
            info.file_size > LARGEST_NODES
            or info.compress_type != zipfile.ZIP_STORED
            or info.file_size != info.compress_size
        ):
            raise Broken("nodes that are compressed or too large")
        try:
            head = json.loads(archive.read(info))
        except (ValueError, RecursionError):
            raise Broken("nodes that are no JSON") from None
        if (
            not isinstance(head, dict)
            or head.get("format") != KIND
            or type(head.get("version")) is not int
        ):
            raise Broken("no head of a fit")
        written = str(head.get("lmm"))[:40]
        if head["version"] > FORMAT:
            raise _OtherVersion(
                f"was written by lmm {written} in a newer format than this lmm {__version__} reads; update lmm."
            )
        if head["version"] < FORMAT:
            raise _OtherVersion(
                f"was written by lmm {written} in a format that lmm {__version__} no longer reads; fit the model again."
            )
        reader = ArchiveReader(archive, calls, functions)
        try:
            reader.read(head["nodes"])
            made = reader.value(head["root"])
        except (Broken, KeyError, AttributeError, TypeError) as error:
            if written != __version__:
                raise _OtherVersion(
                    f"was written by lmm {written} and formulaic {str(head.get('formulaic'))[:40]}, and this lmm {__version__} cannot make "
                    f"it again ({error}); load it with that version."
                ) from error
            raise
    if type(made).__name__ not in ("Fit", "BatchFit", "Bootstrap"):
        raise Broken("no fit")
    return made
