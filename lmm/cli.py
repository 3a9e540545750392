"""``lmm FORMULA DATA``: fit a mixed model from a shell and print its summary.

Everything that is wrong ends in one line on standard error (for a formula, with the formula and a caret under the place) and exit
status 2; a fit that did not converge is printed, and ends in exit status 1. Only what the fit needs is imported, so that a small
model is on the screen about as soon as Python, NumPy and pandas are loaded.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lmm
from lmm.errors import ArgumentError, DataError, FormulaError, LmmError, LmmWarning

#: in place of a file: standard input or output
STANDARD = "-"

EXAMPLES = """\
examples:
  lmm "Reaction ~ Days + (Days|Subject)" sleepstudy
  lmm "log_radon ~ floor + (1|county)" radon --ml
  lmm "yield ~ nitro + (1|Block/Variety)" oats.csv --tidy coefficients.csv
  lmm "cbind(incidence, size - incidence) ~ period + (1|herd)" cbpp --family binomial
  lmm "y ~ x + (x||g)" measurements.parquet --weights n
  lmm "y ~ x + (x||g)" "measurements/*.parquet"
  lmm "y ~ x + (1|g)" - --ddf satterthwaite --tidy - < rows.csv > coefficients.csv

DATA is a CSV or Parquet file, - for one on standard input; what is read in chunks: a pattern for Parquet files,
file.duckdb::table; or a shipped data set:
  {names}
