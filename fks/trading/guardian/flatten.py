"""Closing our positions at one venue: every order is journaled in the kill's file before its bytes leave.

They take the submit protocol of every order (`fks.trading.orders.submit`), with the file as its journal. An order's id
follows from the kill, the position and the attempt, so that a restarted guardian computes the same. The next attempt is
made only when every earlier one is proven ended, refused or absent (C5): no position is closed twice. An id that the
file does not know may still have been sent, by a predecessor on another machine or by one whose file was full: the
venue is asked about it first.

A kill never gives up: after an order that closed nothing the next one follows, at growing waits up to `retry_max_s`. In
between the position has the stops again that the kill had cancelled, in the same way: journaled, then sent once. They
end for the next order. It has them, too, while the venue lacks the coins or the answers that a close needs.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal

from fks.model import ids
from fks.model.account import Balance
from fks.model.backoff import Backoff
from fks.model.errors import OutageError
from fks.model.instrument import Instrument
from fks.model.order import TERMINAL, Fill, Order, Role, Side, evolve
from fks.model.timeframe import NS
from fks.trading.guardian.context import GuardianContext
from fks.trading.guardian.journal import ABSENT, ENDED, WORKING, KillJournal, KillOrder, KillRecord, order_from
from fks.trading.guardian.kill_work import at_once
from fks.trading.guardian.orders_at_venue import OrdersAtVenue
from fks.trading.guardian.positions import DatabaseSnapshot, Holder, VenueRules
from fks.trading.guardian.submission import FilePorts
from fks.trading.guardian.timing import Timing
from fks.trading.risk.exits import Books, closable, is_dust, split_at_lot

_UNATTRIBUTED = "an order that was just executed is looked up: whose it is"
_BEING_CLOSED = "an order that may be closing it is asked about"
_SHORT = "the venue shows less of it than our books do: that is waited for"


@dataclass(frozen=True, slots=True)
class KillShare:
    """The share of one kill in the orders and positions at a venue, where others may be engaged beside it.

    `is_all`: every order at the venue is its own, but those of which another kill is known to be in charge. `concerns`:
    whether a holder's orders and position are. `orders`: those that other kills sent.
    """

    is_all: bool = True
    account_id: int | None = None  # of whose session everything is its own, too
    concerns: Callable[[Holder], bool] = lambda _: True
    orders: Callable[[], Collection[Order]] = tuple

    def is_past_start(self, record: KillRecord, now_ns: int, timing: Timing) -> bool:
        """Return whether an order that the snapshot lacks is another's: those beside the kill go on trading, while in
        its scope nothing is entered since it was engaged, and orders on their way then are known by now."""
        return not self.is_all and now_ns - record.engaged_ns > round((timing.settle_s + timing.attribute_s) * NS)


@dataclass(frozen=True, slots=True)
class _History:
    """One symbol's executions as they were read: for which balance, from when on, and until when they are good."""

    total: Decimal
    from_ns: int
    stable_s: float  # the balance has not changed since (monotonic)
    read_s: float
    fills: tuple[Fill, ...]


@dataclass(slots=True)
class _Pause:
    """The wait before the next order for one position, after `vain` orders in a row that closed nothing, or after as
    many waits in a row for the facts that a close needs."""

    vain: int
    due_s: float  # monotonic
    is_protected: bool = False  # its stops were placed again, or were refused


