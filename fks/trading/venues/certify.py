"""Certificate of a venue: the cases that need an account alone, at the exchange itself, with its smallest orders.

Only orders that the certificate made are touched. The open orders of a case are cancelled and the quantity that it
bought is sold before the next one begins; if that fails, no further case runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, Protocol

from fks.clock import Clock
from fks.model.account import Environment
from fks.model.errors import OutageError, unprocessable
from fks.model.instrument import Instrument
from fks.model.market import Allowance
from fks.model.order import TERMINAL, Order, OrderType, Outcome, Presence, Report, Side, evolve
from fks.model.ports import ChecksOrders, Priority, Venue
from fks.trading.venues.base import PauseOnly
from fks.trading.venues.conformance import (
    ANYWHERE,
    Case,
    CaseFailed,
    CasePace,
    CaseResult,
    CaseRig,
    RunsCases,
    check,
    run_case,
)
from fks.trading.venues.listing import VenueListing

#: networks where money is not real, for exchanges that have one with an engine of its own. Coinbase's sandbox answers
#: with fixed bodies (docs.cdp.coinbase.com, read 2026-11), and Kraken's spot has none
TEST_NETWORKS = {"binance": "https://testnet.binance.vision"}
PACES = {
    Environment.SIM: CasePace(),
    Environment.TEST: CasePace(step_s=1.0, wait_s=30.0, absent_s=10.0, case_s=120.0),
    # the counter of a key at Kraken falls by one in three seconds in the lowest tier
    Environment.LIVE: CasePace(step_s=3.0, wait_s=90.0, absent_s=30.0, case_s=300.0),
}
_BURST = 0.5  # of a limit, at once: other requests may have used up the rest
_SLACK = Decimal("0.8")  # of the price: an order of this size may still be sold, or be a stop, so far below
_SELLS_MAX = 3
_OVERLAP_NS = 60 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class SmallestOrder:
    """The market of a certificate, and its smallest order that can also be sold again."""

    instrument: Instrument
    quantity: Decimal
    price: Decimal

    @property
    def cost(self) -> Decimal:
        """Return the order's value in the quote currency."""
        return self.quantity * self.price


def smallest_order(
    instrument: Instrument, price: Decimal, cost_max: Decimal, *, is_fee_received: bool
) -> SmallestOrder:
    """Return the smallest order of a market at a price.

    Errors: InputError CERTIFY_TOO_DEAR above `cost_max`, CERTIFY_NOT_TRADED.
    """
    if not instrument.is_trading or price <= 0:
        raise unprocessable("CERTIFY_NOT_TRADED", f"{instrument.symbol} is not traded", "choose another --symbol")
    lot = instrument.lot(is_market=True)
    wanted = max(lot.least, instrument.notional_min / (price * _SLACK))
    steps = (wanted / lot.step).to_integral_value(ROUND_CEILING) + (1 if is_fee_received else 0)
    found = SmallestOrder(instrument, steps * lot.step, price)
    if found.cost > cost_max:
        detail = f"the smallest order of {instrument.symbol} costs {found.cost:.2f} {instrument.quote}"
        raise unprocessable("CERTIFY_TOO_DEAR", f"{detail}, above {cost_max}", "choose another --symbol, or --cost-max")
    return found


class PacedBudget(PauseOnly):
    """The rate limit of the sessions of one certificate: each request waits until there is room, for as long as it
    takes. A refused one counts at the exchange, too, so that polls without it may be refused for ever."""

    def __init__(self, clock: Clock, limit: Allowance) -> None:
        super().__init__(clock)
        self._per_s = limit.weight / limit.window_s
        self._burst = self._free = limit.weight * _BURST
        self._at_s = clock.monotonic()

    async def take(self, weight: int, priority: Priority, orders: int = 0, *, wait_max_s: float) -> float:
        now_s = self._clock.monotonic()
        self._free = min(self._burst, self._free + (now_s - self._at_s) * self._per_s) - weight
        self._at_s = now_s
        if self._free < 0:
            await self._clock.sleep(-self._free / self._per_s)
        return await super().take(weight, priority, orders, wait_max_s=wait_max_s)


