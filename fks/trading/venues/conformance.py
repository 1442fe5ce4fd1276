"""Acceptance cases of a venue, numbered, against its stand-in. They follow from the capabilities that it declares.

The stand-in's own log and account are the witness; the venue is used through its port alone. The order core's rules
(protection, limits, kill) are proven elsewhere, once for all venues.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Generic, Literal, Protocol, TypeVar

import aiohttp

from fks.clock import Clock
from fks.clock.waiting import end_task
from fks.model import ids
from fks.model.account import Environment
from fks.model.errors import ConfigError, OutageError
from fks.model.order import (
    TERMINAL,
    Answer,
    Fill,
    Lookup,
    Order,
    OrderType,
    Outcome,
    Presence,
    Refusal,
    Report,
    Role,
    Side,
    State,
    TimeInForce,
    evolve,
)
from fks.model.ports import Log, Venue, VenueEvent
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.ccxt.dialect import StandIn
from fks.trading.venues.listing import VenueListing

R = TypeVar("R", bound="RunsCases")
#: faults of a new order that leave its outcome open, and whether the order is taken all the same
OPEN_OUTCOMES: tuple[tuple[Mapping[str, Any], bool], ...] = (
    ({"kind": "accept_then_cut"}, True),
    ({"kind": "truncate"}, True),
    ({"kind": "accept_late", "seconds": 0.7}, True),
    ({"kind": "html_502", "accept": True}, True),
    ({"kind": "504_1007", "accept": True}, True),
    ({"kind": "http_500"}, False),
    ({"kind": "503"}, False),
    ({"kind": "drop"}, False),
)
_LOTS = Decimal("0.01")  # BTC of one order
_TOO_MUCH = Decimal(50)  # BTC that the account cannot pay
_SKEW_MS = 1500.0
_CHAOS_ORDERS = 12
_READS = 10


@dataclass(frozen=True, slots=True)
class CaseResult:
    """Result of one case. `detail`: why it failed, or why it does not apply."""

    case: str
    rule: str
    state: Literal["passed", "failed", "not applicable", "not run"]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CasePace:
    """The times that cases wait. `step_s`: between two reads; `wait_s`: for a state; `absent_s`: an order that no read
    shows for so long is absent; `case_s`: for a whole case."""

    step_s: float = 0.1
    wait_s: float = 10.0
    absent_s: float = 1.5  # a late order of a stand-in comes within 0.7 s
    case_s: float = 120.0


class RunsCases(Protocol):
    """The part of a rig that the run of a case needs."""

    row: VenueListing
    pace: CasePace


class CaseFailed(Exception):
    """The venue broke the rule of a case."""


def open_outcomes(row: VenueListing) -> tuple[tuple[Mapping[str, Any], bool], ...]:
    """Return the faults that leave the outcome of a new order open at a venue."""
    return OPEN_OUTCOMES if row.stand_in is None else (*OPEN_OUTCOMES, *row.stand_in.unkind)


def stand_in_of(row: VenueListing) -> StandIn:
    """Return where the cases of a row run. Errors: ConfigError for a row that has none."""
    if row.stand_in is None:
        raise ConfigError(
            f"{row.exchange or row.name} has no cases here: FKS has no stand-in of it for these",
            remedy="name an exchange that 'fks venues list' shows with cases; a plug-in's row needs a StandIn "
            "(docs/add-a-venue.md)",
        )
    return row.stand_in


async def run_cases(
    row: VenueListing, info: Mapping[str, str], clock: Clock, log: Log, only: Collection[str] = ()
) -> list[CaseResult]:
    """Run every case of a row against a fresh stand-in whose addresses and keys are `info` (`fks sim exchange
    --json`); only those of some numbers, if there are any.

    A case that raises has failed. Errors: ConfigError for a row without a stand-in.
    """
    found = []
    async with aiohttp.ClientSession() as http:
        rig = StandInRig(row, info, clock, log, http)
        for case in CASES:
            if only and case.number not in only:
                continue
            found.append(await run_case(case, rig))
            await rig.end()
    return found


async def run_case(case: Case[R], rig: R) -> CaseResult:
    """Return the result of one case; the sessions that it opened stay open."""
    if why := case.excludes(rig.row):
        return CaseResult(case.number, case.rule, "not applicable", why)
    detail = ""
    try:
        async with asyncio.timeout(rig.pace.case_s):
            await case.check(rig)
    except TimeoutError:
        detail = f"no end within {rig.pace.case_s:.0f} s"
    except CaseFailed as error:
        detail = str(error)
    except Exception as error:  # a venue of another package may raise anything
        detail = f"{type(error).__name__}: {error}"
    return CaseResult(case.number, case.rule, "failed" if detail else "passed", detail[:500])


class CaseRig(ABC):
    """A venue's sessions and the orders of a case, which are `lots` of `base`. Subclasses know the account.

    `environment`: that of the account's owner. `run`: what client ids are made from, beside the order's number.
    """

    def __init__(
        self,
        row: VenueListing,
        clock: Clock,
        *,
        symbol: str,
        base: str,
        lots: Decimal,
        lot_step: Decimal,
        pace: CasePace,
        environment: Environment,
        run: str,
    ) -> None:
        self.row, self.clock, self.symbol, self.pace, self.environment = row, clock, symbol, pace, environment
        self.base, self.lots = base, lots
        self._lot_step, self._run = lot_step, run
        self._opened: list[Venue] = []
        self._made = 0
        self.placed: list[Order] = []

    # ── the venue ────────────────────────────────────────────────────────────────────────────────
    @abstractmethod
    def make(self, *, is_guardian: bool) -> Venue:
        """Return an unopened session of its own, with the guardian's key where a key serves one process."""

    @abstractmethod
    async def price(self, factor: str = "1") -> Decimal:
        """Return so many times the market's price, on the grid."""

    @abstractmethod
    async def too_much(self) -> Decimal:
        """Return a quantity that the account cannot pay."""

    @abstractmethod
    async def sent_once(self) -> None:
        """Check that each order of the case arrived at most once, where the exchange can be asked that."""

    @abstractmethod
    async def agrees(self, venue: Venue) -> None:
        """Check that balances and executions are those of the account."""

    @abstractmethod
    async def rests_none(self, venue: Venue) -> None:
        """Check that no order of the case is open."""

    async def session(self, *, is_guardian: bool = False) -> Venue:
        """Return an opened session of its own, with the guardian's key where a key serves one process."""
        venue = self.make(is_guardian=is_guardian)
        self._opened.append(venue)
        await venue.open()
        return venue

    async def end(self) -> None:
        """Close every session of a case, and forget its orders."""
        for venue in self._opened:
            await venue.close()
        self._opened.clear()
        self.placed.clear()

    def order(self, side: Side = Side.BUY, type_: OrderType = OrderType.MARKET, **changes: Any) -> Order:
        """Return a new order of `lots`."""
        self._made += 1
        intent = uuid.uuid5(uuid.NAMESPACE_OID, f"fks {self._run} {self._made}")
        order = Order(
            client_order_id=ids.client_order_id(intent, Role.ORDER.value),
            intent_id=intent,
            signal_id=None,
            account_id=1,
            venue="ccxt",
            exchange=self.row.exchange,
            symbol=self.symbol,
            instance="",
            role=Role.ORDER,
            attempt=0,
            side=side,
            type=type_,
            time_in_force=TimeInForce.GTC,
            quantity=self.lots,
            state=State.SENDING,
        )
        return evolve(order, **changes)

    async def submit(self, venue: Venue, order: Order) -> Answer:
        """Send an order."""
        self.placed.append(order)
        return await venue.submit(order)

    async def taken(self, venue: Venue, order: Order) -> Order:
        """Send an order that must be acknowledged; return it with the exchange's id."""
        answer = await self.submit(venue, order)
        check(answer.outcome is Outcome.ACK, f"an order was not acknowledged: {answer.outcome.value} {answer.detail}")
        check(answer.report is not None and bool(answer.report.venue_order_id), "an acknowledged order has no id")
        assert answer.report is not None
        return evolve(order, venue_order_id=answer.report.venue_order_id)

    async def ended(self, venue: Venue, order: Order) -> Report | None:
        """Return the report of an order once it has ended, None once it is proven absent."""
        absent_s: float | None = None
        found = Lookup(Presence.NO_ANSWER)
        for _ in range(round(self.pace.wait_s / self.pace.step_s)):
            found = await venue.query(order.symbol, order.client_order_id)
            if found.presence is Presence.NOT_FOUND:
                absent_s = self.clock.monotonic() if absent_s is None else absent_s
                if self.clock.monotonic() - absent_s >= self.pace.absent_s:
                    return None
            else:
                absent_s = None
            if found.report is not None and found.report.state in TERMINAL:
                return found.report
            await self.clock.sleep(self.pace.step_s)
        raise CaseFailed(f"an order neither ended nor is absent: {found.presence.value} {found.detail}")

    async def filled(self, venue: Venue, order: Order) -> Report:
        """Return the report of an order that must be filled."""
        report = await self.ended(venue, order)
        check(report is not None, "an order that was taken is said to be absent")
        assert report is not None
        check(report.state is State.FILLED, f"an order is {report.state.value}, not filled")
        check(report.filled == order.quantity, f"{report.filled} are filled of {order.quantity}")
        return report

    async def rests(self, venue: Venue, order: Order) -> Order:
        """Send an order that must rest; return it with the exchange's id once it is among the open ones."""
        order = await self.taken(venue, order)
        await self.until(lambda: _is_open(venue, order), "an order that rests is not among the open orders")
        return order

    async def cancelled(self, venue: Venue, order: Order) -> None:
        """Cancel an order that rests; it must have ended without a fill."""
        answer = await venue.cancel(order)
        check(
            answer.outcome in (Outcome.ACK, Outcome.AMBIGUOUS),
            f"a cancel was {answer.outcome.value}: {answer.detail}",
        )
        report = await self.ended(venue, order)
        check(report is not None and report.state is State.CANCELLED, f"a cancelled order is shown as {report}")
        again = await venue.cancel(order)
        check(
            again.outcome is not Outcome.ACK or (again.report is not None and again.report.state in TERMINAL),
            "the cancel of an ended order was acknowledged as if it were open",
        )

    async def until(self, condition: Callable[[], Awaitable[bool]], text: str, deadline_s: float | None = None) -> None:
        """Wait for a condition. Errors: CaseFailed with `text`."""
        for _ in range(round((deadline_s or self.pace.wait_s) / self.pace.step_s)):
            if await condition():
                return
            await self.clock.sleep(self.pace.step_s)
        raise CaseFailed(text)

    async def leaving(self, venue: Venue) -> Order:
        """Return an order that sells what one entry brought: a fee in the currency bought leaves less."""
        held = (await venue.balances()).get(self.base)
        free = Decimal(0) if held is None else held.free
        quantity = min(self.lots, free // self._lot_step * self._lot_step)
        return self.order(Side.SELL, is_reduce_only=True, quantity=quantity)


class StandInRig(CaseRig):
    """The sessions at a venue's stand-in, and the requests that the stand-in received from them."""

    def __init__(
        self, row: VenueListing, info: Mapping[str, str], clock: Clock, log: Log, http: aiohttp.ClientSession
    ) -> None:
        self.stand_in = stand_in_of(row)
        super().__init__(
            row,
            clock,
            symbol=self.stand_in.symbol,
            base="BTC",
            lots=_LOTS,
            lot_step=Decimal("0.00001"),
            pace=CasePace(),
            environment=Environment.SIM,
            run="conformance",
        )
        self._info, self._log, self._http = info, log, http

    def make(self, *, is_guardian: bool) -> Venue:
        """Return an unopened session of its own, with the guardian's key where a key serves one process."""
        from fks.trading.venues.binance.session import BinanceVenue
        from fks.trading.venues.ccxt.dialect_venue import DialectVenue

        prefix = self.stand_in.guardian_key if is_guardian else ""
        config = SessionConfig(
            self._info[f"{prefix}api_key"],
            self._info[f"{prefix}api_secret"],
            account_id=1,
            exchange=self.row.exchange,
            rest_url=self._info["rest"],
            ws_url=self._info["ws"],
            ws_api_url=self._info["ws_api"],
            order_timeout_s=0.5,
            read_timeout_s=5.0,
            poll_s=0.2,
        )
        if self.row.dialect is None:
            return BinanceVenue(config, self.clock, self._log)
        return DialectVenue(self.row.dialect, config, self.clock, self._log)

    async def end(self) -> None:
        """End the faults, too."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            await self.clear()
        await super().end()

    async def too_much(self) -> Decimal:
        """Return a quantity that the account cannot pay."""
        return _TOO_MUCH

    async def rests_none(self, venue: Venue) -> None:
        """Check that no order is open."""
        check((await self.account())["open_orders"] == [], "an order is still open")

    # ── the stand-in ─────────────────────────────────────────────────────────────────────────────
    async def ask(self, method: str, at: str, body: Mapping[str, Any] | None = None, **query: str) -> Any:
        """Return an answer of the stand-in's administration."""
        url = f"{self._info['rest']}{at}"
        async with self._http.request(method, url, json=None if body is None else dict(body), params=query) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def fault(self, fault: Mapping[str, Any], path: str) -> int:
        """Set a fault of the requests to a path ("": of all); return its number."""
        return int((await self.ask("POST", "/sim/faults", {"path": path, **fault}))["id"])

    async def struck(self, fault: int) -> int:
        """Return how many requests a fault struck."""
        return int((await self.ask("GET", "/sim/faults", id=str(fault)))[0]["struck"])

    async def clear(self) -> None:
        """End all faults."""
        await self.ask("DELETE", "/sim/faults")

    async def account(self) -> dict[str, Any]:
        """Return the true state of the account."""
        return dict(await self.ask("GET", "/sim/state"))

    async def price(self, factor: str = "1") -> Decimal:
        """Return so many times the market's price as a whole number, which is on the grid of every exchange."""
        return (Decimal((await self.account())["prices"]["BTCUSDT"]) * Decimal(factor)).quantize(Decimal(1))

    async def fills(self) -> dict[str, Decimal]:
        """Return the quantity filled by client id."""
        found = dict[str, Decimal]()
        for row in (await self.account())["fills"]:
            found[row["clientOrderId"]] = found.get(row["clientOrderId"], Decimal(0)) + Decimal(row["qty"])
        return found

    async def sent_once(self) -> None:
        """Check that each order of the case arrived at most once."""
        found = await self.ask("GET", "/sim/received", path=self.stand_in.place, limit="1000")
        rows = found["items"] if isinstance(found, dict) else found
        counts = Counter(row["client_order_id"] for row in rows if row["method"] == "POST")
        names = [order.client_order_id for order in self.placed]
        several = [name for name in names if counts[name] > 1]
        check(not several, f"sent more than once: {several}")
        check(any(counts[name] for name in names), "none of the orders arrived under its client id")

    async def agrees(self, venue: Venue) -> None:
        """Check that balances and executions are those of the account."""
        true = {
            row["asset"]: Decimal(row["free"]) + Decimal(row["locked"]) for row in (await self.account())["balances"]
        }
        held = await venue.balances()
        for asset in ("BTC", "USDT"):
            shown = held[asset].total if asset in held else Decimal(0)
            check(
                abs(shown - true.get(asset, Decimal(0))) < Decimal("1e-6"), f"{asset}: {shown}, not {true.get(asset)}"
            )
        executed = dict[str, Decimal]()
        for fill in await venue.fills_since(self.stand_in.symbol, 0):
            name = fill.client_order_id or ""
            executed[name] = executed.get(name, Decimal(0)) + fill.quantity
        wanted = await self.fills()
        check(executed == wanted, f"executions are {executed}, not {wanted}")


def check(is_kept: bool, text: str) -> None:
    """Errors: CaseFailed with `text` unless the rule is kept."""
    if not is_kept:
        raise CaseFailed(text)


async def _is_open(venue: Venue, order: Order) -> bool:
    return order.client_order_id in {report.client_order_id for report in await venue.open_orders()}


# ── the cases ────────────────────────────────────────────────────────────────────────────────────
async def _entry_and_exit(rig: CaseRig) -> None:
    venue = await rig.session()
    entry = await rig.taken(venue, rig.order())
    await rig.filled(venue, entry)
    await rig.agrees(venue)
    leave = await rig.taken(venue, await rig.leaving(venue))
    await rig.filled(venue, leave)
    await rig.agrees(venue)
    await rig.sent_once()


async def _open_outcomes(rig: StandInRig) -> None:
    venue = await rig.session()
    for fault, is_taken in open_outcomes(rig.row):
        name = " ".join(str(part) for part in fault.values())
        await rig.fault(fault, rig.stand_in.place)
        order = rig.order()
        answer = await rig.submit(venue, order)
        is_open = answer.outcome in (Outcome.AMBIGUOUS, Outcome.EXISTS)
        check(is_open, f"{name}: the answer is {answer.outcome.value}, though the outcome is open")
        if is_taken:
            await rig.until(lambda order=order: _is_executed(rig, order), f"{name}: the stand-in took no order")  # type: ignore[misc]
        report = await rig.ended(venue, order)
        check((report is not None) is is_taken, f"{name}: the order is {'absent' if report is None else 'there'}")
    await rig.agrees(venue)
    await rig.sent_once()


async def _is_executed(rig: StandInRig, order: Order) -> bool:
    return order.client_order_id in await rig.fills()


async def _lost_polls(rig: StandInRig) -> None:
    venue = await rig.session()
    async with _listening(venue) as events:
        waiting = await rig.rests(venue, rig.order(type_=OrderType.LIMIT, price=await rig.price("0.95")))
        fault = await rig.fault({"kind": "drop", "count": 5}, rig.stand_in.open_orders)
        lost = await rig.taken(venue, rig.order())

        async def is_reported() -> bool:
            names = {event.client_order_id for event in events if isinstance(event, Fill)}
            return lost.client_order_id in names and await rig.struck(fault) == 5

        await rig.until(is_reported, "an execution during lost polls was not reported", deadline_s=20)
        await rig.cancelled(venue, waiting)
    await rig.agrees(venue)
    await rig.sent_once()


@contextlib.asynccontextmanager
async def _listening(venue: Venue) -> AsyncIterator[list[VenueEvent]]:
    events = list[VenueEvent]()

    async def read() -> None:
        async for event in venue.events():
            events.append(event)

    task = asyncio.create_task(read())
    try:
        yield events
    finally:
        await end_task(task)


async def _new_session(rig: StandInRig) -> None:
    venue = await rig.session()
    await rig.fault({"kind": "answer_after", "seconds": 1.0}, rig.stand_in.place)
    order = rig.order()
    sending = asyncio.create_task(rig.submit(venue, order))
    await rig.until(lambda: _is_executed(rig, order), "the stand-in took no order")
    await end_task(sending)
    await venue.close()
    other = await rig.session()
    await rig.filled(other, order)
    await rig.agrees(other)
    await rig.sent_once()


async def _second_session(rig: CaseRig) -> None:
    venue = await rig.session()
    await rig.filled(venue, await rig.taken(venue, rig.order()))
    waiting = await rig.rests(venue, rig.order(type_=OrderType.LIMIT, price=await rig.price("0.95")))
    guardian = await rig.session(is_guardian=True)
    await rig.until(lambda: _is_open(guardian, waiting), "the second session does not see an open order")
    await rig.cancelled(guardian, evolve(waiting, venue_order_id=None))
    await rig.filled(guardian, await rig.taken(guardian, await rig.leaving(guardian)))
    report = await rig.ended(venue, waiting)
    check(report is not None and report.state is State.CANCELLED, "the first session does not see the cancel")
    await rig.rests_none(venue)
    await rig.agrees(venue)
    await rig.sent_once()


async def _seeded(rig: StandInRig) -> None:
    dice = random.Random(7)  # noqa: S311  dice, not secrets
    faults, venue, held = open_outcomes(rig.row), await rig.session(), 0
    for _ in range(_CHAOS_ORDERS):
        if dice.random() < 0.6:
            await rig.fault(dice.choice(faults)[0], rig.stand_in.place)
        is_exit = held > 0 and dice.random() < 0.4
        order = await rig.leaving(venue) if is_exit else rig.order()
        answer = await rig.submit(venue, order)
        check(answer.outcome is not Outcome.REFUSED, f"an order was refused: {answer.detail}")
        if dice.random() < 0.4:
            await venue.close()
            venue = await rig.session()
        if await rig.ended(venue, order) is not None:
            held += -1 if is_exit else 1
        else:
            check(not await _is_executed(rig, order), "an order that was executed is said to be absent")
    await rig.clear()
    await rig.agrees(venue)
    await rig.sent_once()


async def _stop(rig: CaseRig) -> None:
    venue = await rig.session()
    await rig.filled(venue, await rig.taken(venue, rig.order()))
    quantity, stop_price = (await rig.leaving(venue)).quantity, await rig.price("0.9")
    stop = rig.order(Side.SELL, OrderType.STOP, stop_price=stop_price, is_reduce_only=True, quantity=quantity)
    stop = await rig.rests(venue, stop)
    found = await venue.query(stop.symbol, stop.client_order_id)
    check(found.report is not None and found.report.state in (State.ACCEPTED, State.WORKING), f"a stop is {found}")
    assert found.report is not None
    check(found.report.filled == 0, "a stop that waits has a fill")
    await rig.cancelled(venue, stop)
    await rig.filled(venue, await rig.taken(venue, await rig.leaving(venue)))
    await rig.sent_once()


async def _at_once_or_not(rig: CaseRig) -> None:
    venue = await rig.session()
    for kind in (TimeInForce.IOC, TimeInForce.FOK):
        if kind not in rig.row.capabilities.times_in_force:
            continue
        price = await rig.price("0.95")
        order = rig.order(type_=OrderType.LIMIT, price=price, time_in_force=kind)
        answer = await rig.submit(venue, order)
        check(answer.outcome in (Outcome.ACK, Outcome.REFUSED), f"{kind.value}: {answer.outcome.value} {answer.detail}")
        if answer.outcome is Outcome.ACK:
            report = await rig.ended(venue, order)
            check(report is not None and report.filled == 0, f"{kind.value}: far from the market it is {report}")
    await rig.rests_none(venue)
    await rig.sent_once()


async def _refusal(rig: CaseRig) -> None:
    venue = await rig.session()
    order = rig.order(type_=OrderType.LIMIT, price=await rig.price("0.95"), quantity=await rig.too_much())
    answer = await rig.submit(venue, order)
    check(answer.outcome is Outcome.REFUSED, f"an order that cannot be paid was {answer.outcome.value}")
    check(answer.refusal is Refusal.INSUFFICIENT_BALANCE, f"the refusal is {answer.refusal}, not insufficient_balance")
    check(bool(answer.code), "a refusal has no code of the exchange")
    report = await rig.ended(venue, order)
    check(report is None or report.state in TERMINAL, "a refused order is open")
    await rig.agrees(venue)


async def _unreadable(rig: StandInRig) -> None:
    venue = await rig.session()
    known = await rig.taken(venue, rig.order())
    await rig.filled(venue, known)
    never = rig.order()
    for kind in ("html_200", "truncate", "503", "drop"):
        await rig.fault({"kind": kind, "count": None}, "")
        for order in (known, never):
            found = await venue.query(order.symbol, order.client_order_id)
            check(found.presence is Presence.NO_ANSWER, f"{kind}: a query is {found.presence.value}")
        try:
            await venue.open_orders()
        except OutageError:
            await rig.clear()
        else:
            raise CaseFailed(f"{kind}: open orders were read from it")
    report = await rig.ended(venue, known)
    check(report is not None and report.state is State.FILLED, "an order is lost after unreadable answers")


async def _price_of(venue: Venue, rig: CaseRig) -> Decimal | None:
    """Return the venue's last price: a stand-in that has just started takes a moment for its first one."""
    for _ in range(_READS - 1):
        with contextlib.suppress(OutageError):
            return await venue.last_price(rig.symbol)
    return await venue.last_price(rig.symbol)


async def _account(rig: CaseRig) -> None:
    venue = await rig.session()
    owner = await venue.identity()
    check(bool(owner.uid) and owner.environment is rig.environment, f"the owner is {owner}")
    other = await rig.session(is_guardian=True)
    check((await other.identity()).uid == owner.uid, "two sessions of the account name two owners")
    skew_ms = await venue.skew_ms()
    check(abs(skew_ms) < _SKEW_MS, f"the clock differs by {skew_ms:.0f} ms")
    true, shown = await rig.price(), await _price_of(venue, rig)
    check(shown is not None and abs(shown - true) < true / 50, f"the last price is {shown}, not {true}")
    check(await venue.last_price("NOTHING/KNOWN") is None, "an unknown market has a price")
    wrong = replace(rig.order(), symbol="NOTHING/KNOWN")
    check((await venue.submit(wrong)).outcome is Outcome.REFUSED, "an order in an unknown market was not refused")
    await rig.agrees(venue)


@dataclass(frozen=True, slots=True)
class Case(Generic[R]):
    """One case: its number, the rule that it proves, its check, and why it does not apply to some rows."""

    number: str
    rule: str
    check: Callable[[R], Awaitable[None]]
    excludes: Callable[[VenueListing], str] = lambda row: ""


def _without_stop(row: VenueListing) -> str:
    return "" if OrderType.STOP in row.capabilities.types else "it holds no stop: protection stays local"


def _always_rests(row: VenueListing) -> str:
    has_some = {TimeInForce.IOC, TimeInForce.FOK} & row.capabilities.times_in_force
    return "" if has_some else "it has neither IOC nor FOK"


def _has_stream(row: VenueListing) -> str:
    return "" if stand_in_of(row).open_orders else "its events come by a stream, not by polls"


#: cases that need an account alone; the order is that in which a certificate runs them
ANYWHERE: tuple[Case[CaseRig], ...] = (
    Case("V-11", "owner, clock, price and balances are read; an unknown market is refused", _account),
    Case("V-09", "an order that cannot be paid is refused for that reason, and leaves nothing", _refusal),
    Case("V-08", "an order that may not rest ends at once", _at_once_or_not, _always_rests),
    Case("V-01", "an entry fills and an exit closes it, with the account's executions and money", _entry_and_exit),
    Case(
        "V-05",
        "a second session sees and cancels the orders of the first one, and closes its position",
        _second_session,
    ),
    Case("V-07", "a stop rests under its client id and is cancelled", _stop, _without_stop),
)
#: cases that need a server whose faults can be set, and which lists the requests that it received
AT_STAND_IN: tuple[Case[StandInRig], ...] = (
    Case(
        "V-02", "an open outcome is ambiguous; reads tell whether it is there; it is never sent again", _open_outcomes
    ),
    Case("V-03", "lost polls lose no execution", _lost_polls, _has_stream),
    Case("V-04", "a new session finds an order that was under way", _new_session),
    Case("V-06", "faults and new sessions from a seed: each client id once, positions and money equal", _seeded),
    Case("V-10", "an answer that cannot be read proves nothing", _unreadable),
)
CASES: tuple[Case[Any], ...] = tuple(sorted((*ANYWHERE, *AT_STAND_IN), key=lambda case: case.number))
