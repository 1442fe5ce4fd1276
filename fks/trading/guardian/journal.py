"""The kill switch's own journal: JSON lines in one file, fsynced line by line, written by the guardian alone (G5).

One line per act, each with `kill_id`, `at` (UTC) and `act`:
`engaged` (scope, reason, by, flatten) · `joined` (a later kill was asked for: scope, reason, by, flatten) ·
`flatten_wanted` (asked for at another guardian) · `cancelled` (one order, with the venue's answer) · `sending` (a
flattening order, or a stop placed again, written before its first byte leaves) · `stop` (a stop loss that the kill
ends, with all that placing it again needs, written before its cancel leaves) · `asked` and `answered` (a request to
a NinjaTrader bridge, written before its first byte leaves, and its answer) · `outcome` (the end of it; more
than one may follow, the last counts) · `done` (nothing left to do, with the report) · `reopened` (something showed up
after that) · `released` (with the person). The format of the file is that of `fks.system.process.journal_file`.

Kills of the whole system are in `kill.jsonl`, those of each other scope in a file of their own in the folder `kills`
beside it: each scope has its own last kill. A file or folder that is there and cannot be read counts as a kill of the
whole system, and so does a line without a scope, or with one that is not understood.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from fks.model.kill import EngagedKill, KillMode, Kills, KillScope
from fks.model.order import Order, OrderType, Role, Side, State, TimeInForce
from fks.model.timeframe import iso, to_datetime, to_ns
from fks.system.process.journal_file import JournalFile, read_lines, sync_folder

#: what an outcome line can say; the last four end an order
SENT, WORKING, UNKNOWN, ENDED, REFUSED, ABSENT = "sent", "working", "unknown", "ended", "refused", "absent"
SETTLED = frozenset({ENDED, REFUSED, ABSENT})
_SCOPES = "kills"  # the folder of the files of scopes
_NAME_MAX = 240  # bytes of a file's name, its ending left out


@dataclass(frozen=True, slots=True)
class KillOrder:
    """One flattening order. `outcome` is one of the words above; `filled` counts once it is `ended`."""

    order: Order
    outcome: str = SENT
    filled: Decimal = Decimal(0)
    venue_order_id: str | None = None
    code: str | None = None
    detail: str = ""

    @property
    def is_settled(self) -> bool:
        return self.outcome in SETTLED

    def line(self) -> dict[str, Any]:
        """Return it for people and programs."""
        order = self.order
        return {
            "client_order_id": order.client_order_id,
            "venue": order.venue,
            "symbol": order.symbol,
            "instance": order.instance,
            "side": order.side.value,
            "quantity": format(order.quantity, "f"),
            "outcome": self.outcome if self.outcome != ENDED else self.detail.lower(),
            "filled": format(self.filled, "f"),
            "code": self.code,
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """A kill that was asked for here. `at_ns`: when, on this machine's clock."""

    scope: str
    reason: str
    by: str
    flatten: bool
    at_ns: int


@dataclass(frozen=True, slots=True)
class KillRecord:
    """One kill, as its lines in the file say."""

    kill_id: str
    scope: str
    reason: str
    by: str
    engaged_ns: int
    flatten: bool
    is_engaged: bool = True
    is_done: bool = False
    cancelled: int = 0
    orders: tuple[KillOrder, ...] = ()
    stops: tuple[Order, ...] = ()  # that the kill ends; `quantity` is what was left of them
    report: Mapping[str, Any] = field(default_factory=dict)
    released_by: str | None = None
    released_ns: int | None = None
    joined: Asked | None = None  # the newest kill that joined this one
    flatten_ns: int = 0  # since when it flattens

    @property
    def mode(self) -> KillMode:
        """Return the request of this kill, whether or not it is engaged still."""
        return KillMode.FLATTEN if self.flatten else KillMode.HELD

    @property
    def rank(self) -> tuple[bool, int, str]:
        """Return its place among engaged kills: of those that contain a position the first one closes it, alone."""
        return not self.flatten, self.flatten_ns if self.flatten else self.engaged_ns, self.kill_id

    def order(self, client_order_id: str) -> KillOrder | None:
        """Return the flattening order of that id, or None: it attributes a fill while the database is
        down."""
        return next((item for item in self.orders if item.order.client_order_id == client_order_id), None)


def read_kill(path: Path) -> KillRecord | None:
    """Return the kill that is engaged now, or None. Works with nothing else running; a missing file is no kill.

    Errors: OSError when the file is there and cannot be read: whether a kill is engaged is then unknown.
    """
    record = last_kill(path)
    return record if record is not None and record.is_engaged else None


def kill_mode(path: Path) -> KillMode:
    """Return what the engaged kill of the whole system asks for; a file that is there and cannot be read counts as
    FLATTEN."""
    return Kills(kill for kill in engaged_kills(path) if kill.scope.is_system).mode


