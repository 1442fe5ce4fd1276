"""Checks of a real bridge with one simulated order: order names, duplicates, bracket, restarts, flatten, kill latch.

Each check opens sessions of its own and leaves nothing behind that the next one does not need. They run on an account
that the bridge calls a simulation, and on no other. A control session takes the place of the one that trades: FKS must
not be connected to this group meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeVar

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.session import ClientSession, Identity, Prepared
from fks.bridge.ninja_link.check import Address, check_connection
from fks.bridge.ninja_link.link import Link, ports_of, system_draws
from fks.clock import Clock
from fks.model.errors import OutageError

AWAY = 40  # ticks between the last price and the order that must not fill
OFFSET_MS_MAX = 2_000
_VALID_MS = 60_000
_ANSWER_S, _FILL_S, _FLAT_S, _PRICE_S, _LIVE_S = 10.0, 15.0, 40.0, 15.0, 5.0
_LOOK_S = 0.1
_LIVE_STOPS = frozenset({"Accepted", "Working", "Suspended"})
T = TypeVar("T")


class CheckFailed(Exception):
    """A check found what must not be; the text names it. `measured`: figures for the next steps."""

    def __init__(self, text: str, measured: Mapping[str, object] | None = None) -> None:
        super().__init__(text)
        self.measured = dict(measured or {})


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of the checks: an account, a contract, its tick. `stop_points`: distance of the stop and target that
    rest."""

    account: str
    instrument: str
    tick: Decimal
    stop_points: Decimal
    price: Decimal | None = None  # given by a person; None: the bridge's last price


