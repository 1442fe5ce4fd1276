"""Closing our positions at one venue: every order is journaled in the kill's file before its bytes leave.

They take the submit protocol of every order (`fks.orders.submit`), with the file as its journal. An order's id follows
from the kill, the position and the attempt, so that a restarted guardian computes the same. The next attempt is made
only when every earlier one is proven ended, refused or absent (C5): no position is closed twice. An id that the file
does not know may still have been sent, by a predecessor on another machine or by one whose file was full: the venue is
asked about it first.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal

from fks.guardian.context import Context
from fks.guardian.journal import ABSENT, ENDED, WORKING, KillJournal, KillOrder
from fks.guardian.positions import Holder, Rules, Snapshot
from fks.guardian.submission import FilePorts
from fks.model import ids
from fks.model.account import Balance
from fks.model.errors import OutageError
from fks.model.order import TERMINAL, Fill, Order, OrderType, Presence, Role, Side, State, TimeInForce
from fks.model.ports import Venue
from fks.model.timeframe import NS
from fks.orders.absence import Polls, count_not_found, is_absent
from fks.orders.submit import Submission, Submitter
from fks.risk.exits import split_quantity

_UNATTRIBUTED = "an order that was just executed is looked up: whose it is"
_BEING_CLOSED = "an order that may be closing it is asked about"


@dataclass(frozen=True, slots=True)
class _History:
    """One symbol's executions as they were read: for which balance, from when on, and until when they are good."""

    total: Decimal
    from_ns: int
    stable_s: float  # the balance has not changed since (monotonic)
    read_s: float
    fills: tuple[Fill, ...]


