"""A table of text cells and its four faces: plain text, HTML, Markdown, LaTeX."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}"}
)


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return text.translate(_LATEX)


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes
    ----------
    head : column titles.
    rows : cells, as many per row as there are titles.
    align : one letter per column, "l" or "r".
    name : key of the table in ``Summary.tables``.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    name: str = ""

    def to_text(self, indent: int = 0) -> str:
        """Columns padded to a common width, one blank between them."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[j]) for line in lines) for j in range(len(self.head))]
        return "\n".join(" " * indent + self._line(line, widths, title=i == 0) for i, line in enumerate(lines))

    def _line(self, cells: Sequence[str], widths: Sequence[int], title: bool) -> str:
        padded = []
        for cell, width, side in zip(cells, widths, self.align, strict=True):
            left = side == "l" or (title and cell in ("Variance", "Std.Dev.", "Corr"))
            padded.append(cell.ljust(width) if left else cell.rjust(width))
        return " ".join(padded).rstrip()

    def to_html(self) -> str:
        """A ``<table>`` with right-aligned numbers."""

        def row(cells: Sequence[str], tag: str) -> str:
            style = {"l": "text-align:left", "r": "text-align:right"}
            inner = "".join(f'<{tag} style="{style[a]}">{html.escape(c)}</{tag}>' for c, a in zip(cells, self.align, strict=True))
            return f"<tr>{inner}</tr>"

        body = "\n".join(row(cells, "td") for cells in self.rows)
        return f"<table>\n<thead>{row(self.head, 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"

    def to_markdown(self) -> str:
        """A pipe table."""

        def row(cells: Sequence[str]) -> str:
            return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

        rule = "|" + "|".join(":--" if a == "l" else "--:" for a in self.align) + "|"
        return "\n".join([row(self.head), rule, *map(row, self.rows)])

    def to_latex(self) -> str:
        """A ``tabular`` with booktabs rules."""

        def row(cells: Sequence[str]) -> str:
            return " & ".join(map(latex_escape, cells)) + r" \\"

        head = [rf"\begin{{tabular}}{{{self.align}}}", r"\toprule", row(self.head), r"\midrule"]
        return "\n".join([*head, *map(row, self.rows), r"\bottomrule", r"\end{tabular}"])
