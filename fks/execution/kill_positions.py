"""What the guardian knows of our positions: read from the database each second, kept in a file for when it is away."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Any

from fks.model.order import Fill, Role

#: executions of this window are compared with the venue's history: a fill lost on the stream is booked by the sweep
#: (60 s) at the latest, so what is older than twice that and not booked is not ours to find
WINDOW_S = 150.0
LOOKBACK_S = 120.0


@dataclass(frozen=True, slots=True, order=True)
class Holder:
    """Whose position: a strategy instance ("" = persons) in an account at a venue, in one symbol."""

    venue: str
    account_id: int
    symbol: str
    instance: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What the venue demands of an order in one symbol."""

    exchange: str
    base: str
    quote: str
    lot_step: Decimal
    qty_min: Decimal
    notional_min: Decimal

    def floor(self, quantity: Decimal) -> Decimal:
        """Return `quantity` rounded down to the lot grid."""
        return (quantity / self.lot_step).to_integral_value(ROUND_FLOOR) * self.lot_step


@dataclass(frozen=True, slots=True)
class Known:
    """An order of ours the database knew of: whose it is, what for, and how much of it was booked."""

    holder: Holder
    exchange: str
    filled: Decimal
    role: str = ""  # "" in a file of an earlier version

    @property
    def is_protection(self) -> bool:
        """Return whether it is a position's stop-loss or take-profit."""
        return self.role in (Role.STOP_LOSS.value, Role.TAKE_PROFIT.value)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The database at one moment. `booked`: (venue, symbol, venue trade id) of recent executions it holds; what was
    executed before `booked_from_ns` may be booked without being listed, so it is taken as booked."""

    as_of_ns: int
    positions: Mapping[Holder, Decimal]
    rules: Mapping[str, Rules]
    orders: Mapping[str, Known]
    booked: frozenset[tuple[str, str, str]]
    booked_from_ns: int = 0

    @staticmethod
    def of(row: Mapping[str, Any]) -> Snapshot:
        """Return a snapshot from a row of `kill.snapshot`, or from the file: of rules for the same symbol the last ones."""
        return Snapshot(
            as_of_ns=int(row["as_of_ns"]),
            positions={Holder(v, int(a), s, i): Decimal(q) for v, a, s, i, q in row["positions"]},
            rules={
                s: Rules(x, base, quote, Decimal(step), Decimal(least), Decimal(notional))
                for x, s, base, quote, step, least, notional in row["instruments"]
            },
            orders={
                c: Known(Holder(v, int(a), s, i), x, Decimal(f), *role) for c, v, a, x, s, i, f, *role in row["orders"]
            },
            booked=frozenset((v, s, t) for v, s, t in row["booked"]),
            booked_from_ns=int(row.get("booked_from_ns", 0)),
        )

    def symbols(self, venue: str) -> set[str]:
        """Return every symbol in which we hold or lately ordered something at `venue`."""
        return {h.symbol for h in self.positions if h.venue == venue} | {
            k.holder.symbol for k in self.orders.values() if k.holder.venue == venue
        }

    def with_fills(self, fills: Iterable[Fill], skip: frozenset[str]) -> dict[Holder, Decimal]:
        """Return positions with what the venue executed and the database had not booked yet added.

        Only fills of our own orders count; those of orders in `skip` are accounted for elsewhere.
        """
        positions = dict(self.positions)
        for fill in fills:
            known = self.orders.get(fill.client_order_id or "")
            if (fill.venue, fill.symbol, fill.venue_trade_id) in self.booked or fill.client_order_id in skip:
                continue
            if fill.time_ns < self.booked_from_ns or (known is None and not is_ours(fill.client_order_id)):
                continue
            holder = known.holder if known else self._likely_holder(fill, positions)
            if holder is not None:
                positions[holder] = positions.get(holder, Decimal(0)) + self._moved(fill)
        return positions

    def _moved(self, fill: Fill) -> Decimal:
        rules = self.rules.get(fill.symbol)
        fee = fill.fee if rules is not None and fill.fee_currency == rules.base else Decimal(0)
        return fill.side.sign * fill.quantity - fee

    def _likely_holder(self, fill: Fill, positions: Mapping[Holder, Decimal]) -> Holder | None:
        """Return whose a fill of an order newer than the snapshot is: the one holder in that symbol, the one whose position
        it can have closed, else nobody's name."""
        same = sorted(
            {h for h in self.positions if (h.venue, h.symbol) == (fill.venue, fill.symbol)}
            | {k.holder for k in self.orders.values() if (k.holder.venue, k.holder.symbol) == (fill.venue, fill.symbol)}
        )
        closed = [h for h in same if -fill.side.sign * positions.get(h, Decimal(0)) >= fill.quantity]
        if len(same) == 1 or len(closed) == 1:
            return (closed or same)[0]
        accounts = {k.holder.account_id for k in self.orders.values() if k.holder.venue == fill.venue} | {
            h.account_id for h in self.positions if h.venue == fill.venue
        }
        return Holder(fill.venue, accounts.pop(), fill.symbol, "") if len(accounts) == 1 else None


def is_ours(client_order_id: str | None) -> bool:
    """Return whether an id has the form of ours: the 32 hex characters of a UUIDv5 (peers.md §6.2)."""
    text = client_order_id or ""
    return len(text) == 32 and text[12] == "5" and text[16] in "89ab" and all(c in "0123456789abcdef" for c in text)


class PositionsFile:
    """The snapshot on disk, beside the kill file. Replaced whole, and only when something in it changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: str | None = None

    def load(self) -> Snapshot | None:
        """Return what was kept last, or None when there is none or it is damaged."""
        try:
            return Snapshot.of(json.loads(self._path.read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, row: Mapping[str, Any]) -> None:
        """Keep a row of `kill.snapshot`. Errors: OSError."""
        body = {name: row[name] for name in ("positions", "instruments", "orders", "booked", "booked_from_ns")}
        text = json.dumps(body)
        if text == self._kept:
            return
        part = self._path.with_suffix(".part")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(json.dumps({"as_of_ns": row["as_of_ns"], **body}))
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)
        self._kept = text
