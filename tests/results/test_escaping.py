"""Names and levels of the data stand as text in every output: no markup of theirs reaches a page, a note or a paper."""

from __future__ import annotations

import re
import warnings
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

import lmm
from lmm.results.text.render import TextTable, latex_escape, markdown_code, markdown_escape

NASTY = "<script>alert(1)</script>"
NAMES = [
    NASTY,
    "<img src=x onerror=alert(1)>",
    "a|b*c*",
    "100% & $x_1$ \\ #{}~^",
    "[link](javascript:alert(1))",
    "line 'break' \"q\"",
]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.found.add(tag)
        self.found |= {name for name, _ in attrs if name.startswith("on")}


def tags(text: str) -> set[str]:
    parser = Tags()
    parser.feed(text)
    return parser.found


def fitted(name: str, family: Any = None) -> lmm.Fit:
    rng = np.random.default_rng(1)
    n = 90
    d = pd.DataFrame(
        {
            name: rng.normal(size=n),
            "f": rng.choice([f"{name} 1", f"{name} 2"], n),
            "g": [f"{name} {i % 9}" for i in range(n)],
        }
    )
    d["y"] = rng.normal(size=n) + rng.normal(size=9)[np.arange(n) % 9] + d[name]
    formula = f"y ~ `{name}` + f + (1|g)"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if family:
            return lmm.glmer(formula, d.assign(y=rng.poisson(2.0, n)), family=family)
        return lmm.lmer(formula, d)


@pytest.mark.parametrize("name", NAMES)
def test_no_object_lets_markup_through(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = fitted(name)
        shown = [
            fit,
            fit.summary(),
            fit.summary(ddf="satterthwaite"),
            fit.varcorr(),
            fit.step(),
            fit.check(50, rng=1),
            fit.emmeans("f"),
            fit.emmeans("pairwise ~ f"),
            fit.simulated_residuals(20, rng=1),
            fit.simulated_residuals(20, rng=1).by("g"),
            fit.compare_methods({"reml": "reml", name: "ml"}),
            fit.coef_table(),
            fit.tidy("ran_vals"),
            fitted(name, "poisson").summary(),
        ]
    for own in shown:
        found = tags(own._repr_html_())
        assert not found & {"script", "img", "onerror", "a"}, type(own).__name__
        if hasattr(own, "as_markdown"):
            text = own.as_markdown()
            assert not tags(text) - {"code"} and "](" not in text, type(own).__name__
            for line in text.splitlines():
                if line.startswith("|"):
                    first = text.splitlines()[text.splitlines().index(line)]
                    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", first)) >= 3
        if hasattr(own, "as_latex"):
            text = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}", "", own.as_latex())
            rows = [line for line in text.splitlines() if line.endswith(r"\\")]
            assert not any(re.search(r"[%$#^~]", line) for line in rows), type(own).__name__


def test_pipes_keep_the_number_of_cells() -> None:
    table = TextTable(("a|b", "`c`"), (("x\ny|", "<b>\\|"),), "ll").to_markdown()
    for line in table.splitlines():
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3
    assert "\ny" not in table


def test_escapes() -> None:
    assert (
        markdown_escape("a|b `c` <d> & $e$ \\ *f*") == r"a\|b \`c\` &lt;d&gt; &amp; \$e\$ \\ \*f\*"
    )
    assert markdown_code("y ~ x + (1|g)") == "`y ~ x + (1|g)`"
    assert markdown_code("y ~ `<b>`") == r"<code>y ~ \`&lt;b&gt;\`</code>"
    assert (
        latex_escape(r"&%$#_{}\~^`")
        == r"\&\%\$\#\_\{\}\textbackslash{}\textasciitilde{}\textasciicircum{}\textasciigrave{}"
    )
    assert latex_escape("[x]") == "{[}x]" and latex_escape("*") == "{*}"