class CertifyRig(CaseRig):
    """Sessions at the exchange itself, and the orders of a case there. `make_session`: with the guardian's key or not.

    `environment`: where the address points; `started_ns`: the client ids are made from it.
    """

    def __init__(
        self,
        row: VenueListing,
        clock: Clock,
        make_session: Callable[[bool], Venue],
        order: SmallestOrder,
        *,
        environment: Environment,
        started_ns: int,
    ) -> None:
        of = order.instrument
        super().__init__(
            row,
            clock,
            symbol=of.symbol,
            base=of.base,
            lots=order.quantity,
            lot_step=of.lot(is_market=True).step,
            pace=PACES[environment],
            environment=environment,
            run=f"certify {row.exchange} {started_ns}",
        )
        self.smallest, self._make, self._started_ns = order, make_session, started_ns
        self._held: Decimal | None = None  # of the base currency, before the case
        self._filled: dict[str, Decimal] = {}  # of orders that are proven ended or absent
        self.dust = Decimal(0)

    def make(self, *, is_guardian: bool) -> Venue:
        """Return an unopened session of its own."""
        return self._make(is_guardian)

    async def session(self, *, is_guardian: bool = False) -> Venue:
        """Return an opened session of its own; the first one of a case reads the balance before it."""
        venue = await super().session(is_guardian=is_guardian)
        if self._held is None:
            self._held = await self._total(venue)
        return venue

    async def end(self) -> None:
        """Close every session of a case, and forget its orders."""
        await super().end()
        self._held = None
        self._filled.clear()

    async def price(self, factor: str = "1") -> Decimal:
        """Return so many times the market's price, on the grid."""
        price = await self._opened[-1].last_price(self.symbol)
        if price is None:
            raise CaseFailed(f"{self.symbol} has no price")
        return self.smallest.instrument.round_price(price * Decimal(factor), side="buy")

    async def too_much(self) -> Decimal:
        """Return a quantity that the account cannot pay: twice as much as its money buys."""
        held = (await self._opened[-1].balances()).get(self.smallest.instrument.quote)
        money = Decimal(0) if held is None else held.total
        return self.smallest.instrument.round_quantity(2 * money / await self.price() + self.lots)

    async def sent_once(self) -> None:
        """Check that no order has executed more than its quantity. The exchange keeps no log of requests for us."""
        for order in self.placed:
            filled = self._filled.get(order.client_order_id, Decimal(0))
            check(filled <= order.quantity, f"{order.client_order_id}: {filled} are filled of {order.quantity}")

    async def agrees(self, venue: Venue) -> None:
        """Check that the executions of the case's orders are those of their reports, and explain the balance."""
        names = {order.client_order_id for order in self.placed}
        detail = ""

        async def is_same() -> bool:
            nonlocal detail
            executed, moved = dict[str, Decimal](), self._held or Decimal(0)
            for fill in await venue.fills_since(self.symbol, self._started_ns - _OVERLAP_NS):
                name = fill.client_order_id or ""
                if name not in names:
                    continue
                executed[name] = executed.get(name, Decimal(0)) + fill.quantity
                moved += fill.quantity if fill.side is Side.BUY else -fill.quantity
                moved -= fill.fee if fill.fee_currency == self.base else 0
            wanted = {name: filled for name, filled in self._filled.items() if filled}
            held = await self._total(venue)
            detail = f"executions are {executed}, not {wanted}; {self.base}: {held}, not {moved}"
            return executed == wanted and held == moved

        try:
            await self.until(is_same, "")
        except CaseFailed:
            raise CaseFailed(detail) from None

    async def rests_none(self, venue: Venue) -> None:
        """Check that no order of the case is open."""
        names = {order.client_order_id for order in self.placed}
        left = names & {report.client_order_id for report in await venue.open_orders()}
        check(not left, f"still open: {sorted(left)}")

    async def ended(self, venue: Venue, order: Order) -> Report | None:
        """Return the report of an order once it has ended, None once it is proven absent."""
        report = await super().ended(venue, order)
        self._filled[order.client_order_id] = Decimal(0) if report is None else report.filled
        return report

    # ── what a case leaves ───────────────────────────────────────────────────────────────────────
    async def settle(self) -> list[str]:
        """Cancel the open orders of the case, and sell the quantity that it bought. Return texts of orders and holdings
        that are left all the same."""
        if not self.placed:
            return []
        try:
            venue = await super().session()
            left = [text for order in tuple(self.placed) if (text := await self._close(venue, order))]
            return left + await self._sell(venue)
        except Exception as error:  # a venue may raise anything; what is left is reported in every case
            names = ", ".join(order.client_order_id for order in self.placed)
            return [f"not known, look at the exchange: {type(error).__name__}: {error}; client ids {names}"]

    async def _close(self, venue: Venue, order: Order) -> str:
        """Cancel an order until it is proven ended or absent. Return a text of it if it is left, else ""."""
        absent_s: float | None = None
        detail = "no answer"
        for _ in range(round(self.pace.wait_s / self.pace.step_s)):
            if order.client_order_id in self._filled:
                return ""
            found = await venue.query(order.symbol, order.client_order_id)
            detail = found.detail or found.presence.value
            if found.report is not None and found.report.state in TERMINAL:
                self._filled[order.client_order_id] = found.report.filled
                continue
            if found.presence is not Presence.NOT_FOUND:
                absent_s = None
                if found.report is not None:
                    await venue.cancel(evolve(order, venue_order_id=found.report.venue_order_id))
            elif absent_s is None:
                absent_s = self.clock.monotonic()
            elif self.clock.monotonic() - absent_s >= self.pace.absent_s:
                self._filled[order.client_order_id] = Decimal(0)
                continue
            await self.clock.sleep(self.pace.step_s)
        return f"order {order.client_order_id} ({order.side.value} {order.quantity} {order.symbol}): {detail}"

    async def _sell(self, venue: Venue) -> list[str]:
        of, detail = self.smallest.instrument, ""
        for _ in range(_SELLS_MAX):
            bought = self._bought()
            held = (await venue.balances()).get(self.base)
            free = Decimal(0) if held is None else held.free
            lot = of.lot(is_market=True)
            quantity = min(bought, free) // lot.step * lot.step
            if quantity < lot.least or quantity * await self.price() < of.notional_min:
                if bought >= self.lots:  # nothing of an entry could be sold
                    return [f"{bought} {self.base} bought and not sold: {free} are free"]
                self.dust += max(bought, Decimal(0))
                return []
            order = self.order(Side.SELL, OrderType.MARKET, is_reduce_only=True, quantity=quantity)
            answer = await self.submit(venue, order)
            detail = f"{answer.outcome.value} {answer.detail}"
            if answer.outcome is not Outcome.REFUSED:
                await self.ended(venue, order)
        return [f"{bought} {self.base} bought and not sold: {detail}"] if (bought := self._bought()) > 0 else []

    def _bought(self) -> Decimal:
        parts = [(order.side, self._filled.get(order.client_order_id, Decimal(0))) for order in self.placed]
        return sum((part if side is Side.BUY else -part for side, part in parts), Decimal(0))

    async def _total(self, venue: Venue) -> Decimal:
        held = (await venue.balances()).get(self.base)
        return Decimal(0) if held is None else held.total

    async def missing_money(self) -> str:
        """Return why the account cannot pay the smallest order, "" if it can. Errors: OutageError."""
        of = self.smallest.instrument
        held = (await (await self.session()).balances()).get(of.quote)
        free = Decimal(0) if held is None else held.free
        needed = self.smallest.cost * Decimal("1.1")
        return "" if free >= needed else f"{free} {of.quote} are free, {needed:.2f} are needed"


