"""``python -m lmm FORMULA DATA``: the command line of :mod:`lmm.cli`."""

import sys

from lmm.cli import main

if __name__ == "__main__":
    sys.exit(main())
