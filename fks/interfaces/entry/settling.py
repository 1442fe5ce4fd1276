"""Settlements by persons, HTTP side: a proposal with its confirmation code, then the confirmed row for the order
manager."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from fks.clock import Clock
from fks.interfaces.entry.order_entry import EntryAnswer, order_body
from fks.model.decimals import plain
from fks.model.errors import InputError, conflict, not_found, unprocessable
from fks.model.order import LIVE, Order, Side, State
from fks.model.timeframe import NS, iso
from fks.store.bus import WAKE, Bus
from fks.store.db import Database
from fks.store.orders import OrderStore
from fks.store.reading import ReadingStore
from fks.store.settlements import ReportedFill, Settlement, SettlementStore

#: How long a confirmation code is valid: long enough to read its effects, too short to be found later in a shell's
#: history.
CODE_S = 300.0
_CODE_ALPHABET = "ACDEFGHJKLMNPQRTUVWXY34679"  # no two that look alike
_WAIT_S, _LOOK_S = 5.0, 0.05
_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class SettleRequest:
    """A person's report on an order. `fills` are executions that are not booked yet (busted: that are)."""

    outcome: str
    reason: str
    fills: tuple[ReportedFill, ...] = ()


class Settling:
    """Proposes and confirms settlements. Holds no state; many may exist."""

    def __init__(self, db: Database, bus: Bus, clock: Clock) -> None:
        self._bus = bus
        self._clock = clock
        self._store = SettlementStore(db)
        self._orders = OrderStore(db)
        self._reading = ReadingStore(db)

    async def propose(self, client_order_id: str, request: SettleRequest, principal: str) -> EntryAnswer:
        """Store the person's report and return the effects of a confirmation, with the code. Nothing happens yet.

        Errors: InputError 404 ORDER_UNKNOWN, 409 ORDER_NOT_UNKNOWN, 422 SETTLE_WRONG.
        """
        order = await self._order(client_order_id)
        fills = _checked(order, request)
        if request.outcome == "busted":
            await self._check_booked(order, fills)
        now_ns = self._clock.now_ns()
        code = "-".join("".join(secrets.choice(_CODE_ALPHABET) for _ in range(4)) for _ in range(2))
        settlement = await self._store.propose(
            order.client_order_id,
            request.outcome,
            fills,
            filled=order.filled,
            by=principal,
            reason=request.reason,
            code=code,
            now_ns=now_ns,
        )
        return EntryAnswer(
            200,
            {
                "confirm": code,
                "expires_at": iso(now_ns + int(CODE_S * NS)),
                "outcome": settlement.outcome,
                "reason": settlement.reason,
                "will": await self._will(order, settlement),
                "fills": [fill.as_json() for fill in fills],
                "order": order_body(order),
            },
        )

    async def confirm(
        self, client_order_id: str, code: str, request: SettleRequest | None, principal: str
    ) -> EntryAnswer:
        """Release a proposal to the order manager, and wait a few seconds: 200 with the order, else 202.

        Repeating it with the same code gives the same answer. Errors: InputError 409 SETTLE_CODE (no such code of this
        person, or its time is over), SETTLE_CHANGED (`request` is not the proposal), SETTLE_REFUSED (the order
        manager could not apply it, with its reason).
        """
        found = await self._store.find(client_order_id, code.strip().upper())
        is_late = (
            found is not None
            and found.confirmed_ns is None
            and (self._clock.now_ns() - found.requested_ns > CODE_S * NS)
        )
        if found is None or found.by != principal or is_late:
            raise conflict(
                "SETTLE_CODE",
                f"{code} confirms nothing of order {client_order_id}{': its time is over' if is_late else ''}",
                "settle again without confirm: the answer has a new code",
            )
        if request is not None and not _is_same(request, found):
            raise conflict(
                "SETTLE_CHANGED",
                "this is not what the code was given for",
                "send the code alone, or settle again without it",
            )
        await self._store.confirm(found.id, self._clock.now_ns())
        await self._bus.publish(WAKE, {"type": "settle", "client_order_id": client_order_id})
        return await self._await_end(found)

    async def _await_end(self, settlement: Settlement) -> EntryAnswer:
        deadline = self._clock.monotonic() + _WAIT_S
        while True:
            now = await self._store.get(settlement.id) or settlement
            if now.error is not None:
                raise conflict(
                    "SETTLE_REFUSED",
                    f"order {now.client_order_id} was not settled: {now.error}",
                    f"see `fks orders show {now.client_order_id}` and settle again if it still is UNKNOWN",
                )
            if now.applied_ns is not None or self._clock.monotonic() > deadline:
                order = await self._order(now.client_order_id)
                state = "confirmed" if now.applied_ns is None else "applied"
                return EntryAnswer(202 if now.applied_ns is None else 200, {"settlement": state, **order_body(order)})
            await self._clock.sleep(_LOOK_S)

    async def _order(self, client_order_id: str) -> Order:
        order = await self._orders.get(client_order_id)
        if order is None:
            raise not_found("ORDER_UNKNOWN", f"unknown order {client_order_id!r}", "see `fks orders list`")
        return order

    async def _check_booked(self, order: Order, fills: Sequence[ReportedFill]) -> None:
        trades = [trade for _, trade in await self._orders.fills(client_order_id=order.client_order_id, limit=1000)]
        known = {trade.fill.venue_trade_id for trade in trades} | {str(trade.fill.fill_id) for trade in trades}
        for fill in fills:
            if fill.venue_trade_id not in known:
                raise _wrong(f"the order has no execution {fill.venue_trade_id}", "see `fks fills`")

    async def _will(self, order: Order, settlement: Settlement) -> str:
        """Return one sentence on the effects of a confirmation."""
        end = {"filled": "FILLED", "cancelled": "CANCELLED", "absent": "ABSENT"}.get(settlement.outcome)
        named = [fill.venue_trade_id for fill in settlement.fills if fill.venue_trade_id]
        if settlement.outcome == "busted":
            return f"take {_list(named)} of order {order.client_order_id} back and move the position back with it"
        texts = [f"end order {order.client_order_id} as {end}"]
        if named:
            texts.append(f"book {_list(named)} as {order.venue} reports it")
        for fill in settlement.fills:
            if fill.quantity is not None:
                texts.append(
                    f"book {order.side.value} {plain(fill.quantity)} {order.symbol} at "
                    f"{plain(fill.price or _ZERO)}, fee {plain(fill.fee)} "
                    f"{fill.fee_currency}".rstrip()
                    + await self._moves(order, fill)
                )
        if not settlement.fills:
            texts.append("book nothing")
        return "; ".join(texts)

    async def _moves(self, order: Order, fill: ReportedFill) -> str:
        assert fill.quantity is not None
        try:
            base = (await self._reading.find(order.symbol, order.exchange)).base
        except InputError:  # no longer listed
            return ""
        taken = fill.fee if fill.fee_currency == base else _ZERO
        return (
            f", which moves the position of {order.instance or 'this account'} by "
            f"{plain(order.side.sign * fill.quantity - taken)}"
        )


