"""``lmm FORMULA DATA``: fit a mixed model from a shell and print its summary.

Everything that is wrong ends in one line on standard error (for a formula, with the formula and a caret under the place) and exit
status 2. Only what the fit needs is imported, so that a small model is on the screen
about as soon as Python, NumPy and pandas are loaded.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lmm
from lmm.errors import ArgumentError, FormulaError, LmmError, LmmWarning

EXAMPLES = """\
examples:
  lmm "Reaction ~ Days + (Days|Subject)" sleepstudy
  lmm "log_radon ~ floor + (1|county)" radon --ml
  lmm "yield ~ nitro + (1|Block/Variety)" oats.csv --tidy coefficients.csv
  lmm "cbind(incidence, size - incidence) ~ period + (1|herd)" cbpp --family binomial
  lmm "y ~ x + (x||g)" measurements.parquet --weights n
  lmm "y ~ x + (x||g)" "measurements/*.parquet"

DATA is a CSV or Parquet file; what is read in chunks: a pattern for Parquet files, file.duckdb::table; or a shipped data set:
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
        "data", metavar="DATA", help="a CSV or Parquet file, or the name of a shipped data set"
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
        "--tidy",
        metavar="FILE",
        type=Path,
        help="also write coefficients and variance components to a CSV file",
    )
    p.add_argument("--version", action="version", version=f"lmm {lmm.__version__}")
    p.add_argument(
        "-h", "--help", action=_Examples, nargs=0, help="show this help and the data sets"
    )
    return p


def data_of(name: str) -> object:
    """A table in memory; a pattern or a table of a database (``file.duckdb::table``) as it is, to be read in chunks."""
    in_chunks = "::" in name or any(c in name for c in "*?[")
    return name if in_chunks else lmm.datasets.read(name)


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


def write_tidy(model: Any, path: Path) -> None:
    """Coefficients, then variance components, as one CSV table."""
    try:
        model.tidy(effects=["fixed", "ran_pars"]).to_csv(path, index=False)
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
    Exit status: 0, 2 when what was asked cannot be done, 130 after an interrupt.
    """
    options = parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", LmmWarning)
            warnings.showwarning = _show
            model = fit(options, data_of(options.data))
            print(model.summary(), flush=True)
            if options.tidy is not None:
                write_tidy(model, options.tidy)
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