class Certifier:
    """Each method is one check: it returns what it measured. Errors: CheckFailed; OutageError without a connection."""

    def __init__(
        self, identity: Identity, address: Address, subject: Subject, clock: Clock, new_id: Callable[[], str]
    ) -> None:
        self._identity, self._address, self._subject = identity, address, subject
        self._clock, self._new_id = clock, new_id

    # ── checks ───────────────────────────────────────────────────────────────────────────────────
    async def connection(self) -> Mapping[str, object]:
        """Secret, clocks, round trips; the account is a simulation in mode auto, connected and flat."""
        checked = await check_connection(self._as("observe"), self._address, self._clock)
        name = self._subject.account
        found = next((account for account in checked.welcome.accounts if account.name == name), None)
        status = next((account for account in checked.status.accounts if account.name == name), None)
        _require(found is not None, f"the bridge has no account {name}")
        assert found is not None
        _require(found.sim, f"{name} is no simulation account: nothing is sent to it")
        _require(found.mode == "auto", f"the mode of {name} is {found.mode}, it must be auto")
        _require(status is not None and status.status == "Connected", f"{name} is not connected")
        _require(checked.status.ready, "the bridge is not ready")
        _require(not checked.status.halted, "the kill latch is on: press FKS Resume")
        _require(
            abs(checked.offset_ms) <= OFFSET_MS_MAX, f"the clocks differ by {checked.offset_ms} ms: run w32tm /resync"
        )
        assert status is not None
        return {
            "platform": checked.welcome.platform,
            "features": list(checked.status.features or ()),
            "ping_p50_ms": round(checked.share_s(0.5) * 1000, 3),
            "ping_p99_ms": round(checked.share_s(0.99) * 1000, 3),
            "offset_ms": checked.offset_ms,
            "values_reported": sorted(key for key, value in status.values.items() if value is not None),
            "is_flat": not status.positions and not [each for each in status.orders if each.state not in m.ENDED],
        }

    async def working_order(self) -> Mapping[str, object]:
        """An order away from the market works under its name, the same line again makes no second one, a cancel ends
        it."""
        await self._check_is_flat()
        price = (await self._last_price()) - AWAY * self._subject.tick
        async with self._control() as first:
            prepared = first.prepare(self._signal(type="limit", price=price))
            ack = await first.send(prepared)
            name = ack.order or f"FKS:{prepared.id}:E"
            await self._order(first, name)
        async with self._control() as second:  # the same bytes, from another process
            again = await second.send(prepared)
            _require(again.dup, "the same line was accepted as a new signal")
            orders = await self._named(second, prepared.id)
            _require(len(orders) == 1, f"{len(orders)} orders of one signal: {', '.join(each.name for each in orders)}")
            result = await second.ask(lambda rid: m.Cancel(rid=rid, id=prepared.id))
            _require(result.ok, f"the cancel was refused: {result.code}")
            await second.wait(
                lambda: self._named(second, prepared.id), lambda left: not left, "the order is still live"
            )
        return {"order": name, "price": str(price), "second_answer": "dup"}

    async def bracket(self) -> Mapping[str, object]:
        """A market order for one contract fills, and stop and target of it rest with one OCO id. The position stays."""
        await self._check_is_flat()
        async with self._control() as control:
            begun_s = self._clock.monotonic()
            prepared = control.prepare(self._signal(type="market"))
            try:
                await control.send(prepared)
                acked_s = self._clock.monotonic()
                legs = await self._protected(control, prepared.id)
            except CheckFailed as failed:  # it may have filled
                raise CheckFailed(str(failed), {"id": prepared.id}) from None
            protected_s = self._clock.monotonic()
        return {
            "id": prepared.id,
            "legs": [f"{each.name} {each.type} {each.state}" for each in legs],
            "oco": legs[0].oco,
            "ack_ms": round((acked_s - begun_s) * 1000, 1),
            "protected_ms": round((protected_s - begun_s) * 1000, 1),
        }

    async def still_protected(self, signal_id: str) -> Mapping[str, object]:
        """The position of `bracket` is as it was: one contract, one stop, one target, each execution reported once.

        For after a restart of NinjaTrader, a lost network, a compilation. The names tell whether they survived.
        """
        async with self._control() as control:
            legs = await self._protected(control, signal_id)
            held = await self._held(control)
            _require(held == 1, f"the account holds {held} contracts instead of 1")
            executions = [
                event.event.body for event in control.events
                if isinstance(event, o.Logged) and isinstance(event.event.body, m.ExecutionEvent)
            ]  # fmt: skip
            mine = [each for each in executions if each.id == signal_id and each.op == "add"]
            filled = sum(each.qty for each in mine)
            _require(filled == 1, f"{filled} contracts are reported as filled instead of 1")
        return {"legs": [f"{each.name} {each.state}" for each in legs], "executions": len(mine)}

    async def flatten(self) -> Mapping[str, object]:
        """A flatten closes the position and cancels its orders."""
        account = self._subject.account
        async with self._control() as control:
            begun_s = self._clock.monotonic()
            result = await control.ask(
                lambda rid: m.FlattenRequest(rid=rid, account=account, instruments="all", reason="fks certify")
            )
            _require(bool(result.ok and result.flat), f"not flat: {result.code or result.detail or result.remaining}")
            took_s = self._clock.monotonic() - begun_s
            state = await control.account(account)
            live = [each.name for each in state.orders if each.ours and each.state not in m.ENDED]
            _require(not state.positions and not live, f"left: {', '.join(live) or 'a position'}")
        return {"flat_ms": round(took_s * 1000, 1)}

    async def latch(self) -> Mapping[str, object]:
        """The kill latch refuses a signal. It stays on: a person lifts it."""
        async with self._control() as control:
            result = await control.ask(lambda rid: m.Kill(rid=rid, reason="fks certify"))
            _require(bool(result.ok and result.flat), f"the kill left something: {result.code or result.remaining}")
            status = await control.status()
            _require(status.halted, "the status does not report the latch")
            refused = await control.refusal(control.prepare(self._signal(type="market")))
            _require(refused == "halted", f"a signal was answered by {refused} instead of halted")
        return {"refused_with": refused}

    async def released(self) -> Mapping[str, object]:
        """The latch is off again."""
        async with self._control() as control:
            status = await control.status()
            _require(not status.halted, "the kill latch is still on: press FKS Resume on the status indicator")
        return {}

    # ── parts ────────────────────────────────────────────────────────────────────────────────────
    def _as(self, role: m.Role) -> Identity:
        return replace(self._identity, role=role, instance=self._new_id())

    @contextlib.asynccontextmanager
    async def _control(self, role: m.Role = "control") -> AsyncIterator[Talk]:
        talk = Talk(self._as(role), self._address, self._clock)
        async with talk.running():
            yield talk

    def _signal(self, **fields: object) -> m.SignalMessage:
        now_ms = self._clock.now_ns() // 1_000_000
        points = self._subject.stop_points
        given: dict[str, object] = {
            "id": self._new_id(), "account": self._subject.account, "instrument": self._subject.instrument,
            "action": "buy", "qty": 1, "sl_points": points, "tp_points": points,
            "created_ms": now_ms, "valid_until": now_ms + _VALID_MS,
            "note": "fks certify", **fields,
        }  # fmt: skip
        return m.SignalMessage(**given)  # type: ignore[arg-type]

    async def _check_is_flat(self) -> None:
        async with self._control("observe") as talk:
            status = await talk.account(self._subject.account)
            held = [f"{each.side} {each.qty} {each.instrument}" for each in status.positions if each.qty]
            live = [each.name for each in status.orders if each.state not in m.ENDED]
            _require(not held and not live, f"{status.name} is not flat: {', '.join((*held, *live))}")

    async def _last_price(self) -> Decimal:
        if self._subject.price is not None:
            return self._subject.price
        async with self._control("data") as talk:
            name = self._subject.instrument
            talk.request(lambda rid: m.Subscribe(rid=rid, instruments=(name,), quotes=False))
            trade = await talk.event(
                lambda event: (
                    event.message
                    if isinstance(event, o.MarketData) and isinstance(event.message, m.TradeMessage)
                    else None
                ),
                f"no trade of {name}; give its price with --price",
                _PRICE_S,
            )
            return trade.price

    async def _order(self, talk: Talk, name: str) -> m.OrderStatus:
        async def find() -> m.OrderStatus | None:
            account = await talk.account(self._subject.account)
            return next((each for each in account.orders if each.name == name and each.state not in m.ENDED), None)

        found = await talk.wait(find, lambda order: order is not None, f"no live order {name}")
        assert found is not None
        return found

    async def _named(self, talk: Talk, signal_id: str) -> list[m.OrderStatus]:
        account = await talk.account(self._subject.account)
        return [e for e in account.orders if e.name.startswith(f"FKS:{signal_id}:") and e.state not in m.ENDED]

    async def _legs(self, talk: Talk, signal_id: str) -> list[m.OrderStatus]:
        return [each for each in await self._named(talk, signal_id) if not each.name.endswith(":E")]

    async def _protected(self, talk: Talk, signal_id: str) -> list[m.OrderStatus]:
        """Return stop and target once both rest. Errors: CheckFailed saying what is missing."""
        legs = await talk.wait(
            lambda: self._legs(talk, signal_id),
            lambda found: len(found) >= 2,
            "stop and target do not rest under their names",
            _FILL_S,
        )
        end_s = self._clock.monotonic() + _LIVE_S
        problem = _problem_of(legs)
        while problem and legs and self._clock.monotonic() < end_s:
            await self._clock.sleep(_LOOK_S)
            legs = await self._legs(talk, signal_id)
            problem = _problem_of(legs) if legs else f"{problem}; now no exit is left"
        _require(not problem, problem)
        return legs

    async def _held(self, talk: Talk) -> int:
        account = await talk.account(self._subject.account)
        return sum(int(each.qty) for each in account.positions if each.instrument == self._subject.instrument)


