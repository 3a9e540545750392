"""List what the package says when it refuses or doubts something, read from its source.

``python tools/messages.py`` prints a table per class of error or warning: the text, with ``...`` where a name or a number of the
user's stands, and the module that says it.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import lmm.errors

PACKAGE = Path(lmm.errors.__file__).parent
KINDS = (lmm.errors.LmmError, lmm.errors.LmmWarning)
CLASSES = {name for name, value in vars(lmm.errors).items() if isinstance(value, type) and issubclass(value, KINDS)}


def messages() -> dict[str, dict[str, str]]:
    """Per class of error or warning its texts, each with the module (``room.file``) that says it."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                for kind, text in _said(node):
                    found[kind].setdefault(text, module)
    return dict(sorted(found.items()))


def _said(call: ast.Call) -> list[tuple[str, str]]:
    """The class and the text of ``Error(text)`` or ``warn(text, Warning)``; nothing where the text is made elsewhere."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name in CLASSES and call.args:
        kinds = [name]
    elif name == "warn" and len(call.args) == 2 and isinstance(call.args[1], ast.Name):
        kinds = [call.args[1].id]
    else:
        return []
    text = _text(call.args[0])
    return [(kind, text) for kind in kinds] if any(letter.isalpha() for letter in text) else []


def _text(node: ast.expr) -> str:
    """The words of a string, with ``...`` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) if isinstance(value, ast.Constant) else "..." for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "..."


def table() -> str:
    """All of it in Markdown."""
    lines: list[str] = []
    for kind, texts in messages().items():
        about = (getattr(lmm.errors, kind).__doc__ or "").strip().splitlines()[0]
        lines += [f"### {kind}", "", about, "", "| message | from |", "|---|---|"]
        for text, module in texts.items():
            cell = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'").replace("*", "\\*").replace("$", "\\$")
            lines.append(f"| {cell} | `{module}` |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
