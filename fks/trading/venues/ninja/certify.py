"""Certificate of MetaTrader 5: numbered cases at the agent beside a running terminal, with the smallest volume.

They use the wire alone. Only orders that the certificate made are touched: the pending ones of a case are cancelled and
its positions are closed by their entries' ids before the next one begins; if that fails, no further case runs. All
cases and closings together end within ten minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from decimal import Decimal

from fks.bridge.ninja import messages as m
from fks.bridge.ninja import outputs as o
from fks.bridge.ninja.session import Identity
from fks.bridge.ninja.strict_json import Lots
from fks.bridge.ninja_link.certify import CheckFailed, Talk
from fks.bridge.ninja_link.check import Address, Checked, check_connection
from fks.clock import Clock
from fks.model.decimals import plain
from fks.model.errors import OutageError, unprocessable
from fks.model.ninja import MT5
from fks.trading.venues.conformance import Case, CaseFailed, CasePace, check
from fks.trading.venues.listing import VenueListing
from fks.trading.venues.ninja.venue import CAPABILITIES

#: 7 cases and as many closings, each within 40 s. An order without a result counts as absent after 30 s
PACE = CasePace(step_s=0.5, wait_s=35.0, absent_s=30.0, case_s=40.0)
_ROW = VenueListing(MT5.name, MT5.name, "link", True, CAPABILITIES)
_OFFSET_MS_MAX = 2_000
_VALID_MS = 30_000
_PRICE_S = 15.0
_SLACK_S = 5.0
_FAR, _NEARER = Decimal("0.01"), Decimal("0.008")  # of the price: stop and target rest there, and the moved stop
_PREFIX = "fce47f1ed000"  # of the ids of all certificates' signals: a later run knows what a killed one left


@dataclass(frozen=True, slots=True)
class Mt5Subject:
    """The account, the symbol and the order of a certificate. `is_demo`: the terminal reports no real money.
    `agent`: its version."""

    account: str
    symbol: m.InstrumentMessage
    price: Decimal
    is_demo: bool
    platform: str
    agent: str

    @property
    def lots(self) -> Lots:
        """Return the smallest volume."""
        return Lots(self.symbol.volume_min)

    def away(self, part: Decimal) -> Decimal:
        """Return so large a part of the price, on the tick."""
        tick = self.symbol.tick_size
        return max(self.price * part // tick, Decimal(1)) * tick


async def subject_of(
    identity: Identity, address: Address, clock: Clock, account: str | None, symbol: str
) -> Mt5Subject:
    """Return what a certificate trades, as the agent reports it. `account`: its number; None: the only one.

    Errors: OutageError, ConfigError; InputError CERTIFY_NOT_TRADED for an account or a symbol that is not there.
    """
    checked = await check_connection(replace(identity, role="observe"), address, clock, pings=1)
    rows = [one for one in checked.welcome.accounts if account in (None, one.name)]
    if len(rows) != 1:
        names = ", ".join(one.name for one in checked.welcome.accounts) or "none"
        detail = f"the agent has no account {account}" if account else "the agent does not have one account"
        raise unprocessable("CERTIFY_NOT_TRADED", f"{detail}: {names}", "name it: mt5.account_number")
    try:
        listed, price = await _look(replace(identity, role="data"), address, clock, symbol)
    except CheckFailed as failed:
        remedy = "choose another --symbol, or wait until its market is open"
        raise unprocessable("CERTIFY_NOT_TRADED", str(failed), remedy) from None
    of = checked.welcome.platform, checked.status.agent or ""
    return Mt5Subject(rows[0].name, listed, price, rows[0].sim, *of)


async def _look(identity: Identity, address: Address, clock: Clock, symbol: str) -> tuple[m.InstrumentMessage, Decimal]:
    """Return a symbol as it is listed, and its price now. Errors: OutageError, CheckFailed."""
    talk = Talk(identity, address, clock)
    async with talk.running():
        await talk.ask(lambda rid: m.ListInstruments(rid=rid))
        rows = [event.message for event in talk.events if isinstance(event, o.MarketData)]
        listed = next((of for of in rows if isinstance(of, m.InstrumentMessage) and of.instrument == symbol), None)
        if listed is None or not listed.trading:
            raise CheckFailed(f"{symbol} is not in the Market Watch, or not traded")
        talk.request(lambda rid: m.Subscribe(rid=rid, instruments=(symbol,), quotes=False))
        trade = await talk.event(
            lambda event: (
                event.message if isinstance(event, o.MarketData) and isinstance(event.message, m.TradeMessage) else None
            ),
            f"no tick of {symbol} within {_PRICE_S:.0f} s",
            _PRICE_S,
        )
        return listed, trade.price


class Mt5Rig:
    """Sessions with the agent, and the signals of a case. `started_ns`: their ids are made from it."""

    def __init__(
        self,
        identity: Identity,
        address: Address,
        clock: Clock,
        subject: Mt5Subject,
        started_ns: int,
        pace: CasePace = PACE,
    ) -> None:
        self.row, self.pace, self.subject = _ROW, pace, subject
        self.dust = Decimal(0)
        self.sent: list[str] = []  # entries and exits of all cases
        self._identity, self._address, self._clock, self._started_ns = identity, address, clock, started_ns
        self._made = 0
        self._open: list[str] = []  # entries of this case

    # ── sessions and signals ─────────────────────────────────────────────────────────────────────
    @contextlib.asynccontextmanager
    async def talk(self, role: m.Role = "control") -> AsyncIterator[Talk]:
        """Open a session. Errors: OutageError."""
        instance = uuid.uuid4().hex  # of this connection; no order is named after it
        talk = Talk(replace(self._identity, role=role, instance=instance), self._address, self._clock)
        async with talk.running():
            yield talk

    async def checked(self) -> Checked:
        """Return what the agent reports. Errors: OutageError, ConfigError."""
        return await check_connection(replace(self._identity, role="observe"), self._address, self._clock)

    async def look(self) -> tuple[m.InstrumentMessage, Decimal]:
        """Return the symbol and its price now. Errors: OutageError, CheckFailed."""
        return await _look(
            replace(self._identity, role="data"), self._address, self._clock, self.subject.symbol.instrument
        )

    def signal(self, **fields: object) -> m.SignalMessage:
        """Return a new entry to buy the smallest volume, with stop and target."""
        self._made += 1
        now_ms = self._clock.now_ns() // 1_000_000
        far = self.subject.away(_FAR)
        given: dict[str, object] = {
            "id": _PREFIX + uuid.uuid5(uuid.NAMESPACE_OID, f"{self._started_ns} {self._made}").hex[len(_PREFIX) :],
            "account": self.subject.account, "instrument": self.subject.symbol.instrument, "action": "buy",
            "type": "market", "qty": self.subject.lots, "sl_points": far, "tp_points": far, "created_ms": now_ms,
            "valid_until": now_ms + _VALID_MS, "note": "fks certify", **fields,
        }  # fmt: skip
        return m.SignalMessage(**given)  # type: ignore[arg-type]

    def placed(self, signal: m.SignalMessage) -> None:
        """Note an entry that is about to be sent."""
        self._open.append(signal.id)
        self.sent.append(signal.id)

    async def close(self, talk: Talk, *entries: str) -> None:
        """Close the positions of entries at the market. Errors: CheckFailed."""
        wanted = {"action": "exit", "qty": None, "sl_points": None, "tp_points": None, "entries": entries}
        signal = self.signal(**wanted)
        self.sent.append(signal.id)
        await talk.send(talk.prepare(signal))

    async def orders(self, talk: Talk, *ids: str) -> list[m.OrderStatus]:
        """Return the live orders of signals: the entry E, the stop S, the target T."""
        account = await talk.account(self.subject.account)
        names = tuple(f"FKS:{id}:" for id in ids)
        return [one for one in account.orders if one.name.startswith(names) and one.state not in m.ENDED]

    async def filled(self, talk: Talk) -> m.SignalMessage:
        """Send an entry at the market; return it once it is filled, and stop and target are on the position."""
        signal = self.signal()
        self.placed(signal)
        await talk.send(talk.prepare(signal))

        async def legs() -> list[str]:
            return sorted(one.name.rpartition(":")[2] for one in await self.orders(talk, signal.id))

        await talk.wait(legs, lambda roles: roles == ["S", "T"], "the position does not show stop and target")
        return signal

    async def flat(self, talk: Talk, *ids: str) -> None:
        """Wait until nothing of signals is open. Errors: CheckFailed naming the rest."""
        if left := await self._left(talk, ids, 10.0):
            raise CheckFailed("; ".join(left))

    # ── what a case leaves ───────────────────────────────────────────────────────────────────────
    async def settle(self) -> list[str]:
        """Cancel the pending orders of the case and close its positions; return texts of what is left all the same."""
        if not self._open:
            return []
        try:
            async with asyncio.timeout(self.pace.wait_s + _SLACK_S), self.talk() as talk:
                return await self._left(talk, tuple(self._open), self.pace.wait_s, closes=True)
        except Exception as error:  # what is left is reported in every case
            names = ", ".join(self._open)
            return [f"not known, look at the terminal: {type(error).__name__}: {error}; signals {names}"]

    async def _left(self, talk: Talk, ids: tuple[str, ...], within_s: float, *, closes: bool = False) -> list[str]:
        """Return texts of what is still open of signals after a time, and end it meanwhile if it `closes`."""
        end_s = self._clock.monotonic() + within_s
        while True:
            status = await talk.status()
            held = [one for one in status.signals_open if one.id in ids]
            orders = await self.orders(talk, *ids)
            if not held and not orders:
                return []
            if self._clock.monotonic() > end_s:
                texts = [f"signal {one.id} is {one.state}, {plain(Decimal(one.filled))} filled" for one in held]
                return texts + [f"order {one.name} is {one.state}" for one in orders]
            for one in held if closes else ():
                with contextlib.suppress(CheckFailed):  # the agent refuses what is closing already
                    if one.filled:
                        await self.close(talk, one.id)
                    else:
                        await talk.ask(lambda rid, id=one.id: m.Cancel(rid=rid, id=id))  # type: ignore[misc]
            await self._clock.sleep(self.pace.step_s)

    async def end(self) -> None:
        """Forget the signals of a case; each session ends with its block."""
        self._open.clear()

    async def missing_money(self) -> str:
        """Return why no order can be paid. The broker checks the margin of each order before it is sent."""
        async with self.talk("observe") as talk:
            free = (await talk.account(self.subject.account)).values.get("BuyingPower")
        return f"{free} of free margin" if free is not None and free <= 0 else ""


# ── cases ────────────────────────────────────────────────────────────────────────────────────────
async def _account(rig: Mt5Rig) -> None:
    checked, subject = await rig.checked(), rig.subject
    found = next((one for one in checked.welcome.accounts if one.name == subject.account), None)
    status = next((one for one in checked.status.accounts if one.name == subject.account), None)
    check(found is not None and status is not None, f"the agent has no account {subject.account}")
    assert found is not None
    assert status is not None
    check(found.sim is subject.is_demo, "the account changed between demo and real money")
    check(found.mode == "auto", f"the mode of the account is {found.mode}: an agent takes real money with --live alone")
    check(status.status == "Connected", "the account is not connected")
    check(status.trading_code is None, f"trading is disabled ({status.trading_code})")
    check(not checked.status.halted, f"the kill latch is set: {MT5.resume_remedy}")
    check(checked.status.ready, "the agent is not ready")
    check(abs(checked.offset_ms) <= _OFFSET_MS_MAX, f"the clocks differ by {checked.offset_ms} ms")
    check(checked.status.server_offset_s is not None, "the offset of the trade server's clock is not known yet")
    check(bool(found.currency and found.margin_mode), "the agent reports neither currency nor margin mode")
    left = [one.id for one in checked.status.signals_open if one.id.startswith(_PREFIX)]
    check(not left, f"an earlier run was killed: end in the terminal what is open of its signals {', '.join(left)}")
    name = subject.symbol.instrument
    is_free = all(one.instrument != name or not one.qty for one in status.positions)
    check(is_free, f"the account holds {name} already: choose another --symbol")


async def _prices(rig: Mt5Rig) -> None:
    listed, price = await rig.look()
    check(listed == replace(rig.subject.symbol, rid=listed.rid), "the symbol's steps changed")
    check(price % listed.tick_size == 0, f"the price {price} is not on the tick {listed.tick_size}")
    check(listed.volume_min % listed.volume_step == 0, "the smallest volume is not on its step")


async def _too_large(rig: Mt5Rig) -> None:
    listed = rig.subject.symbol
    async with rig.talk() as talk:
        signal = rig.signal(qty=Lots(listed.volume_max + listed.volume_step))
        rig.placed(signal)
        code = await talk.refusal(talk.prepare(signal))
        check(code == "qty_limit", f"a volume above the largest was refused as {code}, not as qty_limit")
        check(not await rig.orders(talk, signal.id), "a refused order is shown")


async def _pending(rig: Mt5Rig) -> None:
    signal = rig.signal(type="limit", price=rig.subject.price - rig.subject.away(_FAR))
    rig.placed(signal)
    async with rig.talk() as first:
        prepared = first.prepare(signal)
        await first.send(prepared)
        await first.wait(lambda: rig.orders(first, signal.id), bool, "the pending order is not shown")
    async with rig.talk() as second:  # the same bytes, over another connection
        check((await second.send(prepared)).dup, "the same line was accepted as a new signal")
        orders = await rig.orders(second, signal.id)
        check(len(orders) == 1, f"{len(orders)} orders of one signal")
        result = await second.ask(lambda rid: m.Cancel(rid=rid, id=signal.id))
        check(result.ok, f"the cancel was refused: {result.code}")
        await rig.flat(second, signal.id)


async def _entry_and_exit(rig: Mt5Rig) -> None:
    async with rig.talk() as talk:
        signal = await rig.filled(talk)
        await rig.close(talk, signal.id)
        await rig.flat(talk, signal.id)


async def _moved_stop(rig: Mt5Rig) -> None:
    async with rig.talk() as talk:
        signal = await rig.filled(talk)
        price = rig.subject.price - rig.subject.away(_NEARER)
        result = await talk.ask(lambda rid: m.Modify(rid=rid, id=signal.id, sl_price=price))
        check(result.ok, f"the change was refused: {result.code} {result.detail or ''}")

        async def stops() -> list[Decimal | None]:
            return [one.stop for one in await rig.orders(talk, signal.id) if one.name.endswith(":S")]

        await talk.wait(stops, lambda found: found == [price], f"the stop is not at {price}")
        await rig.close(talk, signal.id)
        await rig.flat(talk, signal.id)


async def _replayed(rig: Mt5Rig) -> None:
    async with rig.talk() as talk:
        logged = [event.event.body for event in talk.events if isinstance(event, o.Logged)]
    found = [body for body in logged if isinstance(body, m.ExecutionEvent) and body.op == "add"]
    ids = [body.exec_id for body in found]
    check(len(ids) == len(set(ids)), "an execution is in the journal twice")
    bought, sold = (
        sum(Decimal(body.qty) for body in found if body.id in rig.sent and body.side == side)
        for side in ("buy", "sell")
    )
    check(bought == sold > 0, f"the journal shows {bought} lots bought and {sold} sold by these orders")


def _failing(of: Callable[[Mt5Rig], Awaitable[None]]) -> Callable[[Mt5Rig], Awaitable[None]]:
    """Return the check with the link's failures as those of a case."""

    async def checked(rig: Mt5Rig) -> None:
        try:
            await of(rig)
        except (CheckFailed, OutageError) as error:
            raise CaseFailed(str(error)) from None

    return checked


#: send no order
FIRST: tuple[Case[Mt5Rig], ...] = (
    Case("M-01", "the account takes orders; its clocks, currency and margin mode are known", _failing(_account)),
    Case("M-02", "the symbol is listed with its steps, and ticks come on its tick size", _failing(_prices)),
)
OTHERS: tuple[Case[Mt5Rig], ...] = (
    Case("M-03", "a volume above the largest is refused for that reason, and leaves nothing", _failing(_too_large)),
    Case("M-04", "a pending order rests once, whatever is sent again, and a cancel ends it", _failing(_pending)),
    Case("M-05", "an entry fills with its stop and target, and an exit closes both", _failing(_entry_and_exit)),
    Case("M-06", "the stop of a position moves in place", _failing(_moved_stop)),
    Case("M-07", "a new session replays each execution of these orders once", _failing(_replayed)),
)
