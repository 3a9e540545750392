"""List what the package says when it refuses or doubts something, read from its source.

``python tools/messages.py`` prints a table per class of error or warning: the text, with ``...`` where a name or a number of the
user's stands, and the module that says it. The last table has the sentences on an estimate that are put together elsewhere.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import lmm.errors

PACKAGE = Path(lmm.errors.__file__).parent
KINDS = (lmm.errors.LmmError, lmm.errors.LmmWarning)
CLASSES = {
    name
    for name, value in vars(lmm.errors).items()
    if isinstance(value, type) and issubclass(value, KINDS)
}

#: methods that refuse with the sentence that they are given
REQUIREMENTS = ("require_linear", "require_likelihood", "require_mean")
#: modules whose sentences describe an estimate: they become warnings, and stand in ``fit.messages``
NOTES = (
    "results.text.notes",
    "estimators.laplace.diagnosis",
    "estimators.laplace.separation",
    "model.gaussian.determined",
    "estimators.likelihood.probed_criterion",
    "estimators.laplace.laplace_likelihood",
)


@cache
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


@cache
def notes() -> dict[str, str]:
    """Sentences on an estimate, with the module that says each."""
    found: dict[str, str] = {}
    for module in NOTES:
        tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())
        said = {
            id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
        }  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in said:
                said |= {id(part) for part in ast.walk(node)}
                text = _text(node)
                if len(text.split()) > 4:
                    found.setdefault(text, module)
    return found


def _said(call: ast.Call) -> list[tuple[str, str]]:
    """The class and the text of ``Error(text)``, ``warn(text, Warning)`` or ``x.require_linear(text)``.

    Nothing where the text is made elsewhere.
    """
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if isinstance(call.func, ast.Attribute) and call.func.attr in REQUIREMENTS:
        name = "ArgumentError"
    if name in CLASSES and call.args:
        kinds = [name]
    elif name == "warn" and len(call.args) == 2:
        kinds = [
            node.id
            for node in ast.walk(call.args[1])
            if isinstance(node, ast.Name) and node.id in CLASSES
        ]
    else:
        return []
    text = _text(call.args[0])
    return [(kind, text) for kind in kinds] if any(letter.isalpha() for letter in text) else []


def _text(node: ast.expr) -> str:
    """The words of a string, with ``...`` for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            _text(value) if isinstance(value, ast.Constant) else "..." for value in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "..."


def table() -> str:
    """All of it in Markdown."""
    lines: list[str] = []
    for kind, texts in {**messages(), "On an estimate": notes()}.items():
        about = getattr(lmm.errors, kind, None)
        first = (
            "Sentences, or parts of them, in `fit.messages` and in warnings."
            if about is None
            else (about.__doc__ or "").splitlines()[0]
        )
        lines += [f"### {kind}", "", first, "", "| message | from |", "|---|---|"]
        for text, module in texts.items():
            cell = (
                " ".join(text.split())
                .replace("|", "\\|")
                .replace("<", "&lt;")
                .replace("`", "'")
                .replace("*", "\\*")
                .replace("$", "\\$")
            )
            lines.append(f"| {cell} | `{module}` |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
