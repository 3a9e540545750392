"""A table of text cells and its four faces: plain text, HTML, Markdown, LaTeX."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "\\": r"\textbackslash{}",
        "`": r"\textasciigrave{}",
    }
    | {"|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}"}
)
_MARKDOWN = str.maketrans(
    {character: rf"\{character}" for character in "\\`|*$"}
    | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
)


def one_line(text: str) -> str:
    """Text without line breaks and other control characters, which would end a cell or a line."""
    return "".join(character if character.isprintable() else " " for character in text)


def html_escape(text: str) -> str:
    """Text that a browser shows as it stands."""
    return html.escape(text)


def html_lines(lines: Iterable[str], tag: str = "div", style: str = "") -> str:
    """Each line in an element of its own."""
    opening = f'<{tag} style="{style}">' if style else f"<{tag}>"
    return "".join(f"{opening}{html.escape(line)}</{tag}>" for line in lines)


def markdown_escape(text: str) -> str:
    """Text that Markdown shows as it stands: no markup, link, formula or HTML begins in it."""
    return one_line(text).translate(_MARKDOWN).replace("](", "]\\(")


def markdown_code(text: str) -> str:
    """Text as code; in HTML's element where backticks or HTML stand in it."""
    if any(character in text for character in "`<>&"):
        return f"<code>{markdown_escape(text)}</code>"
    return f"`{one_line(text)}`"


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands; in front of a line it is no argument of the row break before it."""
    escaped = one_line(text).translate(_LATEX)
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped[:1] in ("[", "*") else escaped


@dataclass(frozen=True)
class TextTable:
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

    @classmethod
    def of_columns(
        cls, head: Sequence[str], columns: Iterable[Iterable[str]], name: str = "", align: str = ""
    ) -> TextTable:
        """The table of these columns; unless ``align`` says otherwise the first is to the left and the others to the right."""
        rows = tuple(zip(*columns, strict=True))
        return cls(tuple(head), rows, align or "l" + "r" * (len(head) - 1), name)

    def to_text(self, indent: int = 0) -> str:
        """Columns padded to a common width, one blank between them."""
        lines = [self.head, *self.rows]
        widths = [max(len(line[j]) for line in lines) for j in range(len(self.head))]
        return "\n".join(
            " " * indent + self._line(line, widths, title=i == 0) for i, line in enumerate(lines)
        )

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
            inner = "".join(
                f'<{tag} style="{style[a]}">{html_escape(c)}</{tag}>'
                for c, a in zip(cells, self.align, strict=True)
            )
            return f"<tr>{inner}</tr>"

        body = "\n".join(row(cells, "td") for cells in self.rows)
        return (
            f"<table>\n<thead>{row(self.head, 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
        )

    def to_markdown(self) -> str:
        """A pipe table."""

        def row(cells: Sequence[str]) -> str:
            return "| " + " | ".join(markdown_escape(c) for c in cells) + " |"

        rule = "|" + "|".join(":--" if a == "l" else "--:" for a in self.align) + "|"
        return "\n".join([row(self.head), rule, *map(row, self.rows)])

    def to_latex(self) -> str:
        """A ``tabular`` with booktabs rules."""

        def row(cells: Sequence[str]) -> str:
            return " & ".join(map(latex_escape, cells)) + r" \\"

        head = [rf"\begin{{tabular}}{{{self.align}}}", r"\toprule", row(self.head), r"\midrule"]
        return "\n".join([*head, *map(row, self.rows), r"\bottomrule", r"\end{tabular}"])