def engaged_kills(path: Path) -> Kills:
    """Return the kills that are engaged, by the file of the whole system at `path` and those of other scopes."""
    try:
        records = read_kills(path)
    except OSError:
        return Kills((EngagedKill("", KillScope(), KillMode.FLATTEN),))
    return Kills(EngagedKill(record.kill_id, KillScope.parse(record.scope), record.mode) for record in records)


def read_kills(path: Path) -> list[KillRecord]:
    """Return the kills of all scopes that are engaged now, the newest first. Errors: as of `read_kill`."""
    found = [record for one in (path, *scope_files(path)) if (record := read_kill(one)) is not None]
    return sorted(found, key=lambda record: record.engaged_ns, reverse=True)


def scope_files(path: Path) -> list[Path]:
    """Return the files of other scopes than the whole system, beside its file at `path`. Errors: OSError."""
    try:
        with os.scandir(path.with_name(_SCOPES)) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.name.endswith(".jsonl"))
    except FileNotFoundError:
        return []


def scope_file(path: Path, scope: KillScope) -> Path:
    """Return the file of a scope, where that of the whole system is at `path`."""
    name = quote(str(scope), safe="")
    if len(name) > _NAME_MAX:  # no file system takes it
        name = f"{name[:100]}.{sha256(name.encode()).hexdigest()}"
    return path if scope.is_system else path.with_name(_SCOPES) / f"{name}.jsonl"


def scope_of_file(path: Path, file: Path) -> KillScope:
    """Return the scope of a file of `scope_files`: by its last kill, where its name is too long to have it. Errors:
    OSError."""
    record = last_kill(file)
    scope = KillScope() if record is None else KillScope.parse(record.scope)
    return scope if scope_file(path, scope) == file else KillScope.parse(unquote(file.stem))


def last_kill(path: Path) -> KillRecord | None:
    """Return the latest kill, engaged or released, or None."""
    return _last(path, read_lines(path))


def _last(path: Path, lines: Iterable[Mapping[str, Any]]) -> KillRecord | None:
    """Return the latest kill in the lines of a file. One in the file of the whole system is of the whole system: an
    earlier version wrote it there whatever its row said."""
    record = fold(lines)
    return record if record is None or path.parent.name == _SCOPES else replace(record, scope=str(KillScope()))


def fold(lines: Iterable[Mapping[str, Any]]) -> KillRecord | None:
    """Return the latest kill in `lines`. Lines of unknown acts, or of no kill, are passed over."""
    record: KillRecord | None = None
    for line in lines:
        act = line.get("act")
        if act == "engaged":
            asked = _asked_of(line)
            record = KillRecord(
                str(line["kill_id"]),
                asked.scope,
                asked.reason,
                asked.by,
                asked.at_ns,
                asked.flatten,
                flatten_ns=asked.at_ns,
            )
        elif record is not None and line.get("kill_id") == record.kill_id:
            record = _apply(record, str(act), line)
    return record


def _apply(record: KillRecord, act: str, line: Mapping[str, Any]) -> KillRecord:
    if act == "joined":
        asked = _asked_of(line)
        record = replace(record, joined=asked)
        return _flattening(record, asked.at_ns) if asked.flatten and not record.flatten else record
    if act == "flatten_wanted":
        return _flattening(record, to_ns(datetime.fromisoformat(line["at"])))
    if act == "cancelled":
        return replace(record, cancelled=record.cancelled + (line.get("outcome") == "ack"))
    if act == "sending":
        return replace(record, orders=(*record.orders, KillOrder(_order_of(line))), is_done=False)
    if act == "stop":
        return replace(record, stops=(*record.stops, _order_of(line)))
    if act == "outcome":
        return replace(record, orders=_with_outcome(record.orders, line))
    if act == "reopened":
        return replace(record, is_done=False)
    if act == "done":
        return replace(record, is_done=True, report=line.get("report") or {})
    if act == "released":
        at = to_ns(datetime.fromisoformat(line["at"]))
        return replace(record, is_engaged=False, released_by=str(line["by"]), released_ns=at)
    return record


def _flattening(record: KillRecord, at_ns: int) -> KillRecord:
    return replace(record, flatten=True, is_done=False, flatten_ns=at_ns)


def _asked_of(line: Mapping[str, Any]) -> Asked:
    return Asked(
        scope=str(line.get("scope") or KillScope()),
        reason=str(line["reason"]),
        by=str(line["by"]),
        flatten=bool(line["flatten"]),
        at_ns=to_ns(datetime.fromisoformat(line["at"])),
    )


def _fields(asked: Asked) -> dict[str, Any]:
    return {"scope": asked.scope, "reason": asked.reason, "by": asked.by, "flatten": asked.flatten}


