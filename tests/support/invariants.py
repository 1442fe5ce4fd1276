"""Broken guarantees: failures that no repetition forgives, and the assertions that raise them.

`scripts/run_tests.py` runs a failed test again alone and forgives it if it passes then, because a test may race with the
machine. An order that was sent twice is no race: it is an InvariantError, and `make test` rejects it at once. The error
follows the finding, not the function: a finding that more time would have changed (an outcome that is still unknown, a
part that is not ready) stays an ordinary failure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from fks.lab.chaos.auditor import UNDECIDED, Audit, Evidence, audit_evidence
from fks.lab.chaos.fold import journal_errors
from fks.store.db import Database
from tests.support.invariant_error import InvariantError
from tests.support.journal import rows_at_one_moment

REST_S = 5.0  # what changed since may be on its way between exchange and journal
#: checks of the auditor -> the texts of their violations that no time would have changed
_BROKEN = {
    "signals lost": re.compile("was ordered, but order|which is not there"),
    "orders doubled": re.compile("was sent|the exchange has|was answered with"),
    "orders astray": re.compile("without an id of its own"),
    "journal wrong": re.compile(""),
    "fills wrong": re.compile("is booked as|is booked .* times"),
    "stops wrong": re.compile(" moved to "),
}
#: checks that compare exchange and journal: a violation is a broken guarantee where everything is at rest
_BROKEN_AT_REST = ("orders doubled", "orders astray", "fills wrong", "positions wrong")


class Broken(str):
    """The text of a finding that is a broken guarantee."""

    __slots__ = ()


def assert_once(ids: Iterable[Any]) -> None:
    """Errors: InvariantError with each id that occurs more than once."""
    if twice := {id: count for id, count in Counter(ids).items() if count > 1}:
        raise InvariantError(f"more than once: {twice}")


def assert_one(found: Sequence[Any]) -> None:
    """Errors: InvariantError if there are several of what may happen once, AssertionError if there is none."""
    if len(found) > 1:
        raise InvariantError(f"{len(found)} times: {list(found)}")
    assert found, "not once"


def assert_kept(accepted: Iterable[Any], rows: Iterable[Any]) -> None:
    """Errors: InvariantError with each accepted id that no row has."""
    if lost := set(accepted) - set(rows):
        raise InvariantError(f"accepted and without a row: {sorted(map(str, lost))}")


def assert_closed(left: Decimal, dust: Decimal = Decimal(0)) -> None:
    """Errors: InvariantError if a kill that is reported done left a position at the exchange, or sold more than it.

    `dust` is the least amount that is a position.
    """
    if left and abs(left) >= dust:
        raise InvariantError(f"the kill is done, and {left} is left")


def assert_same(found: Any, wanted: Any, what: str = "") -> None:
    """Errors: InvariantError with the first difference, for values that are equal at each moment at which they are
    compared."""
    if found == wanted:
        return
    text = f"{found}, not {wanted}"
    if isinstance(found, list | tuple) and isinstance(wanted, list | tuple):
        place = next((n for n, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), None)
        at = min(len(found), len(wanted)) if place is None else place
        text = f"{len(found)} and {len(wanted)}; number {at} is {found[at : at + 1]}, not {wanted[at : at + 1]}"
    raise InvariantError(f"{what}: {text}" if what else text)


def assert_none(findings: Iterable[str]) -> None:
    """Errors: InvariantError if a finding is `Broken`, AssertionError if there is any other."""
    found = sorted(findings, key=lambda one: not isinstance(one, Broken))
    if found:
        error = InvariantError if isinstance(found[0], Broken) else AssertionError
        raise error("\n".join(found[:50]))


async def journal_findings(db: Database) -> list[Broken]:
    """Return the errors of the journal at one moment, by the auditor's own fold of each order's events."""
    rows = await rows_at_one_moment(db, "orders", "order_events ORDER BY id", "trades")
    return [Broken(error) for error in journal_errors(*rows.values())]


async def assert_journal(db: Database) -> None:
    """Errors: InvariantError with the errors of the journal."""
    assert_none(await journal_findings(db))


def audit_findings(evidence: Evidence, audit: Audit) -> list[str]:
    """Return the violations of an audit of the evidence as texts, and one if positions could not be compared."""
    at_rest = set[tuple[str, str]]()
    if any(one.check in _BROKEN_AT_REST for one in audit.violations) and is_at_rest(evidence):
        moved = {
            str(row["clientOrderId"])
            for row in evidence.exchange_orders
            if row.get("updateTime", 0) / 1000 >= evidence.now_s - REST_S
        }
        at_rest = {
            (one.check, one.text)
            for one in audit_evidence(evidence, settle_s=REST_S).violations
            if one.check in _BROKEN_AT_REST and not any(id in one.text for id in moved)
        }
    found = []
    for one in audit.violations:
        text = f"{one.check}: {one.text}"
        pattern = _BROKEN.get(one.check)
        is_broken = (one.check, one.text) in at_rest or (pattern is not None and pattern.search(one.text) is not None)
        found.append(Broken(text) if is_broken else text)
    return found if audit.is_whole else [*found, "positions could not be compared"]


def is_at_rest(evidence: Evidence) -> bool:
    """Return whether no outcome is open and no execution is so young that only one side may know it: the books of
    exchange and journal must be equal."""
    since_s = evidence.now_s - REST_S
    return not (
        any(row["state"] in UNDECIDED for row in evidence.orders)
        or any(row["state"] == "ready" for row in evidence.signals)
        or any(row["wallTime"] / 1000 >= since_s for row in evidence.exchange_fills)
        or any(row["filled"] and row["updated_at"].timestamp() >= since_s for row in evidence.orders)
    )
