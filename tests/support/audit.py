"""The auditor: compares the exchange's own log, the journal and the positions. Shares no code with the runtime."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from tests.support.system import System


@dataclass(frozen=True)
class Audit:
    """What was found. A sound system has only zeros and empty things in the last four."""

    orders_sent: int
    signals: int
    doubled: dict[str, int]
    undecided: int
    twice_ordered: int
    position_errors: dict[str, tuple[Decimal, Decimal]]


def audit(system: System, *, bases: dict[str, str], initial: dict[str, Decimal]) -> Audit:
    """Compare now. `bases` maps symbol to base currency; `initial` is what the exchange gave at the start."""
    received = system.sim("/sim/received?limit=100000")
    rows = received["items"] if isinstance(received, dict) else received
    sent: Counter[str] = Counter()
    for row in rows:
        if row["method"] == "POST" and "order" in row["path"] and "test" not in row["path"]:
            for id in ids_of(row):
                sent[id] += 1
    undecided = system.sql(
        "SELECT count(*) FROM signals WHERE state IN ('ready') AND created_at < now() - interval '20 seconds'"
    )[0][0]
    twice = system.sql(
        "SELECT count(*) FROM (SELECT signal_id FROM orders WHERE signal_id IS NOT NULL AND role IN ('entry','exit','order')"
        " GROUP BY signal_id HAVING count(*) > 1) x"
    )[0][0]
    return Audit(
        orders_sent=sum(sent.values()),
        signals=system.sql("SELECT count(*) FROM signals")[0][0],
        doubled={id: count for id, count in sent.items() if count > 1},
        undecided=undecided,
        twice_ordered=twice,
        position_errors=position_errors(system, bases, initial),
    )


def ids_of(row: dict[str, Any]) -> list[str]:
    """Return the client order ids a received request carried: one, or an OCO's two legs."""
    value = row.get("client_order_ids") or row.get("client_order_id") or []
    return [value] if isinstance(value, str) else list(value)


def position_errors(
    system: System, bases: dict[str, str], initial: dict[str, Decimal]
) -> dict[str, tuple[Decimal, Decimal]]:
    """Return symbols whose booked position differs from what the exchange holds beyond what it gave at the start."""
    account = system.sim("/sim/account")
    held = {
        asset: Decimal(str(row["free"])) + Decimal(str(row["locked"])) for asset, row in balances_of(account).items()
    }
    booked: dict[str, Decimal] = dict(system.sql(
            "SELECT symbol, sum(quantity) FROM positions WHERE venue = 'ccxt' AND instance <> 'external' GROUP BY symbol"
        ))
    wrong = {}
    for symbol, base in bases.items():
        ours, theirs = booked.get(symbol, Decimal(0)), held.get(base, Decimal(0)) - initial.get(base, Decimal(0))
        if ours != theirs:
            wrong[symbol] = (ours, theirs)
    return wrong


def balances_of(account: dict[str, Any]) -> dict[str, Any]:
    """Return asset -> {free, locked} whatever shape the exchange lists them in."""
    balances = account["balances"]
    if isinstance(balances, list):
        return {row["asset"]: row for row in balances}
    return dict(balances)