class Talk:
    """One session on a socket: requests with their answers, and the events that came."""

    def __init__(self, identity: Identity, address: Address, clock: Clock) -> None:
        self._clock, self._address, self._title = clock, address, identity.platform.title
        self.events: list[o.Event] = []
        self._came = asyncio.Event()
        self._session = ClientSession(
            identity, clock, system_draws(), ports=ports_of(address.port), timeout_s=address.timeout_s
        )
        self._link = Link(self._session, address.host, clock, self._take)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connect, and wait until requests may leave. Errors: OutageError."""
        running = asyncio.create_task(self._link.run())
        try:
            ready = await self.event(
                lambda event: event if isinstance(event, o.Ready | o.Waiting | o.LinkStopped) else None,
                "the bridge did not answer",
                2 * self._address.timeout_s,
            )
            if isinstance(ready, o.Waiting | o.LinkStopped):
                raise OutageError(f"no connection to {self._title}: {ready.reason}")
            yield
        finally:
            self._session.stop()
            self._link.flush()
            await running

    def _take(self, event: o.Event) -> None:
        self.events.append(event)
        if isinstance(event, o.Logged):
            self._session.stored(event.event.epoch, event.event.seq)
        self._came.set()

    async def event(self, choose: Callable[[o.Event], T | None], missing: str, within_s: float = _ANSWER_S) -> T:
        """Return the first event that `choose` takes. Errors: CheckFailed with `missing`."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    self._came.clear()
                    for event in self.events:
                        found = choose(event)
                        if found is not None:
                            return found
                    await self._came.wait()
        except TimeoutError:
            raise CheckFailed(missing) from None

    async def wait(
        self,
        read: Callable[[], Awaitable[T]],
        is_enough: Callable[[T], bool],
        missing: str,
        within_s: float = _ANSWER_S,
    ) -> T:
        """Return what `read` returns as soon as it is enough. Errors: CheckFailed with `missing`."""
        end_s = self._clock.monotonic() + within_s
        while True:
            found = await read()
            if is_enough(found):
                return found
            if self._clock.monotonic() > end_s:
                raise CheckFailed(missing)
            await self._clock.sleep(_LOOK_S)

    def request(self, make: Callable[[str], m.LinkRequest]) -> m.LinkRequest:
        """Send a request. Errors: CheckFailed when the session refuses it."""
        made = make(self._session.new_rid())
        refusal = self._session.request(made)
        self._link.flush()
        _require(refusal is None, f"{made.t} was not sent: {refusal}")
        return made

    async def ask(self, make: Callable[[str], m.LinkRequest]) -> m.ResultMessage:
        """Send a request and return its result."""
        answer = await self._answer(self.request(make))
        assert isinstance(answer, m.ResultMessage)
        return answer

    async def status(self) -> m.Status:
        """Return a fresh status."""
        answer = await self._answer(self.request(lambda rid: m.GetStatus(rid=rid)))
        assert isinstance(answer, m.Status)
        return answer

    async def account(self, name: str) -> m.AccountStatus:
        """Return the fresh status of an account."""
        found = next((each for each in (await self.status()).accounts if each.name == name), None)
        if found is None:
            raise CheckFailed(f"the status has no account {name}")
        return found

    async def _answer(self, request: m.LinkRequest) -> m.Message:
        def choose(event: o.Event) -> m.Message | None:
            if isinstance(event, o.Answered) and event.request.rid == request.rid:
                return event.message
            if isinstance(event, o.NotAnswered) and event.request.rid == request.rid:
                raise CheckFailed(f"{request.t} was not answered: {event.reason}")
            return None

        return await self.event(choose, f"{request.t} was not answered", _FLAT_S)

    def prepare(self, signal: m.SignalMessage) -> Prepared:
        """Return the line of a signal. Errors: CheckFailed."""
        prepared = self._session.prepare(signal)
        if not isinstance(prepared, Prepared):
            raise CheckFailed(f"the signal was not prepared: {prepared.value}")
        return prepared

    async def send(self, prepared: Prepared) -> m.Ack:
        """Send a signal and return its ack. Errors: CheckFailed for any other answer."""
        answer = await self._signalled(prepared)
        if not isinstance(answer, m.Ack):
            code = getattr(answer, "code", None) or getattr(answer, "t", "no answer")
            raise CheckFailed(f"the signal was refused: {code} {getattr(answer, 'detail', '') or ''}".rstrip())
        return answer

    async def refusal(self, prepared: Prepared) -> str:
        """Send a signal and return the code it is refused with. Errors: CheckFailed when it is accepted."""
        answer = await self._signalled(prepared)
        if not isinstance(answer, m.Nack):
            raise CheckFailed(f"the signal was answered by {answer.t}")
        return answer.code

    async def _signalled(self, prepared: Prepared) -> m.Message:
        refusal = self._session.send(prepared)
        self._link.flush()
        _require(refusal is None, f"the signal was not sent: {refusal}")
        return await self.event(
            lambda event: event.message if isinstance(event, o.SignalChanged) and event.id == prepared.id else None,
            "the signal was not answered",
        )


def _problem_of(legs: list[m.OrderStatus]) -> str:
    """Return why these are not one stop and one target of one contract each, bound by one OCO id; "" when they are."""
    roles = sorted(each.name.rsplit(":", 1)[1][0] for each in legs)
    if roles != ["S", "T"]:
        return f"there are the exits {', '.join(each.name for each in legs)}"
    if any(each.qty - each.filled != 1 for each in legs):
        return "an exit is not for one contract"
    if len({each.oco for each in legs}) != 1 or not legs[0].oco:
        return "the exits have no common OCO id"
    stop = next(each for each in legs if each.name.rsplit(":", 1)[1].startswith("S"))
    if stop.state not in _LIVE_STOPS:
        return f"the stop is {stop.state}, which protects nothing when the PC is off"
    return ""


def _require(holds: bool, why: str) -> None:
    if not holds:
        raise CheckFailed(why)
