"""Records as older versions wrote them -> the fields of today's."""

from __future__ import annotations

#: where a record of an older file is today
MOVED = {"lmm.design.records:RandomTerm": "lmm.design.terms:RandomTerm"}