class Flatten:
    """The closing half of a kill at one venue. `remaining` says what is left and why; `may_act` is asked before each
    send."""

    def __init__(
        self,
        context: Context,
        venue: Venue,
        journal: KillJournal,
        *,
        save: Callable[[], Awaitable[None]],
        may_act: Callable[[], bool],
    ) -> None:
        self._venue = venue
        self._journal = journal
        self._clock, self._log, self._timing = context.clock, context.log, context.timing
        self._ports = FilePorts(venue, journal, save=save, may_act=may_act, clock=context.clock, log=context.log)
        self._submitter = Submitter(self._ports)
        self._polls: dict[str, Polls] = {}
        self._histories: dict[str, _History] = {}
        self._unknown_since: dict[str, float] = {}  # executed orders that the snapshot lacks -> first seen (monotonic)
        self._unclear_since: dict[Holder, float] = {}  # what an unclear order may be closing -> first seen (monotonic)
        self.remaining: list[dict[str, str]] = []

    async def step(self, snapshot: Snapshot, symbols: set[str], unclear: Collection[str] = ()) -> bool:
        """Settle earlier flattening orders, send the next ones; return whether nothing more can be closed.

        `symbols`: where orders are, or were, besides those that the snapshot knows. `unclear`: client ids of orders
        whose end is not proven. Errors: OutageError.
        """
        closing = self._being_closed(snapshot, unclear)
        await self._settle()
        balances = await self._venue.balances()
        positions, unattributed = await self._positions(snapshot, symbols, balances)
        left: list[dict[str, str]] = []
        can_do_more = bool(unattributed) or any(not item.is_settled for item in self._mine())
        for holder, quantity in sorted(positions.items()):
            if holder.venue != self._venue.name or not quantity:
                continue
            if holder.symbol in unattributed:
                kind, why = "pending", _UNATTRIBUTED
            elif holder in closing:
                kind, why = "pending", _BEING_CLOSED
            else:
                kind, why = await self._close(holder, quantity, snapshot.rules.get(holder.symbol), balances)
            can_do_more = can_do_more or kind == "pending"
            left.append(line_of(kind, why, holder=holder, quantity=quantity))
        self.remaining = left
        return not can_do_more

    # ── positions ────────────────────────────────────────────────────────────────────────────────
    async def _positions(
        self, snapshot: Snapshot, symbols: set[str], balances: Mapping[str, Balance]
    ) -> tuple[dict[Holder, Decimal], set[str]]:
        """Return positions now (the snapshot, what the venue executed since, what our flattening did), and the symbols
        in which it is not yet known whose they are."""
        mine = self._mine()
        # without a database, the snapshot may be older than an earlier kill, too: the file has the orders of that
        snapshot = snapshot.with_orders(self._journal.earlier.values())
        skip = frozenset(item.order.client_order_id for item in mine)
        fills: list[Fill] = []
        since: dict[str, int] = {}
        for symbol in sorted(symbols | snapshot.symbols(self._venue.name)):
            since[symbol] = snapshot.history_from_ns(self._venue.name, symbol)
            fills += await self._history(symbol, since[symbol], snapshot.rules.get(symbol), balances)
        positions = snapshot.with_fills(fills, skip, since)
        unattributed = self._unattributed(snapshot.orders_unknown(fills, skip, since))
        for item in mine:
            known = snapshot.orders.get(item.order.client_order_id)
            unbooked = item.filled - (known.filled if known else Decimal(0))
            if unbooked > 0:
                holder = _holder(item.order)
                positions[holder] = positions.get(holder, Decimal(0)) + item.order.side.sign * unbooked
        return positions, unattributed

    def _unattributed(self, unknown: Mapping[str, str]) -> set[str]:
        """Return the symbols of executed orders that are younger than the snapshot. The next one names their holder,
        unless the database is away: then it is guessed after `attribute_s`. Closed under a wrong holder, one would be
        left with less than nothing and another with what was sold."""
        now = self._clock.monotonic()
        self._unknown_since = {id: self._unknown_since.get(id, now) for id in unknown}
        return {unknown[id] for id, since_s in self._unknown_since.items() if now - since_s < self._timing.attribute_s}

    def _being_closed(self, snapshot: Snapshot, unclear: Collection[str]) -> set[Holder]:
        """Return the holders of which an unclear order may be closing the position: an exit on its way as the kill
        began. Closed beside it, the same position is sold twice where the account has more of it. They are closed once
        the venue says what became of it, or after `settle_s`: no request takes longer."""
        now = self._clock.monotonic()
        orders = [known for id in unclear if (known := snapshot.orders.get(id)) is not None]
        holders = {known.holder for known in orders if known.role != Role.ENTRY.value}
        self._unclear_since = {holder: self._unclear_since.get(holder, now) for holder in holders}
        return {h for h, since_s in self._unclear_since.items() if now - since_s < self._timing.settle_s}

    async def _history(
        self, symbol: str, from_ns: int, rules: Rules | None, balances: Mapping[str, Balance]
    ) -> tuple[Fill, ...]:
        """Return a symbol's executions. They are read again while its balance moves, for `settle_s` after that, and
        every `history_s`: nothing can have been executed otherwise, and one reading costs Binance a weight of 20."""
        now, known = self._clock.monotonic(), self._histories.get(symbol)
        held = balances.get(rules.base) if rules is not None else None
        total = held.total if held is not None else Decimal(0)
        stable_s = known.stable_s if known is not None and known.total == total else now
        if (
            known is not None
            and rules is not None
            and known.from_ns <= from_ns
            and now - stable_s > self._timing.settle_s
            and now - known.read_s < self._timing.history_s
        ):
            return known.fills
        fills = tuple(await self._venue.fills_since(symbol, from_ns))
        self._histories[symbol] = _History(total, from_ns, stable_s, now, fills)
        return fills

    # ── one position ─────────────────────────────────────────────────────────────────────────────
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
        vain = _in_vain(before)
        if vain >= self._timing.attempts_max:
            return (
                "stuck",
                f"gave up after {vain} orders in a row that closed nothing, the last: "
                f"{before[-1].code or before[-1].outcome}",
            )
        side = Side.SELL if quantity > 0 else Side.BUY
        if side is Side.BUY and not self._venue.capabilities.can_short:
            return "stuck", "our books show less than nothing; there is nothing to sell, and a kill buys nothing here"
        price = await self._venue.last_price(holder.symbol)
        size, is_locked = _size(abs(quantity), side, rules, balances, price)
        if size < max(rules.lot.least, rules.lot.step) or (price is not None and size * price < rules.notional_min):
            if is_locked:
                return "pending", "the balance is still held by orders being cancelled"
            return "dust", "less than the venue's smallest order, or than its free balance"
        order = self._order(holder, rules, side, size, attempt=len(before))
        if not await self._submit(order):
            return "pending", "not sent: an order under this id is asked about, or another guardian acts"
        if side is Side.SELL and rules.base in balances:
            held = balances[rules.base]
            balances[rules.base] = Balance(held.currency, held.free - size, held.locked)
        return "pending", "a flattening order was sent"

    def _order(self, holder: Holder, rules: Rules, side: Side, size: Decimal, *, attempt: int) -> Order:
        assert self._journal.record is not None
        intent = ids.flatten_id(
            self._journal.record.kill_id,
            venue=holder.venue,
            account_id=holder.account_id,
            symbol=holder.symbol,
            instance=holder.instance,
        )
        now = self._clock.now_ns()
        return Order(
            client_order_id=ids.client_order_id(intent, Role.KILL.value, attempt),
            intent_id=intent,
            signal_id=None,
            account_id=holder.account_id,
            venue=holder.venue,
            exchange=rules.exchange,
            symbol=holder.symbol,
            instance=holder.instance,
            role=Role.KILL,
            attempt=attempt,
            side=side,
            type=OrderType.MARKET,
            time_in_force=TimeInForce.GTC,
            quantity=size,
            state=State.SENDING,
            is_reduce_only=True,
            created_ns=now,
            sent_ns=now,
        )

    async def _submit(self, order: Order) -> bool:
        """Send a flattening order once, or take up the one that was sent under its id; return whether it was sent now.

        Errors: OutageError when the venue does not say whether the id is free.
        """
        lookup = await self._venue.query(order.symbol, order.client_order_id)
        if lookup.presence is Presence.NO_ANSWER:
            raise OutageError(f"whether {order.client_order_id} was sent before is not known: {lookup.detail}")
        if lookup.presence is Presence.FOUND:
            self._ports.found.add(order.client_order_id)
            self._log.warning("kill.order_found", client_order_id=order.client_order_id)
        return bool((await self._submitter.submit(Submission((order,)))).answers)

    async def _settle(self) -> None:
        """Ask about every flattening order whose end is not known."""
        for item in self._mine():
            if item.is_settled:
                continue
            id = item.order.client_order_id
            lookup = await self._venue.query(item.order.symbol, id)
            if lookup.presence is Presence.FOUND and lookup.report is not None:
                outcome = ENDED if lookup.report.state in TERMINAL else WORKING
                if (item.outcome, item.filled) != (outcome, lookup.report.filled):
                    self._ports.note_report(item.order, lookup.report)
            elif lookup.presence is Presence.NOT_FOUND and item.outcome != WORKING:
                age_s = (self._clock.now_ns() - (item.order.sent_ns or 0)) / NS
                polls = self._polls[id] = count_not_found(self._polls.get(id, Polls()), age_s, self._timing.absence)
                if is_absent(polls, self._timing.absence):
                    self._journal.outcome(
                        id, ABSENT, now_ns=self._clock.now_ns(), detail="not found often and long enough"
                    )

    def _mine(self) -> list[KillOrder]:
        record = self._journal.record
        return [item for item in record.orders if item.order.venue == self._venue.name] if record else []