class VenueFlatten:
    """The closing half of a kill at one venue. `remaining` says what is left and why; `why_not` returns the reason why
    this guardian must not act now, and is asked before each send."""

    def __init__(
        self,
        context: GuardianContext,
        orders: OrdersAtVenue,
        journal: KillJournal,
        *,
        save: Callable[[], Awaitable[None]],
        why_not: Callable[[], str],
        share: KillShare | None = None,
    ) -> None:
        self._orders, self._venue = orders, orders.venue
        self._share = share or KillShare()
        self._journal = journal
        self._clock, self._timing = context.clock, context.timing
        self._ports = FilePorts(context, orders, why_not, journal, save)
        self._histories: dict[str, _History] = {}
        self._unknown_since: dict[str, float] = {}  # executed orders that the snapshot lacks -> first seen (monotonic)
        self._closing: set[Holder] = set()  # what an unclear order may be closing, beside other coins of the account
        self._pauses: dict[Holder, _Pause] = {}
        self._blocked: dict[Holder, _Pause] = {}  # positions for whose close coins or answers of the venue are missing
        self._kept: set[Holder] = set()  # of those with stops again that cover no more than is held
        self._prices: dict[str, Decimal | None] = {}  # as read in this round
        self._short: set[str] = set()  # symbols to be bought back
        self._troubles: dict[str, str] = {}  # symbol -> why the venue gave no answer about it in this round
        self._idle_count = 0  # in a row in which the venue's answers were all that was missing
        self.remaining: list[dict[str, str]] = []
        self.stuck: dict[str, str] = {}  # symbols that a person must look at -> why
        self.rest_s = 0.0  # how long there is nothing to do but to wait

    async def step(
        self, snapshot: DatabaseSnapshot, symbols: set[str], unclear: Collection[str] = (), live: Collection[str] = ()
    ) -> bool:
        """Settle earlier flattening orders, send the next ones; return whether all is flat, or dust.

        `symbols`: where orders are, or were, besides those that the snapshot knows. `unclear`: client ids of orders
        whose end is not proven. `live`: of those that the venue listed as open in this round. Errors: OutageError when
        the venue gives no balances; a symbol that it gives no answer about is left for the next round, alone.
        """
        await self._settle()
        balances = await self._venue.balances()
        self._troubles = {}
        positions, unattributed = await self._positions(snapshot, symbols, balances)
        self._closing = self._being_closed(snapshot, unclear, positions, balances)
        positions_here = {
            holder: quantity
            for holder, quantity in positions.items()
            if holder.venue == self._venue.name and quantity and self._share.concerns(holder)
        }
        held = [(holder.symbol, quantity) for holder, quantity in positions_here.items()]
        self._short = {symbol for symbol, quantity in held if quantity < 0}
        await self._read_each(self._read_price, {symbol for symbol, _ in held} - self._troubles.keys())
        left: list[dict[str, str]] = []
        refused: list[Holder] = []
        blocked: set[Holder] = set()
        is_idle = True
        can_do_more = bool(unattributed or self._troubles) or any(not item.is_settled for item in self._mine())
        for holder, quantity in sorted(positions_here.items()):
            if holder.symbol in self._troubles:
                kind, why = "pending", self._troubles[holder.symbol]
            elif holder.symbol in unattributed:
                kind, why = "pending", _UNATTRIBUTED
            elif holder in self._closing:
                kind, why = "pending", _BEING_CLOSED
            else:
                try:
                    kind, why = await self._close(
                        holder, quantity, snapshot.rules_at(holder.venue, holder.symbol), balances
                    )
                    if kind == "refused":
                        why = await self._protect(holder, quantity, {*unclear, *live})
                except OutageError as error:
                    kind, why = "pending", str(error)
                    self._troubles[holder.symbol] = why
            can_do_more = can_do_more or kind in ("pending", "refused")
            if kind == "refused":
                refused.append(holder)
            elif kind == "pending" and (why == _SHORT or holder.symbol in self._troubles):
                blocked.add(holder)
                why += await self._protect_blocked(holder, quantity, {*unclear, *live})
            elif kind == "pending":
                is_idle = False
            left.append(line_of(kind, why, holder=holder, quantity=quantity))
        at_work = {line["symbol"] for line in left}
        left += [
            line_of("pending", why, symbol=symbol, venue=self._venue.name)
            for symbol, why in self._troubles.items()
            if symbol not in at_work
        ]
        self.remaining = left
        self._blocked = {holder: pause for holder, pause in self._blocked.items() if holder in blocked}
        self._kept &= blocked
        waits = [pause for holder in refused if (pause := self._pauses.get(holder)) is not None]
        self.stuck = self._stuck(refused)
        pending = [line for line in left if line["kind"] == "pending"]
        due_s = [pause.due_s - self._clock.monotonic() for pause in waits]
        if pending and is_idle:
            due_s.append(Backoff(self._timing.retry_s, self._timing.retry_max_s).wait_s(self._idle_count))
        self._idle_count = self._idle_count + 1 if pending and is_idle else 0
        self.rest_s = max(min(due_s, default=0.0), 0.0) if is_idle and not unattributed else 0.0
        return not can_do_more

    def _stuck(self, refused: Collection[Holder]) -> dict[str, str]:
        """Return the symbols that a person must look at, and why."""
        late = [holder for holder, pause in self._blocked.items() if pause.vain >= self._timing.vain_page]
        found = {holder.symbol: "the venue lacks coins or answers that the close needs" for holder in late}
        for holder in refused:
            if (pause := self._pauses.get(holder)) is not None and pause.vain >= self._timing.vain_page:
                found[holder.symbol] = f"{pause.vain} orders in a row closed nothing"
        return found

    # ── positions ────────────────────────────────────────────────────────────────────────────────
    async def _positions(
        self, snapshot: DatabaseSnapshot, symbols: set[str], balances: Mapping[str, Balance]
    ) -> tuple[dict[Holder, Decimal], set[str]]:
        """Return positions now (the snapshot, the venue's executions since, and those of our flattening), and the
        symbols in which it is not yet known whose they are."""
        mine = self._mine()
        # without a database, the snapshot may be older than another kill, too: the files have the orders of that
        snapshot = snapshot.with_orders([*self._journal.earlier.values(), *self._share.orders()])
        skip = frozenset(item.order.client_order_id for item in mine)
        fills: list[Fill] = []
        wanted = sorted(symbols | snapshot.symbols(self._venue.name, self._share.concerns))
        since = {symbol: snapshot.history_from_ns(self._venue.name, symbol) for symbol in wanted}

        async def read(symbol: str) -> None:
            fills.extend(
                await self._history(symbol, since[symbol], snapshot.rules_at(self._venue.name, symbol), balances)
            )

        await self._read_each(read, wanted)
        unknown = snapshot.orders_unknown(fills, skip, since)
        record = self._journal.record
        if record is not None and self._share.is_past_start(record, self._clock.now_ns(), self._timing):
            fills, unknown = [fill for fill in fills if fill.client_order_id not in unknown], {}
        positions = snapshot.with_fills(fills, skip, since)
        unattributed = self._unattributed(unknown)
        for item in mine:
            known = snapshot.orders.get(item.order.client_order_id)
            unbooked = item.filled - (known.filled if known else Decimal(0))
            if unbooked > 0:
                holder = Holder.of(item.order)
                positions[holder] = positions.get(holder, Decimal(0)) + item.order.side.sign * unbooked
        return positions, unattributed

    async def _read_each(self, read: Callable[[str], Awaitable[None]], symbols: Iterable[str]) -> None:
        """Read something of each symbol at once, and note those that the venue gives no answer about."""

        async def read_one(symbol: str) -> None:
            try:
                await read(symbol)
            except OutageError as error:
                self._troubles[symbol] = str(error)

        await at_once(read_one, symbols)

    async def _read_price(self, symbol: str) -> None:
        """Read a price. What is held is sold without one; the size of a purchase follows from it."""
        try:
            self._prices[symbol] = await self._venue.last_price(symbol)
        except OutageError:
            if symbol in self._short:
                raise
            self._prices[symbol] = None

    def _unattributed(self, unknown: Mapping[str, str]) -> set[str]:
        """Return the symbols of executed orders that are younger than the snapshot. The next one names their holder,
        unless the database is away: then it is guessed after `attribute_s`. Closed under a wrong holder, one would be
        left with less than nothing and another with the sold quantity."""
        now = self._clock.monotonic()
        self._unknown_since = {id: self._unknown_since.get(id, now) for id in unknown}
        return {unknown[id] for id, since_s in self._unknown_since.items() if now - since_s < self._timing.attribute_s}

    def _being_closed(
        self,
        snapshot: DatabaseSnapshot,
        unclear: Collection[str],
        positions: Mapping[Holder, Decimal],
        balances: Mapping[str, Balance],
    ) -> set[Holder]:
        """Return the holders of which an unclear order may be closing the position (an exit on its way as the kill
        began), where the account has more of the asset than all of us, or may go short.

        Closed beside it, the same position would be sold twice: they wait until the end of that order is proven. What
        was more once may be gone by that order. Elsewhere the venue has nothing to sell twice.
        """
        orders = [known for id in unclear if (known := snapshot.orders.get(id)) is not None]
        holders = {known.holder for known in orders if known.role != Role.ENTRY.value}
        return {
            holder
            for holder in holders
            if holder in self._closing
            or self._has_more(snapshot.rules_at(holder.venue, holder.symbol), snapshot, positions, balances)
        }

    def _has_more(
        self,
        rules: VenueRules | None,
        snapshot: DatabaseSnapshot,
        positions: Mapping[Holder, Decimal],
        balances: Mapping[str, Balance],
    ) -> bool:
        if rules is None or self._venue.capabilities.can_short:
            return True
        ours = sum(
            quantity
            for holder, quantity in positions.items()
            if holder.venue == self._venue.name
            and (of := snapshot.rules_at(holder.venue, holder.symbol)) is not None
            and of.base == rules.base
        )
        held = balances.get(rules.base)
        return held is not None and held.total > ours and not is_dust(held.total - ours, None, rules.instrument(""))

    async def _history(
        self, symbol: str, from_ns: int, rules: VenueRules | None, balances: Mapping[str, Balance]
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
        self, holder: Holder, quantity: Decimal, rules: VenueRules | None, balances: dict[str, Balance]
    ) -> tuple[str, str]:
        """Send one order against a position when it may be sent; return why it is not flat yet: `pending` (more will
        be done), `refused` (the next order follows after a wait), `dust` (too small to sell) or `stuck` (there is
        nothing to sell), and the words for it."""
        before = self._of(holder, Role.KILL)
        if any(not item.is_settled for item in before):
            return "pending", "a flattening order is not settled yet"
        if rules is None:
            return "pending", "the venue's rules for this symbol are not known"
        if self._paused(holder) is not None:
            return "refused", ""
        side = Side.SELL if quantity > 0 else Side.BUY
        if side is Side.BUY and not self._venue.capabilities.can_short:
            return "stuck", "our books show less than nothing; there is nothing to sell, and a kill buys nothing here"
        price, instrument = self._prices[holder.symbol], rules.instrument(holder.symbol)
        size, is_locked = _size(abs(quantity), side, instrument, balances, price)
        if not self._share.is_all:  # what others' orders hold back is not waited for
            is_locked &= bool(self._orders.open_ids or self._orders.unresolved or self._stops(holder))
        is_too_small = is_dust(size, price, instrument)
        if is_too_small and not is_locked:
            if not is_dust(_first_part(abs(quantity), instrument), price, instrument):
                return "pending", _SHORT
            return "dust", "less than the venue's smallest order"
        if self._stops(holder):
            return "pending", "its stop is being cancelled"
        if is_too_small:
            return "pending", "the balance is still held by orders being cancelled"
        order = self._order(holder, rules, side, size, attempt=len(before))
        if not (await self._ports.submit(order)).answers:
            return "pending", "not sent: an order under this id is asked about, or another guardian acts"
        if self._paused(holder) is not None:
            return "refused", ""
        if side is Side.SELL and rules.base in balances:
            held = balances[rules.base]
            balances[rules.base] = Balance(held.currency, held.free - size, held.locked)
        return "pending", "a flattening order was sent"

    def _paused(self, holder: Holder) -> _Pause | None:
        """Return the wait that a position is in after orders that closed nothing; None when the next one may go."""
        before, now = self._of(holder, Role.KILL), self._clock.monotonic()
        vain = _in_vain(before)
        pause = self._pauses.get(holder)
        if not vain:
            self._pauses.pop(holder, None)
            return None
        if pause is None or pause.vain != vain:
            # the proof that an order is absent has taken long enough
            is_absent = before[-1].outcome == ABSENT
            wait_s = 0.0 if is_absent else Backoff(self._timing.retry_s, self._timing.retry_max_s).wait_s(vain)
            pause = self._pauses[holder] = _Pause(vain, now + wait_s)
        return pause if now < pause.due_s else None

    # ── its stops, while it cannot be closed ─────────────────────────────────────────────────────
    def keeps(self, client_order_id: str) -> bool:
        """Return whether an open order is a stop that was placed again, until the next order for its position."""
        item = next((i for i in self._mine() if i.order.client_order_id == client_order_id), None)
        if item is None or item.order.role is not Role.STOP_LOSS:
            return False
        holder = Holder.of(item.order)
        return holder in self._kept or self._paused(holder) is not None

    async def _protect(self, holder: Holder, quantity: Decimal, live: Collection[str]) -> str:
        """Place the stops again that the kill cancelled, once in each wait; return where the position is, in words."""
        pause = self._pauses[holder]
        if not pause.is_protected:
            await self._place_stops(holder, quantity, live)
            pause.is_protected = True
        covered, last = self._stops(holder), self._of(holder, Role.KILL)[-1]
        if covered > abs(quantity):
            pause.due_s = self._clock.monotonic()  # more than is held: they end now
        wait_s = max(pause.due_s - self._clock.monotonic(), 0.0)
        return (
            f"{pause.vain} orders in a row closed nothing, the last: {last.code or last.outcome}; the next one goes in "
            f"{wait_s:.0f} s, until then {format(covered, 'f') if covered else 'nothing'} has a stop"
        )

    async def _protect_blocked(self, holder: Holder, quantity: Decimal, live: Collection[str]) -> str:
        """Place the stops again, once in each wait, while coins or answers of the venue are missing for the close;
        return how much has a stop, in words. None is placed beside an order that may be closing the position."""
        now, pause = self._clock.monotonic(), self._blocked.get(holder)
        if pause is None or now >= pause.due_s:
            vain = 1 if pause is None else pause.vain + 1
            wait_s = Backoff(self._timing.retry_s, self._timing.retry_max_s).wait_s(vain)
            pause = self._blocked[holder] = _Pause(vain, now + wait_s)
        is_alone = holder not in self._closing and all(item.is_settled for item in self._of(holder, Role.KILL))
        if is_alone and not pause.is_protected:
            with contextlib.suppress(OutageError):  # whether an id is free is asked again in the next round
                await self._place_stops(holder, quantity, live)
                pause.is_protected = True
        covered = self._stops(holder)
        if is_alone and covered <= abs(quantity):
            self._kept.add(holder)
        else:  # they end now; those that cover more than is held are placed again after that
            self._kept.discard(holder)
            pause.is_protected = False
        return f"; until then {format(covered, 'f') if covered else 'nothing'} has a stop"

    def _stops(self, holder: Holder) -> Decimal:
        """Return how much of a position the stops cover that were placed again."""
        stops = [item for item in self._of(holder, Role.STOP_LOSS) if not item.is_settled]
        return sum((item.order.quantity - item.filled for item in stops), Decimal(0))

    async def _place_stops(self, holder: Holder, quantity: Decimal, live: Collection[str]) -> None:
        """Place the stops again over what is held, the nearest first. One of them that is still `live` counts.

        This is no difference between wants and legs (`fks.trading.orders.protection.diff`): the kill ended these
        orders, their entries may not be known, and only what the file has of them is placed, all of it or what is held.
        """
        record, left = self._journal.record, abs(quantity) - self._stops(holder)
        assert record is not None
        side = Side.SELL if quantity > 0 else Side.BUY
        stops = [stop for stop in record.stops if Holder.of(stop) == holder and stop.side is side]
        for stop in sorted(stops, key=lambda stop: stop.stop_price or 0, reverse=side is Side.SELL):
            size = min(stop.quantity, left)
            left -= max(size, Decimal(0))
            if size > 0 and stop.client_order_id not in live:
                intent, now = self._intent(holder), self._clock.now_ns()
                attempt = len(self._of(holder, Role.STOP_LOSS))
                id = ids.client_order_id(intent, Role.STOP_LOSS.value, attempt)
                new = {"client_order_id": id, "intent_id": intent, "attempt": attempt, "quantity": size}
                await self._ports.submit(evolve(stop, **new, created_ns=now, sent_ns=now))

    def _intent(self, holder: Holder) -> uuid.UUID:
        assert self._journal.record is not None
        return holder.kill_intent(self._journal.record.kill_id)

    def _order(self, holder: Holder, rules: VenueRules, side: Side, size: Decimal, *, attempt: int) -> Order:
        intent = self._intent(holder)
        fields = {
            "client_order_id": ids.client_order_id(intent, Role.KILL.value, attempt),
            "intent_id": intent,
            "exchange": rules.exchange,
            "attempt": attempt,
            "side": side,
            "quantity": size,
        }
        return order_from(fields | asdict(holder), self._clock.now_ns())

    async def _settle(self) -> None:
        """Ask about every flattening order whose end is not known."""
        await at_once(self._settle_one, [item for item in self._mine() if not item.is_settled])

    async def _settle_one(self, item: KillOrder) -> None:
        id, symbol, role = item.order.client_order_id, item.order.symbol, item.order.role
        is_working, sent_ns = item.outcome == WORKING, item.order.sent_ns
        order = self._orders.about(id, symbol, role=role, sent_ns=sent_ns, is_acknowledged=is_working)
        report = await self._orders.ask(order)
        if report is not None:
            outcome = ENDED if report.state in TERMINAL else WORKING
            if (item.outcome, item.filled) != (outcome, report.filled):
                self._ports.note_report(item.order, report)
        elif order.is_ended:
            self._journal.outcome(id, ABSENT, now_ns=self._clock.now_ns(), detail="not found often and long enough")

    def _mine(self) -> list[KillOrder]:
        record = self._journal.record
        return [item for item in record.orders if item.order.venue == self._venue.name] if record else []

    def _of(self, holder: Holder, role: Role) -> list[KillOrder]:
        return [item for item in self._mine() if item.order.role is role and Holder.of(item.order) == holder]


