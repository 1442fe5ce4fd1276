"""Broken guarantees: failures that no repetition forgives, and the assertions that raise them.

`scripts/run_tests.py` runs a failed test again alone and forgives it if it passes then, because a test may race with the
machine. An order that was sent twice is no race: it is an InvariantError, and `make test` rejects it at once. The error
follows the finding, not the function: a finding that more time would have changed (an outcome that is still unknown, a
part that is not ready) stays an ordinary failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from fks.chaos.fold import journal_errors
from fks.store.db import Database
from tests.support.invariant_error import InvariantError


class Broken(str):
    """The text of a finding that is a broken guarantee."""

    __slots__ = ()


def assert_once(ids: Iterable[Any]) -> None:
    """Errors: InvariantError with each id that occurs more than once."""
    if twice := {id: count for id, count in Counter(ids).items() if count > 1}:
        raise InvariantError(f"more than once: {twice}")


def assert_none(findings: Iterable[str]) -> None:
    """Errors: InvariantError if a finding is `Broken`, AssertionError if there is any other."""
    found = list(findings)
    if found:
        error = InvariantError if any(isinstance(one, Broken) for one in found) else AssertionError
        raise error("\n".join(found[:50]))


async def journal_findings(db: Database) -> list[Broken]:
    """Return the errors of the journal, by the auditor's own fold of each order's events."""
    names = ("orders", "order_events ORDER BY id", "trades")
    tables = [[dict(row) for row in await db.sql(f"SELECT * FROM {name}")] for name in names]
    return [Broken(error) for error in journal_errors(*tables)]


async def assert_journal(db: Database) -> None:
    """Errors: InvariantError with the errors of the journal."""
    assert_none(await journal_findings(db))
