"""The list of messages in the documentation is read from the source, and speaks to users."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import lmm

PATH = Path(__file__).parents[1] / "tools" / "messages.py"
spec = importlib.util.spec_from_file_location("messages", PATH)
assert spec is not None and spec.loader is not None
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


def test_every_class_of_error_is_used() -> None:
    """A class that nothing raises is no promise to anyone; the base class stands for the others."""
    errors = {kind for kind in tool.CLASSES if issubclass(getattr(lmm.errors, kind), lmm.LmmError)}
    assert set(tool.messages()) >= errors - {"LmmError"}


def test_notes_on_an_estimate_are_listed() -> None:
    """A singular fit and a separated one are described by sentences of the list."""
    sentences = " ".join(tool.notes())
    assert "is estimated as zero" in sentences
    assert "did not converge" in sentences


def test_what_a_type_refuses_is_listed() -> None:
    said = " ".join(tool.messages()["ArgumentError"])
    assert "F tests are those of linear models" in said
    assert "this fit is a posterior distribution" in said


@pytest.mark.parametrize("kind", sorted(tool.CLASSES))
def test_classes_are_public(kind: str) -> None:
    """What can be caught has a name in the package."""
    assert getattr(lmm, kind) is getattr(lmm.errors, kind)


def test_messages_are_sentences_for_users() -> None:
    """No message is a bare word."""
    for texts in tool.messages().values():
        for text in texts:
            assert " " in text.strip(), text
