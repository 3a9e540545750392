"""How large the package is, and of what shape: counts of a reading of its syntax trees.

    python tools/size.py [folder]

prints the whole, each folder, and the lines that branch on the kind of a fit. A code line is one that is not blank, a comment or part of
a docstring; characters are counted without indentation. A branch on a kind asks what a fit is: linear or generalized, likelihood or
posterior, ordinal, in memory or streamed, exact or iterative.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "lmm"

#: what a condition reads like that asks for a kind
KINDS = (
    r"family is (not )?None",
    r"isinstance\([^()]*\b(Generalized)?Problem\b",
    r"\bis_ordinal\(",
    r"\.streamed\b",
    r"\bsource is (not )?None",
    r"\bdraws is (not )?None",
    r"\.iterative\b",
    r"\bmonte_carlo is (not )?None",
    r"\.distant\b",
    r"\bhas_intercept\b",
    r"isinstance\([^()]*\b(LaplaceLikelihood|MaximumLikelihood|StochasticEvaluator|ProbedObjective)\b",
    r"\b(distribution|model)\.linear\b",
)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass
class Counts:
    """What was counted in some files."""

    files: int = 0
    lines: int = 0
    code: list[int] = field(default_factory=list)  # characters of each code line
    doc: int = 0
    comprehensions: int = 0
    any: int = 0
    sizes: list[int] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    functions: list[int] = field(default_factory=list)
    parameters: list[int] = field(default_factory=list)
    annotated: int = 0
    documented: int = 0
    inner_imports: int = 0
    branches: dict[str, int] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        """Count a file too."""
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines, docs = text.splitlines(), set(docstring_lines(tree))
        code = {
            i
            for i, line in enumerate(lines, 1)
            if line.strip() and not line.strip().startswith("#") and i not in docs
        }
        self.files += 1
        self.lines += len(lines)
        self.doc += len(docs)
        self.code += [len(lines[i - 1].strip()) for i in sorted(code)]
        self.sizes.append(len(lines))
        self.documented += ast.get_docstring(tree) is not None
        self.any += len(
            re.findall(
                r"\bAny\b", "\n".join(lines[i - 1] for i in code if "import" not in lines[i - 1])
            )
        )
        for node in ast.walk(tree):
            if isinstance(node, COMPREHENSIONS):
                self.comprehensions += 1
            elif isinstance(node, ast.ClassDef):
                self.classes.append(len(own_lines(node, code)))
            elif isinstance(node, FUNCTIONS):
                self.functions.append(len(own_lines(node, code)))
                self.parameters.append(
                    len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)
                )
                self.annotated += node.returns is not None or node.name == "__init__"
                self.inner_imports += sum(
                    isinstance(inner, ast.Import | ast.ImportFrom) for inner in ast.walk(node)
                )
        found = set(branch_lines(tree))
        if found:
            self.branches[str(path)] = len(found)


def docstring_lines(tree: ast.AST) -> Iterator[int]:
    """Numbers of the lines that are docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTIONS)) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield from range(first.lineno, (first.end_lineno or first.lineno) + 1)


def own_lines(
    node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, code: set[int]
) -> list[int]:
    """Code lines of a class or function."""
    return [i for i in range(node.lineno, (node.end_lineno or node.lineno) + 1) if i in code]


def branch_lines(tree: ast.AST) -> Iterator[int]:
    """Numbers of the lines with a condition on a kind."""
    for node in ast.walk(tree):
        tests: list[ast.expr] = []
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            tests = [node.test]
        elif isinstance(node, ast.comprehension):
            tests = node.ifs
        for test in tests:
            if re.search("|".join(KINDS), ast.unparse(test)):
                yield test.lineno


def count(folder: Path) -> Counts:
    """The counts of all files below a folder."""
    counts = Counts()
    for path in sorted(folder.rglob("*.py")):
        counts.add(path)
    return counts


def rows(c: Counts) -> list[tuple[str, str]]:
    """The table of one folder."""
    thousand = len(c.code) / 1000
    lengths = sorted(c.code)
    return [
        ("files", f"{c.files}"),
        ("lines", f"{c.lines:,}"),
        ("code lines", f"{len(c.code):,}"),
        ("characters of code, thousand", f"{sum(c.code) / 1000:,.0f}"),
        (
            "mean / 90 % length of a code line",
            f"{statistics.mean(c.code):.0f} / {lengths[int(0.9 * len(lengths))]}",
        ),
        ("comprehensions per 1,000 code lines", f"{c.comprehensions / thousand:.0f}"),
        ("median / longest file", f"{statistics.median(c.sizes):.0f} / {max(c.sizes)}"),
        ("longest class, code lines", f"{max(c.classes, default=0)}"),
        (
            "functions, median code lines",
            f"{len(c.functions):,}, {statistics.median(c.functions):.0f}",
        ),
        (
            "functions > 60 / > 40 code lines",
            f"{sum(n > 60 for n in c.functions)} / {sum(n > 40 for n in c.functions)}",
        ),
        ("functions with more than 8 parameters", f"{sum(n > 8 for n in c.parameters)}"),
        ("docstring share of lines", f"{100 * c.doc / c.lines:.0f} %"),
        ("modules with a docstring", f"{c.documented}/{c.files}"),
        ("return annotations", f"{100 * c.annotated / len(c.functions):.0f} %"),
        ("Any", f"{c.any:,} ({c.any / thousand:.0f} per 1,000 code lines)"),
        ("imports inside functions", f"{c.inner_imports}"),
        ("branch lines on kinds", f"{sum(c.branches.values())} in {len(c.branches)} files"),
    ]


def main() -> None:
    """Print the tables."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for name, value in rows(count(root)):
        print(f"{name:40} {value}")
    print(
        f"\n{'folder':14}{'files':>7}{'lines':>9}{'code':>8}{'thousand':>10}{'Any':>6}{'branches':>10}"
    )
    for folder in sorted(
        path for path in root.iterdir() if path.is_dir() and any(path.rglob("*.py"))
    ):
        c = count(folder)
        print(
            f"{folder.name:14}{c.files:7}{c.lines:9,}{len(c.code):8,}{sum(c.code) / 1000:10.0f}{c.any:6}{sum(c.branches.values()):10}"
        )


if __name__ == "__main__":
    main()