def _checked(order: Order, request: SettleRequest) -> tuple[ReportedFill, ...]:
    """Return the executions to book, completed. Errors: InputError."""
    fills = request.fills
    named = [fill for fill in fills if fill.venue_trade_id]
    if request.outcome == "busted":
        if not named or len(named) != len(fills):
            raise _wrong("busted names the executions that the venue took back", "give their trade_ids")
        return fills
    if order.state is not State.UNKNOWN:
        raise conflict(
            "ORDER_NOT_UNKNOWN",
            f"order {order.client_order_id} is {order.state.value}, not UNKNOWN",
            "cancel it" if order.state in LIVE else "there is nothing to settle",
        )
    if request.outcome == "absent":
        if fills or order.filled > 0:
            raise _wrong("an order with executions was not absent", "settle it as cancelled")
        return ()
    left = order.quantity - order.filled
    if request.outcome == "filled" and not fills:
        raise _wrong(f"filled needs the executions of {plain(left)}", "give price and fee, or trade_ids")
    completed = tuple(_completed(order, fill, left) for fill in fills)
    if named:
        return completed
    total = sum((fill.quantity or _ZERO for fill in completed), _ZERO)
    if total > left or (request.outcome == "filled" and total != left):
        raise _wrong(
            f"the executions sum to {plain(total)}, of {plain(left)} left",
            "filled takes all of it, cancelled up to it",
        )
    return completed


def _completed(order: Order, fill: ReportedFill, left: Decimal) -> ReportedFill:
    if fill.venue_trade_id:
        return fill
    if fill.price is None:
        raise _wrong("the price of the execution is missing", "give price and fee, or trade_ids")
    if fill.fee and not fill.fee_currency:
        payer = "the base asset" if order.side is Side.BUY else "the quote asset"
        raise _wrong("the fee has no currency", f"give fee_currency; exchanges take it in {payer} as a rule")
    return ReportedFill("", fill.quantity or left, fill.price, fill.fee, fill.fee_currency)


def _is_same(request: SettleRequest, found: Settlement) -> bool:
    if (request.outcome, request.reason) != (found.outcome, found.reason) or len(request.fills) != len(found.fills):
        return False
    return all(
        (mine.venue_trade_id, mine.price, mine.fee, mine.fee_currency)
        == (its.venue_trade_id, its.price, its.fee, its.fee_currency)
        and mine.quantity in (None, its.quantity)
        for mine, its in zip(request.fills, found.fills, strict=True)
    )


def _list(numbers: Sequence[str]) -> str:
    return f"trade{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"


def _wrong(message: str, remedy: str) -> InputError:
    return unprocessable("SETTLE_WRONG", message, remedy)