"""


class _Examples(argparse.Action):
    """``--help``, whose list of data sets is read only when it is printed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.epilog = EXAMPLES.format(names=", ".join(lmm.datasets.names()))
        parser.print_help()
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    p = argparse.ArgumentParser(
        prog="lmm",
        description="Fit a linear or generalized linear mixed model and print its summary.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    p.add_argument("formula", metavar="FORMULA", help='as in R, e.g. "y ~ x + (x|g)"')
    p.add_argument(
        "data",
        metavar="DATA",
        help="a CSV or Parquet file, - for standard input, or the name of a shipped data set",
    )
    p.add_argument("--ml", action="store_true", help="maximum likelihood instead of REML")
    p.add_argument("--weights", metavar="COLUMN", help="column or expression of prior weights")
    p.add_argument(
        "--offset", metavar="COLUMN", help="column or expression added to the linear predictor"
    )
    p.add_argument(
        "--family", metavar="NAME", help="family of a generalized model: binomial, poisson, ..."
    )
    p.add_argument(
        "--nagq",
        metavar="K",
        type=int,
        help="quadrature points of a generalized model (default 1: Laplace)",
    )
    p.add_argument("--method", metavar="NAME", help="another estimator, by name")
    p.add_argument(
        "--ddf",
        metavar="NAME",
        help="degrees of freedom and p-values of a linear model: satterthwaite or kenward_roger",
    )
    p.add_argument(
        "--tidy",
        metavar="FILE",
        type=Path,
        help="also write coefficients and variance components to a CSV file; - writes them to standard output in place of the summary",
    )
    p.add_argument("--version", action="version", version=f"lmm {lmm.__version__}")
    p.add_argument(
        "-h", "--help", action=_Examples, nargs=0, help="show this help and the data sets"
    )
    return p


def data_of(name: str) -> object:
    """A table in memory; a pattern or a table of a database (``file.duckdb::table``) as it is, to be read in chunks."""
    if name == STANDARD:
        return from_standard_input(sys.stdin.buffer.read())
    in_chunks = "::" in name or any(c in name for c in "*?[")
    return name if in_chunks else lmm.datasets.read(name)


def from_standard_input(content: bytes) -> object:
    """The table that standard input holds: Parquet and compressed CSV are told by their first bytes, tabs by the first line."""
    head = content.partition(b"\n")[0]
    ending = ".tsv" if b"\t" in head and b"," not in head else ".csv"
    for magic, own in (
        (b"PAR1", ".parquet"),
        (b"\x1f\x8b", ".csv.gz"),
        (b"\x28\xb5\x2f\xfd", ".csv.zst"),
    ):
        if content.startswith(magic):
            ending = own
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{ending}"
        path.write_bytes(content)
        try:
            return lmm.datasets.read(path)
        except LmmError as error:
            raise DataError(str(error).replace(repr(str(path)), "standard input")) from None


def check_options(options: argparse.Namespace) -> None:
    """What can be told before the data are read: wrong combinations, a name of no method, a file that cannot be written."""
    if options.ddf is not None:
        from lmm.inference.tests.ddf import method_name

        if options.family:
            raise ArgumentError("--ddf is for linear models: a generalized model has normal tests.")
        options.ddf = method_name(options.ddf)
    path = options.tidy
    if path is None or str(path) == STANDARD:
        return
    try:
        if path.is_dir():
            reason = os.strerror(errno.EISDIR)
        elif not path.parent.is_dir():
            reason = os.strerror(errno.ENOENT)
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            reason = os.strerror(errno.EACCES)
        else:
            return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise ArgumentError(f"--tidy: cannot write {str(path)!r}: {reason}")


def fit(options: argparse.Namespace, data: object) -> Any:
    """The fitted model that the options ask for."""
    given = {
        k: v for k in ("weights", "offset", "method") if (v := getattr(options, k)) is not None
    }
    if options.family is None:
        if options.nagq is not None:
            raise ArgumentError("--nagq is for generalized models: give --family too.")
        return _out_of_sight(lmm.lmer, options.formula, data, REML=not options.ml, **given)
    if options.ml:
        raise ArgumentError(
            "--ml is for linear models: a generalized model is always fitted by maximum likelihood."
        )
    if options.nagq is not None:
        given["nAGQ"] = options.nagq
    return _out_of_sight(lmm.glmer, options.formula, data, family=options.family, **given)


def _out_of_sight(fitter: Callable[..., Any], *args: object, **kwargs: Any) -> object:
    """Call ``fitter`` from an empty scope: formulas see their caller's variables, and those of this module are not the user's."""
    return eval("_()", {"__builtins__": {}, "_": partial(fitter, *args, **kwargs)})


def write_tidy(model: Any, path: Path, ddf: str | None) -> None:
    """Coefficients, then variance components, as one CSV table."""
    table = model.tidy(effects=["fixed", "ran_pars"], ddf=ddf)
    try:
        table.to_csv(sys.stdout if str(path) == STANDARD else path, index=False)
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"--tidy: cannot write {str(path)!r}: {getattr(error, 'strerror', None) or error}"
        ) from None


def one_line(message: object) -> str:
    """The first paragraph of ``message`` without its line breaks; a formula with its caret would be the second."""
    return " ".join(str(message).partition("\n\n")[0].split())


def _show(message: Warning | str, *_: object, **__: object) -> None:
    print(f"lmm: warning: {one_line(message)}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : the arguments after the program's name; those of the process by default.

    Returns
    -------
    Exit status: 0, 1 when the fit did not converge, 2 when what was asked cannot be done, 130 after an interrupt.
    """
    options = parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", LmmWarning)
            warnings.showwarning = _show
            check_options(options)
            model = fit(options, data_of(options.data))
            if options.tidy is None or str(options.tidy) != STANDARD:
                print(model.summary(ddf=options.ddf), flush=True)
            if options.tidy is not None:
                write_tidy(model, options.tidy, options.ddf)
                sys.stdout.flush()
            return 0 if model.convergence.converged else 1
    except FormulaError as error:
        print(f"lmm: {error}", file=sys.stderr)
        return 2
    except LmmError as error:
        print(f"lmm: {one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        sys.stdout = None
    except KeyboardInterrupt:
        print("lmm: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # a fault of ours or of a package below: one line all the same
        print(
            f"lmm: {type(error).__name__}: {one_line(error) or 'no more is known'}; this is a fault of lmm, please report it",
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