# ── the certificate ──────────────────────────────────────────────────────────────────────────────
async def _validated(rig: CaseRig) -> None:
    venue = await rig.session()
    assert isinstance(venue, ChecksOrders), "a row with such a request has a dialect"
    price = await rig.price("0.95")
    for order in (rig.order(), rig.order(type_=OrderType.LIMIT, price=price)):
        answer = await venue.validate(order)
        check(
            answer.outcome is Outcome.ACK, f"{order.type.value}: {answer.outcome.value} {answer.code} {answer.detail}"
        )
        found = await venue.query(order.symbol, order.client_order_id)
        check(found.presence is not Presence.FOUND, f"{order.type.value}: an order that was only to be checked exists")


def _without_validation(row: VenueListing) -> str:
    return "" if row.dialect is not None and row.dialect.validate is not None else "FKS uses no such request there"


#: sends no order; where there is no test network, a person sees its result before one is sent
VALIDATED: Case[CaseRig] = Case(
    "V-13", "the exchange checks orders of ours and finds no fault; none is made", _validated, _without_validation
)
FIRST: tuple[Case[CaseRig], ...] = (ANYWHERE[0], VALIDATED)


class Settles(RunsCases, Protocol):
    """A rig whose cases leave nothing. `dust`: bought in all cases, and too little to be sold."""

    dust: Decimal

    async def settle(self) -> list[str]:
        """Close what the case opened. Return texts of orders and holdings that are left all the same."""

    async def end(self) -> None:
        """Close every session of a case, and forget its orders."""

    async def missing_money(self) -> str:
        """Return why the account cannot pay the smallest order, "" if it can. Errors: OutageError."""


