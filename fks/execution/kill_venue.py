"""A kill at one venue: cancel what is open, close what is ours, again and again until nothing is left or may be done.

Each round reads the venue anew (open orders, balances, executions) and acts on the difference, so a restart, a lost
answer or an order that arrives late changes nothing but the number of rounds. A flattening order is journaled before
its bytes leave, under an id that follows from the kill, the position and a generation; the next generation is made only
when every earlier one is proven ended, refused or absent (C5), so no position is closed twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from fks.clock import Clock
from fks.config.settings import Venue as VenueSettings
from fks.execution.kill_journal import ABSENT, ENDED, REFUSED, UNKNOWN, WORKING, KillJournal, KillOrder, flatten_id
from fks.execution.kill_positions import LOOKBACK_S, Holder, Rules, Snapshot
from fks.model import ids
from fks.model.account import Balance
from fks.model.errors import OutageError
from fks.model.order import (
    TERMINAL,
    Order,
    OrderType,
    Outcome,
    Presence,
    Report,
    Role,
    Side,
    State,
    TimeInForce,
)
from fks.model.ports import Log, Venue
from fks.model.timeframe import NS

_AT_ONCE = 10  # cancels under way together


@dataclass(frozen=True, slots=True)
class Timing:
    """The guardian's waits, in seconds. `settle_s`: how long all must stay quiet before a kill counts as done (an
    order that was on its way when the switch fell shows up in that time); `absent_*`: C5."""

    refresh_s: float = 1.0
    database_s: float = 2.0
    save_s: float = 0.3
    skew_s: float = 30.0
    reply_s: float = 10.0
    round_s: float = 0.25
    round_max_s: float = 3.0
    settle_s: float = 6.0
    attempts_max: int = 10
    absent_polls: int = 3
    absent_spacing_s: float = 2.0
    absent_first_s: float = 5.0
    absent_age_s: float = 30.0

    @staticmethod
    def of(settings: VenueSettings) -> Timing:
        """Return the waits that follow from the venue's settings."""
        return Timing(
            settle_s=settings.order_timeout_s + 1.0, absent_polls=settings.absent_polls,
            absent_spacing_s=settings.absent_spacing_s, absent_first_s=settings.absent_first_s,
            absent_age_s=settings.absent_age_s,
        )  # fmt: skip