def _with_outcome(orders: tuple[KillOrder, ...], line: Mapping[str, Any]) -> tuple[KillOrder, ...]:
    """Return `orders` with what became of one. It is among the last: a kill may have thousands."""
    for place in reversed(range(len(orders))):
        item = orders[place]
        if item.order.client_order_id == line.get("client_order_id"):
            after = replace(
                item,
                outcome=str(line["outcome"]),
                filled=Decimal(line.get("filled") or "0"),
                venue_order_id=line.get("venue_order_id") or item.venue_order_id,
                code=line.get("code"),
                detail=str(line.get("detail") or ""),
            )
            return (*orders[:place], after, *orders[place + 1 :])
    return orders


def order_from(fields: Mapping[str, Any], at_ns: int) -> Order:
    """Return an order of the kill by its fields, as a line of the file or a row of the table has them: numbers may be
    text; without a role, a flattening order at the market."""
    price, stop_price = fields.get("price"), fields.get("stop_price")
    return Order(
        client_order_id=str(fields["client_order_id"]),
        intent_id=uuid.UUID(str(fields["intent_id"])),
        signal_id=None,
        account_id=int(fields["account_id"]),
        venue=str(fields["venue"]),
        exchange=str(fields["exchange"]),
        symbol=str(fields["symbol"]),
        instance=str(fields["instance"]),
        role=Role(fields.get("role", Role.KILL)),
        attempt=int(fields["attempt"]),
        side=Side(fields["side"]),
        type=OrderType(fields.get("type", OrderType.MARKET)),
        time_in_force=TimeInForce.GTC,
        quantity=Decimal(fields["quantity"]),
        price=None if price is None else Decimal(price),
        stop_price=None if stop_price is None else Decimal(stop_price),
        parent_id=fields.get("parent_id"),
        state=State.SENDING,
        is_reduce_only=True,
        created_ns=at_ns,
        sent_ns=at_ns,
    )


def _order_of(line: Mapping[str, Any]) -> Order:
    return order_from({**line, "attempt": line["generation"]}, to_ns(datetime.fromisoformat(line["at"])))


def _order_fields(order: Order) -> dict[str, Any]:
    """Return what `_order_of` reads. Of a market order of the kill no more than earlier versions wrote."""
    fields = {
        "client_order_id": order.client_order_id,
        "intent_id": str(order.intent_id),
        "account_id": order.account_id,
        "venue": order.venue,
        "exchange": order.exchange,
        "symbol": order.symbol,
        "instance": order.instance,
        "generation": order.attempt,
        "side": order.side.value,
        "quantity": format(order.quantity, "f"),
    }
    if order.role is Role.KILL:
        return fields
    more = {"role": order.role.value, "type": order.type.value, "parent_id": order.parent_id}
    prices = {"price": order.price, "stop_price": order.stop_price}
    return fields | more | {name: format(price, "f") for name, price in prices.items() if price is not None}


def _earlier(lines: Iterable[Mapping[str, Any]]) -> dict[str, Order]:
    """Return the flattening orders of all kills but the last, by client order id. A line that cannot be read is passed
    over: it must not keep the switch from its work."""
    found: dict[str, Order] = {}
    last: dict[str, Order] = {}
    for line in lines:
        if line.get("act") == "engaged":
            found, last = found | last, {}
        elif line.get("act") == "sending":
            with contextlib.suppress(KeyError, ValueError, TypeError, ArithmeticError):
                order = _order_of(line)
                last[order.client_order_id] = order
    return found