class VenueCertifier:
    """The cases of one certificate; `first` send no order. `results` and `left` are true at every moment, also after a
    cancelled run."""

    def __init__(
        self,
        rig: Settles,
        shown: Callable[[CaseResult], None] = lambda result: None,
        first: Sequence[Case[Any]] = FIRST,
        others: Sequence[Case[Any]] = ANYWHERE[1:],
    ) -> None:
        self._rig, self._shown, self._first, self._others = rig, shown, first, others
        self._found: dict[str, CaseResult] = {}
        self.left: list[str] = []
        self.reason = ""  # why cases do not run

    @property
    def results(self) -> list[CaseResult]:
        """Return the result of each case, in the order of the run; one that did not run has the reason."""
        reason = self.reason or "interrupted"
        cases = (*self._first, *self._others)
        return [self._found.get(case.number, CaseResult(case.number, case.rule, "not run", reason)) for case in cases]

    @property
    def dust(self) -> Decimal:
        """Return the quantity that was bought and is too little to be sold."""
        return self._rig.dust

    @property
    def is_certified(self) -> bool:
        """Return whether each case that applies passed, and nothing is left."""
        return not self.left and all(result.state in ("passed", "not applicable") for result in self.results)

    async def look(self) -> None:
        """Run the cases that send no order, and see whether the account can pay the others."""
        await self._run(self._first)
        if self.reason:
            return
        try:
            self.reason = await self._rig.missing_money()
        except OutageError as error:
            self.reason = str(error)
        finally:
            await self._rig.end()

    async def trade(self) -> None:
        """Run the cases that send orders. Each is settled, also when the run is cancelled."""
        if not self.reason:
            await self._run(self._others)

    async def _run(self, cases: Sequence[Case[Any]]) -> None:
        for case in cases:
            try:
                result = await run_case(case, self._rig)
            finally:
                self.left += await self._rig.settle()
                await self._rig.end()
            self._found[case.number] = result
            self._shown(result)
            if self.left:
                self.reason = f"{case.number} left something at the exchange"
            elif result.state == "failed" and case in self._first:
                self.reason = f"{case.number} failed"
            if self.reason:
                return
