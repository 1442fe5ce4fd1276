"""How the tables of orders, fills and signals show times and long texts."""

from __future__ import annotations

TEXT_MAX = 48


def time_of(text: str | None) -> str:
    """Return an ISO time as `MM-DD HH:MM:SS`, UTC; empty for none."""
    return "" if text is None else text[5:19].replace("T", " ")


def brief(text: str | None) -> str:
    """Return a text that fits a column."""
    found = text or ""
    return found if len(found) <= TEXT_MAX else found[: TEXT_MAX - 1] + "…"
