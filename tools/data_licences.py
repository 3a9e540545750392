"""The list of the terms of the data sets that are shipped, from their catalogue.

``python tools/data_licences.py > lmm/datasets/LICENCES.md`` writes it.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

CATALOGUE = Path(__file__).resolve().parent.parent / "lmm" / "datasets" / "catalogue.toml"
HEAD = """\
# Licences of the data sets

The licence of the code, in LICENSE, does not extend to the data sets in this folder. Each is listed with where it comes
from, who published it, and what is known of the terms under which it is distributed.
"""


def text() -> str:
    """The list in Markdown."""
    parts = [HEAD]
    for name, about in tomllib.loads(CATALOGUE.read_text(encoding="utf-8")).items():
        lines = [f"## {name}", "", about["title"] + ".", ""]
        lines += [f"- {key}: {about[key]}" for key in ("source", "reference", "licence")]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(text())