class VenueKill:
    """The work of one kill at one venue. `run` ends when it is done; `state` and `remaining` always say where it is."""

    def __init__(
        self, venue: Venue, journal: KillJournal, look: Callable[[], Snapshot | None], *,
        save: Callable[[], Awaitable[None]], clock: Clock, log: Log, timing: Timing,
    ) -> None:  # fmt: skip
        self._venue = venue
        self._journal = journal
        self._look = look
        self._save = save
        self._clock = clock
        self._log = log
        self._timing = timing
        self._told: dict[str, str] = {}  # cancels: client id -> last outcome journaled
        self._missing: dict[str, list[float]] = {}  # flattening orders: monotonic times of "not found" that count
        self.state = "working"
        self.detail = ""
        self.remaining: list[dict[str, str]] = []
        self.quiet = asyncio.Event()  # set once the first round found nothing left to do

    async def run(self) -> None:
        """Work until the venue has stayed quiet for `settle_s`. A venue that is away is tried again for as long as it takes."""
        quiet_since: float | None = None
        wait = self._timing.round_s
        while True:
            try:
                is_quiet = await self._round()
                wait = self._timing.round_s if is_quiet else min(wait * 1.3, self._timing.round_max_s)
            except OutageError as error:
                is_quiet, wait = False, min(wait * 2, self._timing.round_max_s)
                self.state, self.detail = "unreachable", str(error)
            except Exception as error:  # the last line of defence does not die of a surprise: it says so and goes on
                is_quiet, wait = False, min(wait * 2, self._timing.round_max_s)
                self.state, self.detail = "failed", f"{type(error).__name__}: {error}"
                self._log.error("kill.round_failed", venue=self._venue.name, error=self.detail)
            now = self._clock.monotonic()
            if is_quiet:
                quiet_since = now if quiet_since is None else quiet_since
                self.quiet.set()
                if now - quiet_since >= self._timing.settle_s:
                    return
            else:
                quiet_since = None
            await self._clock.sleep(wait)

    async def _round(self) -> bool:
        """Do what can be done now; return whether nothing is left that could be."""
        record = self._journal.record
        assert record is not None
        reports = [report for report in await self._venue.open_orders() if record.flatten or not self._protects(report)]
        await self._cancel(reports)
        if not record.flatten:
            self.remaining, self.state, self.detail = [], "working" if reports else "cancelled", ""
            return not reports
        is_flat = await self._flatten({report.symbol for report in reports})
        self.state = "flat" if is_flat and not reports else "working"
        return is_flat and not reports

    def _protects(self, report: Report) -> bool:
        """Return whether an order is a position's SL or TP: what is kept keeps its protection."""
        snapshot = self._look()
        known = None if snapshot is None else snapshot.orders.get(report.client_order_id)
        return known is not None and known.is_protection

    # ── cancelling ───────────────────────────────────────────────────────────────────────────────
    async def _cancel(self, reports: list[Report]) -> None:
        for start in range(0, len(reports), _AT_ONCE):
            await asyncio.gather(*(self._cancel_one(report) for report in reports[start : start + _AT_ONCE]))

    async def _cancel_one(self, report: Report) -> None:
        answer = await self._venue.cancel(_stub(report, self._venue.name))
        if self._told.get(report.client_order_id) != answer.outcome.value:
            self._told[report.client_order_id] = answer.outcome.value
            self._journal.cancelled(
                venue=self._venue.name, symbol=report.symbol, client_order_id=report.client_order_id,
                outcome=answer.outcome.value, detail=answer.detail, now_ns=self._clock.now_ns(),
            )  # fmt: skip

    # ── flattening ───────────────────────────────────────────────────────────────────────────────
    async def _flatten(self, symbols: set[str]) -> bool:
        """Settle earlier flattening orders, send the next ones; return whether nothing more can be closed."""
        await self._settle()
        snapshot = self._look()
        if snapshot is None:
            self.remaining = [_left("pending", None, None, "our positions are not known: the database was never reached")]
            self.detail = "positions unknown"
            return False
        positions = await self._positions(snapshot, symbols)
        balances = await self._venue.balances()
        left: list[dict[str, str]] = []
        can_do_more = False
        for holder, quantity in sorted(positions.items()):
            if holder.venue == self._venue.name and quantity:
                kind, why = await self._close(holder, quantity, snapshot.rules.get(holder.symbol), balances)
                can_do_more = can_do_more or kind == "pending"
                left.append(_left(kind, holder, quantity, why))
        self.remaining, self.detail = left, ""
        return not can_do_more

    async def _positions(self, snapshot: Snapshot, symbols: set[str]) -> dict[Holder, Decimal]:
        """Return positions now: the snapshot, what the venue executed since, what our flattening did."""
        mine = self._mine()
        skip = frozenset(item.order.client_order_id for item in mine)
        fills = []
        for symbol in sorted(symbols | snapshot.symbols(self._venue.name)):
            fills += await self._venue.fills_since(symbol, snapshot.as_of_ns - int(LOOKBACK_S * NS))
        positions = snapshot.with_fills(fills, skip)
        for item in mine:
            known = snapshot.orders.get(item.order.client_order_id)
            unbooked = item.filled - (known.filled if known else Decimal(0))
            if unbooked > 0:
                holder = _holder(item.order)
                positions[holder] = positions.get(holder, Decimal(0)) + item.order.side.sign * unbooked
        return positions

    async def _close(
        self, holder: Holder, quantity: Decimal, rules: Rules | None, balances: dict[str, Balance]
    ) -> tuple[str, str]:
        """Send one order against a position when it may be sent; return why it is not flat yet: `pending` (more will
        be done), `dust` (too small to sell) or `stuck`, and the words for it."""
        before = [item for item in self._mine() if _holder(item.order) == holder]
        if any(not item.is_settled for item in before):
            return "pending", "a flattening order is not settled yet"
        if rules is None:
            return "stuck", "the venue's rules for this symbol are not known"
        if len(before) >= self._timing.attempts_max:
            return "stuck", f"gave up after {len(before)} orders, the last: {before[-1].code or before[-1].outcome}"
        side = Side.SELL if quantity > 0 else Side.BUY
        if side is Side.BUY and not self._venue.capabilities.can_short:
            return "stuck", "our books show less than nothing; there is nothing to sell, and a kill buys nothing here"
        price = await self._venue.last_price(holder.symbol)
        size, is_locked = _size(abs(quantity), side, rules, balances, price)
        if size < max(rules.qty_min, rules.lot_step) or (price is not None and size * price < rules.notional_min):
            if is_locked:
                return "pending", "the balance is still held by orders being cancelled"
            return "dust", "less than the venue's smallest order, or than its free balance"
        await self._send(holder, rules, side, size, generation=len(before))
        if side is Side.SELL and rules.base in balances:
            held = balances[rules.base]
            balances[rules.base] = Balance(held.currency, held.free - size, held.locked)
        return "pending", "a flattening order was sent"

    async def _send(self, holder: Holder, rules: Rules, side: Side, size: Decimal, *, generation: int) -> None:
        assert self._journal.record is not None
        intent = flatten_id(
            self._journal.record.kill_id, venue=holder.venue, account_id=holder.account_id,
            symbol=holder.symbol, instance=holder.instance,
        )  # fmt: skip
        now = self._clock.now_ns()
        order = Order(
            client_order_id=ids.client_order_id(intent, Role.KILL.value, generation), intent_id=intent, signal_id=None,
            account_id=holder.account_id, venue=holder.venue, exchange=rules.exchange, symbol=holder.symbol,
            instance=holder.instance, role=Role.KILL, generation=generation, side=side, type=OrderType.MARKET,
            time_in_force=TimeInForce.GTC, quantity=size, state=State.SENDING, is_reduce_only=True,
            created_ns=now, sent_ns=now,
        )  # fmt: skip
        self._journal.sending(order, now_ns=now)
        await self._save()
        answer = await self._venue.submit(order)
        if answer.outcome is Outcome.ACK and answer.report is not None:
            self._note_report(order, answer.report)
            return
        outcome = REFUSED if answer.outcome is Outcome.REFUSED else UNKNOWN
        self._journal.outcome(
            order.client_order_id, outcome, now_ns=self._clock.now_ns(), code=answer.code, detail=answer.detail
        )
        self._log.warning(
            "kill.order_" + outcome, client_order_id=order.client_order_id, code=answer.code, detail=answer.detail
        )

    async def _settle(self) -> None:
        """Ask about every flattening order whose end is not known."""
        for item in self._mine():
            if item.is_settled:
                continue
            lookup = await self._venue.query(item.order.symbol, item.order.client_order_id)
            if lookup.presence is Presence.FOUND and lookup.report is not None:
                self._note_report(item.order, lookup.report, before=item)
            elif lookup.presence is Presence.NOT_FOUND and item.outcome != WORKING and self._is_absent(item.order):
                self._journal.outcome(
                    item.order.client_order_id,
                    ABSENT,
                    now_ns=self._clock.now_ns(),
                    detail="not found often and long enough",
                )

    def _is_absent(self, order: Order) -> bool:
        """Count one "not found" and return whether C5 is satisfied. Times are since the journaled send."""
        timing = self._timing
        age_s = (self._clock.now_ns() - (order.sent_ns or 0)) / NS
        polls = self._missing.setdefault(order.client_order_id, [])
        now = self._clock.monotonic()
        if age_s >= timing.absent_first_s and (not polls or now - polls[-1] >= timing.absent_spacing_s):
            polls.append(now)
        return len(polls) >= timing.absent_polls and age_s >= timing.absent_age_s

    def _note_report(self, order: Order, report: Report, before: KillOrder | None = None) -> None:
        outcome = ENDED if report.state in TERMINAL else WORKING
        if before is not None and (before.outcome, before.filled) == (outcome, report.filled):
            return
        self._journal.outcome(
            order.client_order_id, outcome, now_ns=self._clock.now_ns(), filled=report.filled,
            venue_order_id=report.venue_order_id, code=report.code, detail=report.state.value,
        )  # fmt: skip

    def _mine(self) -> list[KillOrder]:
        record = self._journal.record
        return [item for item in record.orders if item.order.venue == self._venue.name] if record else []

    def report(self) -> Mapping[str, Any]:
        """Return where this venue is, for people and programs."""
        return {"name": self._venue.name, "state": self.state, "detail": self.detail}