def _in_vain(before: list[KillOrder]) -> int:
    """Return how many of the last orders in a row closed nothing."""
    count = 0
    for item in reversed(before):
        if item.filled > 0 or not item.is_settled:
            break
        count += 1
    return count


def _size(
    wanted: Decimal, side: Side, instrument: Instrument, balances: Mapping[str, Balance], price: Decimal | None
) -> tuple[Decimal, bool]:
    """Return how much the next order may close, and whether orders hold the rest back.

    It is on the market lot's grid, at most the free balance, and the first of as few equal parts as the market lot
    allows: the others follow once it has ended.
    """
    held = balances.get(instrument.base if side is Side.SELL else instrument.quote)
    free = held.free if held is not None else Decimal(0)
    is_locked = held is not None and held.locked > 0
    if side is Side.BUY:
        # a buy back is priced by guess: a hair less, so that the fee and a move do not make it bounce
        free = free / price * Decimal("0.995") if price else Decimal(0)
    size = _first_part(closable(Books({"": -side.sign * wanted}), side, "", at_venue=free), instrument)
    return size, is_locked and size < _first_part(wanted, instrument)


def _first_part(quantity: Decimal, instrument: Instrument) -> Decimal:
    return next(iter(split_at_lot(quantity, instrument)), Decimal(0))


def line_of(
    kind: str,
    why: str,
    *,
    holder: Holder | None = None,
    quantity: Decimal | None = None,
    symbol: str = "",
    venue: str = "",
) -> dict[str, str]:
    """Return what is left, for people and programs. `kind`: pending, refused, dust, stuck, in_doubt or
    elsewhere."""
    return {
        "kind": kind,
        "venue": holder.venue if holder else venue,
        "symbol": holder.symbol if holder else symbol,
        "instance": holder.instance if holder else "",
        "quantity": "" if quantity is None else format(quantity, "f"),
        "why": why,
    }
