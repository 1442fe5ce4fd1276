"""The error of a broken guarantee, apart from the assertions that raise it, because each run of pytest imports it."""

from __future__ import annotations


class InvariantError(AssertionError):
    """A guarantee is broken, however long one had waited."""