def _in_vain(before: list[KillOrder]) -> int:
    """Return how many of the last orders in a row closed nothing: a late fill after `done` has all attempts again."""
    count = 0
    for item in reversed(before):
        if item.filled > 0:
            break
        count += 1
    return count


def _size(
    wanted: Decimal, side: Side, rules: Rules, balances: Mapping[str, Balance], price: Decimal | None
) -> tuple[Decimal, bool]:
    """Return how much the next order may close, and whether orders hold the rest back.

    It is on the market lot's grid, at most the free balance, and the first of as few equal parts as the market lot
    allows: the others follow once it has ended.
    """
    held = balances.get(rules.base if side is Side.SELL else rules.quote)
    free = held.free if held is not None else Decimal(0)
    is_locked = held is not None and held.locked > 0
    if side is Side.BUY:
        # a buy back is priced by guess: a hair less, so that the fee and a move do not make it bounce
        free = free / price * Decimal("0.995") if price else Decimal(0)
    size = _first_part(min(wanted, free), rules)
    return size, is_locked and size < _first_part(wanted, rules)


def _first_part(quantity: Decimal, rules: Rules) -> Decimal:
    return next(iter(split_quantity(quantity, rules.lot)), Decimal(0))


def _holder(order: Order) -> Holder:
    return Holder(order.venue, order.account_id, order.symbol, order.instance)


def line_of(
    kind: str,
    why: str,
    *,
    holder: Holder | None = None,
    quantity: Decimal | None = None,
    symbol: str = "",
    venue: str = "",
) -> dict[str, str]:
    """Return what is left, for people and programs. `kind`: pending, dust, stuck, in_doubt or elsewhere."""
    return {
        "kind": kind,
        "venue": holder.venue if holder else venue,
        "symbol": holder.symbol if holder else symbol,
        "instance": holder.instance if holder else "",
        "quantity": "" if quantity is None else format(quantity, "f"),
        "why": why,
    }