def _size(
    wanted: Decimal, side: Side, rules: Rules, balances: Mapping[str, Balance], price: Decimal | None
) -> tuple[Decimal, bool]:
    """Return how much may be sent, on the lot grid, capped by the free balance, and whether orders hold the rest back."""
    held = balances.get(rules.base if side is Side.SELL else rules.quote)
    free = held.free if held is not None else Decimal(0)
    is_locked = held is not None and held.locked > 0
    if side is Side.BUY:
        # a buy back is priced by guess: a hair less, so that the fee and a move do not make it bounce
        free = free / price * Decimal("0.995") if price else Decimal(0)
    size = rules.floor(max(min(wanted, free), Decimal(0)))
    return size, is_locked and size < rules.floor(wanted)


def _holder(order: Order) -> Holder:
    return Holder(order.venue, order.account_id, order.symbol, order.instance)


def _left(kind: str, holder: Holder | None, quantity: Decimal | None, why: str) -> dict[str, str]:
    return {
        "kind": kind,
        "venue": holder.venue if holder else "", "symbol": holder.symbol if holder else "",
        "instance": holder.instance if holder else "", "quantity": "" if quantity is None else format(quantity, "f"),
        "why": why,
    }  # fmt: skip


def _stub(report: Report, venue: str) -> Order:
    """Return as much of an order as a cancel needs: it may be anybody's."""
    return Order(
        client_order_id=report.client_order_id, intent_id=ids.NAMESPACE, signal_id=None, account_id=0, venue=venue,
        exchange="", symbol=report.symbol, instance="", role=Role.ORDER, generation=0, side=report.side or Side.SELL,
        type=OrderType.MARKET, time_in_force=TimeInForce.GTC, quantity=report.quantity or Decimal(0),
        venue_order_id=report.venue_order_id,
    )  # fmt: skip
