"""Glossary: each term with its meaning."""

from __future__ import annotations

from typing import Any

from fks.interfaces.web.glossary import Glossary
from fks.interfaces.web.visits import Visit

_GLOSSARY = Glossary()


async def load(visit: Visit) -> dict[str, Any]:
    """Return the terms by their group, in the order of the file."""
    groups: dict[str, list[Any]] = {}
    for term in _GLOSSARY.terms:
        groups.setdefault(term.group, []).append(term)
    return {"groups": groups}