class KillJournal:
    """The one writer of the file. Every method returns after the line is on disk.

    A file that cannot be written (disk full, read-only) stops no kill: the act counts in memory, `error` says so, and
    the line is written with the next one or by `flush`.
    `lock` comes first: two guardians never share a file.
    """

    def __init__(self, path: Path, reserve: Path | None = None) -> None:
        """`reserve`: a file that takes space for the case that the disk is full (`Paths.reserve_file`)."""
        self.path = path
        self.record: KillRecord | None = None
        self.earlier: dict[str, Order] = {}  # flattening orders of the kills before it, by client order id
        self._file = JournalFile(path, reserve)
        self._ids: frozenset[str] = frozenset()
        self._read()

    @property
    def error(self) -> str | None:
        """Return why the file could not be read or written, or None."""
        return self._file.error

    def _read(self) -> None:
        try:
            lines = read_lines(self.path)
        except OSError as error:
            self._file.error = f"{self.path}: {error.strerror or error}"
            return
        self.record = _last(self.path, lines)
        self.earlier = _earlier(lines)
        self._ids = frozenset(str(line.get("kill_id")) for line in lines)

    def lock(self) -> bool:
        """Be the only guardian of this file until `close`, or the process's end, and read it again; False while another
        is. A lock file that cannot be made (disk full, read-only) stops no guardian: `error` says so."""
        was_locked = self._file.is_locked
        if not self._file.lock():
            return False
        if not was_locked and self._file.is_locked:
            self._read()
        return True

    def knows(self, kill_id: str) -> bool:
        """Return whether the file ever held that kill: then it knows better than any table what became of it."""
        return kill_id in self._ids or (self.record is not None and self.record.kill_id == kill_id)

    def engage(self, kill_id: str, asked: Asked) -> KillRecord:
        """Begin a kill."""
        if not self.path.parent.exists():
            with contextlib.suppress(OSError):  # the file says so itself
                self.path.parent.mkdir(parents=True)
                sync_folder(self.path.parent.parent)
        if self.record is not None:
            self.earlier |= {item.order.client_order_id: item.order for item in self.record.orders}
        return self._note(kill_id, asked.at_ns, "engaged", **_fields(asked))

    def join(self, asked: Asked) -> KillRecord:
        """Note a kill that was asked for while one was engaged: it outlives a release that a person made before."""
        return self._note(self._id, asked.at_ns, "joined", **_fields(asked))

    def want_flatten(self, *, by: str, now_ns: int) -> KillRecord:
        """Ask for flattening in a kill that began without: that was asked for at another guardian."""
        return self._note(self._id, now_ns, "flatten_wanted", by=by)

    def cancelled(
        self, *, venue: str, symbol: str, client_order_id: str, outcome: str, detail: str, now_ns: int
    ) -> KillRecord:
        """Note what the venue said to one cancel."""
        return self._note(
            self._id,
            now_ns,
            "cancelled",
            venue=venue,
            symbol=symbol,
            client_order_id=client_order_id,
            outcome=outcome,
            detail=detail,
        )

    def sending(self, order: Order, *, now_ns: int) -> KillRecord:
        """Promise a flattening order, or a stop placed again; its bytes may leave once this returned."""
        return self._note(self._id, now_ns, "sending", **_order_fields(order))

    def stop(self, order: Order, *, now_ns: int) -> KillRecord:
        """Note a stop loss that is about to be cancelled."""
        return self._note(self._id, now_ns, "stop", **_order_fields(order))

    def outcome(
        self,
        client_order_id: str,
        outcome: str,
        *,
        now_ns: int,
        filled: Decimal = Decimal(0),
        venue_order_id: str | None = None,
        code: str | None = None,
        detail: str = "",
    ) -> KillRecord:
        """Note what became of a flattening order."""
        return self._note(
            self._id,
            now_ns,
            "outcome",
            client_order_id=client_order_id,
            outcome=outcome,
            filled=format(filled, "f"),
            venue_order_id=venue_order_id,
            code=code,
            detail=detail,
        )

    def asked(self, bridge: str, kind: str, about: str, *, now_ns: int) -> KillRecord:
        """Promise a request to a NinjaTrader bridge; its bytes may leave once this returned."""
        return self._note(self._id, now_ns, "asked", venue=bridge, kind=kind, about=about)

    def answered(self, bridge: str, kind: str, about: str, outcome: str, detail: str, *, now_ns: int) -> KillRecord:
        """Note what a NinjaTrader bridge answered: `ok`, `refused`, or `unknown` without an answer."""
        return self._note(
            self._id, now_ns, "answered", venue=bridge, kind=kind, about=about, outcome=outcome, detail=detail
        )

    def done(self, report: Mapping[str, Any], *, now_ns: int) -> KillRecord:
        """Note that nothing is left to do. The kill stays engaged."""
        return self._note(self._id, now_ns, "done", report=dict(report))

    def reopen(self, why: str, *, now_ns: int) -> KillRecord:
        """Note that something is left to do after all."""
        return self._note(self._id, now_ns, "reopened", why=why)

    def release(self, *, by: str, now_ns: int) -> KillRecord:
        """End the kill."""
        return self._note(self._id, now_ns, "released", by=by)

    def close(self) -> None:
        """Let go of the file and the lock."""
        self._file.close()

    def flush(self) -> None:
        """Write the lines that could not be written when they were made: a kill must be in the file before this process
        may die."""
        self._file.flush()

    @property
    def _id(self) -> str:
        assert self.record is not None, "acts belong to a kill that was engaged"
        return self.record.kill_id

    def _note(self, kill_id: str, now_ns: int, act: str, **fields: Any) -> KillRecord:
        line = {"kill_id": kill_id, "at": iso(to_ns(to_datetime(now_ns))), "act": act, **fields}
        record = fold([line]) if act == "engaged" else (_apply(self.record, act, line) if self.record else None)
        assert record is not None
        self.record = record
        self._file.append(line)
        return record
