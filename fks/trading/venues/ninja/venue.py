"""Orders to NinjaTrader 8 and MetaTrader 5 as rows: the link of the group sends them to the bridge and writes what it
answers.

The venue holds no socket. A request is committed and then waited for; what is not taken by the link in time is
withdrawn, which proves that nothing left. Reports and executions are read from the bridge's events, open orders and
holdings from its status. The bridge keeps the bracket: SL and TP travel with the entry, and its legs are reported.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from fks.clock import Clock
from fks.model.account import Balance, Environment, Transfer, VenueIdentity
from fks.model.bar import Bar
from fks.model.codes import Code
from fks.model.errors import OutageError
from fks.model.ids import client_order_id, intent_id
from fks.model.ninja import (
    EXIT_ENTRIES,
    FRESH_S,
    NINJA,
    TRADING_CODE,
    BridgePlatform,
    LinkRecord,
    NinjaEvent,
    NinjaRequest,
    RequestKind,
    RequestRecord,
    RequestState,
)
from fks.model.order import (
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
    State,
    TimeInForce,
)
from fks.model.ports import Log, Priority, SessionBack, SessionLost, VenueCapabilities, VenueEvent
from fks.model.signal import Signal
from fks.trading.venues.base import mistake_in, refused
from fks.trading.venues.ninja import translate as t
from fks.trading.venues.ninja.rows import VenueRows

CAPABILITIES: Final = VenueCapabilities(
    types=frozenset({OrderType.MARKET, OrderType.LIMIT, OrderType.STOP, OrderType.STOP_LIMIT}),
    times_in_force=frozenset({TimeInForce.GTC, TimeInForce.IOC}),
    has_oco=False,  # no leg is ever sent
    can_short=True,
    fee_in_received_asset=False,
    keeps_bracket=True,
    is_margin=True,
    has_good_till_date=True,
    waits_for_session=True,
)
POLL_S = 1.0
_ENTRIES_MAX: Final = 100  # ids in an exit
_RELAY: Final = "relay"
_LOOK_S = 0.25  # a lost wake-up costs a waiting request this long
_STATUS_AGE_S = 1.0  # an account's figures are asked for again after this
_EVENTS_MAX = 1_000
_NAMES_MAX = 20_000
_LEGS_NS = 40 * 86_400 * 1_000_000_000  # legs that were reported longer ago have ended
_RESTS_NS = 23 * 3_600 * 1_000_000_000  # the bridge refuses an order that may rest for more than a day
_CLOSE_NS = 10 * 1_000_000_000  # the bridge ends the legs first: a closing order may take this long to go out
_SHOWN_NS = 60 * 1_000_000_000  # a person needs longer than a program: how long a market order is shown
_SHOWN_EXIT_NS = 300 * 1_000_000_000
_FINAL = frozenset({RequestState.ACKED, RequestState.NACKED, RequestState.EXPIRED, RequestState.WITHDRAWN})
_GONE = {
    RequestState.EXPIRED: (Code.SIGNAL_EXPIRED.value, "its time was over before the bridge took it"),
    RequestState.WITHDRAWN: (Code.VENUE_DOWN.value, "nothing was sent: the link did not take it in time"),
}


@dataclass(frozen=True, slots=True)
class NinjaConfig:
    """Group and account that the venue trades. `timeout_s`: how long an answer of the bridge is waited for. `name`: of
    the venue in tables. `is_shown`: signals are only shown to a person, so the account must be in mode relay."""

    group: str
    account: str
    timeout_s: float = 5.0
    account_id: int = 0  # ours
    name: str = t.VENUE
    is_shown: bool = False
    platform: BridgePlatform = NINJA


class NinjaVenue:
    """One account of a platform with a bridge. Hard state: the rows. Soft state: the names of legs, the last status."""

    capabilities = CAPABILITIES

    def __init__(
        self, config: NinjaConfig, rows: VenueRows, clock: Clock, log: Log, may_send: Callable[[], bool] | None = None
    ) -> None:
        self.name = config.name
        self._config, self._rows, self._clock, self._log = config, rows, clock, log
        self._may_send = may_send or (lambda: True)
        self._key = config.platform.key(config.group)
        self._link = config.platform.link(config.group)
        self._title = config.platform.title
        self._peer = f"{self._title}'s {config.platform.peer}"
        self._currency = t.CURRENCY  # of the account, as last reported
        self._refusal = ""
        self._can_name = False  # the bridge's exits may name the entries that they close; as last read
        self._who: VenueIdentity | None = None
        self._legs: OrderedDict[str, t.OrderName] = OrderedDict()  # by our id
        self._symbols: OrderedDict[str, str] = OrderedDict()  # of signals
        self._relayed: OrderedDict[str, bool] = OrderedDict()  # of signals: whether a person was shown it
        self._status: tuple[float, Mapping[str, Any]] | None = None  # taken at (monotonic)

    async def open(self) -> None:
        """Learn which legs the bridge has placed. Errors: OutageError."""
        if not self._config.platform.has_lots:
            await asyncio.to_thread(t.load_calendars, self._clock.now_ns())
        since_ns = self._clock.now_ns() - _LEGS_NS
        for signal_id, name in await self._rows.leg_names(self._key, self._config.account, since_ns):
            if (found := t.parse_name(name)) is not None and found.leg and found.signal_id == signal_id:
                self._note_leg(found)

    async def close(self) -> None:
        """Nothing to close."""

    # ── writing ──────────────────────────────────────────────────────────────────────────────────
    async def submit(self, order: Order) -> Answer:
        """Ask for the order, once, and wait for the bridge's answer. What the link did not take is withdrawn."""
        if (no := self._refuse(order)) is not None:
            return no
        now_ns = self._clock.now_ns()
        body = t.signal_body(order, self._config.account, now_ns, self._config.platform)
        if isinstance(body, Answer):
            return body
        try:
            mode = await self._mode_for(order)
        except OutageError as error:
            return refused(Code.VENUE_DOWN, Refusal.UNAVAILABLE, f"nothing was sent: {error}")
        if isinstance(mode, Answer):
            return mode
        if mode != _RELAY:
            try:
                no = await self._narrow(order, body)
            except OutageError as error:
                return refused(Code.VENUE_DOWN, Refusal.UNAVAILABLE, f"nothing was sent: {error}")
            if no is not None:
                return no
        self._note_symbol(order.client_order_id, order.symbol)
        request = NinjaRequest(
            order.client_order_id,
            self._key,
            RequestKind.SIGNAL,
            body,
            self.name,
            self._valid_until_ns(order, now_ns, is_shown=mode == _RELAY),
        )
        if not self._may_send():
            return refused(Code.NOT_LEADER, Refusal.NOT_SENT, "the lease was lost on the way to the bridge")
        record = await self._asked(request)
        if isinstance(record, Answer):
            return record
        return self._answered(record, order)

    async def _narrow(self, order: Order, body: dict[str, Any]) -> Answer | None:
        """Let an exit name the entries of its instance; refuse an entry beside another instance where it cannot.

        The bridge would close the oldest ones: the stop of the wrong instance would go. Errors: OutageError.
        """
        if t.is_closing(order) is not self._can_name:
            return None
        known = await self._rows.entries(self._config.account_id, self.name, order.symbol)
        if self._can_name:
            mine = [id for instance, id in known if instance == order.instance]
            body |= {"entries": mine[:_ENTRIES_MAX]} if mine else {}
            return None
        others = sorted({instance for instance, _ in known} - {order.instance})
        if not others:
            return None
        detail = (
            f"nothing was sent: {others[0] or 'another owner'} trades {order.symbol} in {self._config.account}, and "
            f"this version of the {self._config.platform.peer} cannot tell two instances apart: "
            f"{self._config.platform.update_remedy}"
        )
        return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, detail)

    async def show_exit(self, signal: Signal) -> Answer | None:
        """Show a person an exit of which FKS holds nothing: in mode relay the position is the person's own.

        None: the account is automated, or cannot be reached. Safe to repeat. Errors: none.
        """
        name = t.name_at(signal.symbol, self._config.platform)
        try:
            mode = await self._mode()
        except OutageError:
            return None
        if mode != _RELAY or name is None or self._refusal or not self._may_send():
            return None
        body = {"account": self._config.account, "instrument": name, "action": "exit", "type": "market"}
        id = client_order_id(intent_id(signal.id), Role.EXIT)
        until_ns = self._clock.now_ns() + _SHOWN_EXIT_NS
        record = await self._asked(NinjaRequest(id, self._key, RequestKind.SIGNAL, body, self.name, until_ns))
        if isinstance(record, Answer):
            return record
        if record.state is RequestState.ACKED:
            return t.shown(self._config.account)
        return refused(record.code or record.state.value, Refusal.PERMISSION, record.detail or "it was not shown")

    async def submit_oco(self, stop: Order, limit: Order) -> tuple[Answer, Answer]:
        """Refuse: the bridge keeps the bracket, and no leg is ever sent."""
        no = refused(Code.CLIENT_VALIDATION, Refusal.OTHER, f"{self._peer} places SL and TP itself")
        return no, no

    async def amend(self, order: Order, quantity: Decimal) -> Answer:
        """Refuse: the bridge changes its legs in place by itself."""
        return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, f"{self._peer} changes SL and TP itself")

    async def cancel(self, order: Order) -> Answer:
        """Cancel an order that is not filled yet, and wait for its end: ACK proves that it has ended."""
        if order.parent_id is not None:
            return refused("KEPT_BY_VENUE", Refusal.OTHER, f"{self._peer} alone ends SL and TP")
        if self._refusal:
            return refused(Code.ACCOUNT_UNKNOWN, Refusal.NOT_SENT, f"nothing was sent: {self._refusal}")
        if not self._may_send():
            return refused(Code.NOT_LEADER, Refusal.NOT_SENT, "the lease was lost on the way to the bridge")
        request = self._request(RequestKind.CANCEL, {"id": order.client_order_id})
        record = await self._asked(request)
        if isinstance(record, Answer):
            return record
        if record.state is not RequestState.ACKED:
            return self._answered(record, order)
        return await self._ended(order)

    async def _ended(self, order: Order) -> Answer:
        """Wait for the end of an order that the platform was told to cancel: a fill may win the race."""
        deadline_s = self._clock.monotonic() + self._config.timeout_s
        while True:
            try:
                report = await self._report(order.symbol, order.client_order_id)
            except OutageError as error:
                return Answer(Outcome.AMBIGUOUS, detail=str(error))
            if report is not None and report.state in (State.CANCELLED, State.EXPIRED, State.REJECTED):
                return Answer(Outcome.ACK, report)
            if report is not None and report.state is State.FILLED:
                return refused("UNKNOWN_ORDER", Refusal.UNKNOWN_ORDER, "it was filled before it could be cancelled")
            left_s = deadline_s - self._clock.monotonic()
            if left_s <= 0:
                return Answer(Outcome.AMBIGUOUS, detail="the platform has not reported the end of the order yet")
            await self._rows.wait(self._key, min(left_s, _LOOK_S))

    def wait_s(self, priority: Priority = Priority.ENTRY) -> float:
        """Return 0: the bridge's own limits are answered by a code."""
        return 0.0

    def _refuse(self, order: Order) -> Answer | None:
        if self._refusal:
            return refused(Code.ACCOUNT_UNKNOWN, Refusal.NOT_SENT, f"nothing was sent: {self._refusal}")
        if order.parent_id is not None:
            return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, f"{self._peer} places SL and TP itself")
        if wrong := mistake_in(order, self.capabilities.types):
            return refused(Code.CLIENT_VALIDATION, Refusal.OTHER, wrong)
        return None

    async def _mode_for(self, order: Order) -> str | Answer:
        """Return `_mode`; an order with a time limit waits for a link that connects again. Errors: OutageError."""
        deadline_s = self._clock.monotonic() + self._config.timeout_s
        while True:
            mode = await self._mode(is_entry=not t.is_closing(order))
            is_late = order.valid_until_ns is None or self._clock.now_ns() >= order.valid_until_ns
            left_s = deadline_s - self._clock.monotonic()
            if not isinstance(mode, Answer) or mode.code != "not_ready" or is_late or left_s <= 0:
                return mode
            await self._rows.wait(self._key, min(left_s, _LOOK_S))

    async def _mode(self, *, is_entry: bool = False) -> str | Answer:
        """Return the account's mode at the bridge, auto or relay, or why nothing can be sent now. Errors:
        OutageError."""
        link, group = await self._rows.link(self._key), self._config.group
        if link is None or not link.is_fresh:
            return refused(
                Code.VENUE_DOWN, Refusal.UNAVAILABLE, f"nothing was sent: the link {self._link} is not running"
            )
        if link.report.is_halted:
            return refused(
                "halted", Refusal.UNAVAILABLE, f"nothing was sent: the kill latch of {self._title} is engaged"
            )
        account = self._account(link)
        if is_entry and account is not None and (code := account.get(TRADING_CODE)) is not None:
            return refused("trading_disabled", Refusal.HALTED, f"nothing was sent: {t.disabled(code, self._title)}")
        if not link.report.is_ready:
            detail = f"nothing was sent: {self._title} of group {group} is not ready ({link.report.state})"
            return refused("not_ready", Refusal.UNAVAILABLE, detail)
        if account is None:
            detail = f"nothing was sent: {self._title} of group {group} lists no account {self._config.account}"
            return refused("unknown_account", Refusal.PERMISSION, detail)
        self._can_name = bool(account.get(EXIT_ENTRIES))
        mode = account.get("mode")
        if mode == "auto" and self._config.is_shown:
            detail = (
                f"nothing was sent: ninja.copies has mode relay for account {self._config.account}, and the bridge "
                "would trade it; set its mode to relay in the bridge's configuration"
            )
            return refused("automation_forbidden", Refusal.PERMISSION, detail)
        if mode not in ("auto", _RELAY):
            detail = (
                f"nothing was sent: account {self._config.account} has mode {mode} at the bridge; "
                "set it to auto, or to relay, in the bridge's configuration"
            )
            return refused("automation_forbidden", Refusal.PERMISSION, detail)
        return str(mode)

    def _account(self, link: LinkRecord) -> Mapping[str, Any] | None:
        found = next((a for a in link.report.accounts if a.get("name") == self._config.account), None)
        if found is not None:
            self._currency = str(found.get("currency") or t.CURRENCY)
        return found

    def _valid_until_ns(self, order: Order, now_ns: int, *, is_shown: bool) -> int:
        """Return how long the bridge may still execute the order, or show it; what it has not filled by then it
        cancels."""
        if t.is_closing(order):
            return now_ns + (_SHOWN_EXIT_NS if is_shown else _CLOSE_NS)
        market_ns = _SHOWN_NS if is_shown else int(self._config.timeout_s * 1e9)
        rests_ns = now_ns + (market_ns if order.type is OrderType.MARKET else _RESTS_NS)
        return rests_ns if order.valid_until_ns is None else min(order.valid_until_ns, rests_ns)

    # ── requests ─────────────────────────────────────────────────────────────────────────────────
    def _request(self, kind: RequestKind, body: Mapping[str, Any]) -> NinjaRequest:
        until_ns = self._clock.now_ns() + int(self._config.timeout_s * 1e9)
        return NinjaRequest(uuid.uuid4().hex, self._key, kind, body, self.name, until_ns)

    async def _asked(self, request: NinjaRequest) -> RequestRecord | Answer:
        """Store a request and wait for its answer. What nobody took in time is withdrawn."""
        try:
            if not await self._rows.ask(request):
                known = await self._rows.answer_of(request.id)
                if known is not None:
                    return Answer(Outcome.EXISTS, detail="another request has this id")
                return refused(Code.NOT_LEADER, Refusal.NOT_SENT, "a newer epoch writes for this account")
            return await self._wait_for(request.id)
        except OutageError as error:  # the request may be committed: the link may send it
            return Answer(Outcome.AMBIGUOUS, detail=str(error))

    async def _wait_for(self, id: str) -> RequestRecord:
        """Return a request once it has a final answer, or as it is when the time is over."""
        deadline_s = self._clock.monotonic() + self._config.timeout_s
        while True:
            record = await self._rows.answer_of(id)
            assert record is not None
            if record.state in _FINAL or record.state is RequestState.INDETERMINATE:
                return record
            left_s = deadline_s - self._clock.monotonic()
            if left_s > 0:
                await self._rows.wait(self._key, min(left_s, _LOOK_S))
                continue
            if record.state is RequestState.NEW:
                await self._rows.withdraw(id)
            return await self._rows.answer_of(id) or record

    def _answered(self, record: RequestRecord, order: Order) -> Answer:
        """Return what the state of a request means for the order."""
        if record.state is RequestState.ACKED and (record.answer or {}).get("state") == t.RELAYED:
            return t.shown(self._config.account)
        if record.state is RequestState.ACKED:
            return Answer(Outcome.ACK, t.acknowledged(order.client_order_id, order.symbol, record.answer or {}))
        if record.state is RequestState.NACKED:
            return t.refusal_of(record.code, record.detail)
        if record.state in _GONE:
            code, detail = _GONE[record.state]
            return refused(code, Refusal.UNAVAILABLE, detail)
        if record.state is RequestState.INDETERMINATE:
            return Answer(Outcome.AMBIGUOUS, code=record.code, detail=record.detail or "the bridge does not know it")
        return Answer(Outcome.AMBIGUOUS, code=record.code, detail=record.detail or "no answer of the bridge in time")

    # ── reading ──────────────────────────────────────────────────────────────────────────────────
    async def query(self, symbol: str, client_order_id: str, since_ns: int = 0) -> Lookup:
        """Look an order up: by the bridge's events, then by its request, and else at the bridge. Errors: none."""
        if self._refusal:
            return Lookup(Presence.NO_ANSWER, detail=self._refusal)
        try:
            report = await self._report(symbol, client_order_id)
            if report is not None:
                return Lookup(Presence.FOUND, report)
            return await self._looked_up(symbol, client_order_id)
        except OutageError as error:
            return Lookup(Presence.NO_ANSWER, detail=str(error))

    async def _report(self, symbol: str, client_order_id: str) -> Report | None:
        """Return what the stored events say of an order; None when they say nothing."""
        name = self._legs.get(client_order_id) or t.OrderName(client_order_id, "E", 1)
        found: Report | None = None
        for event in await self._rows.events_of(name.signal_id):
            said: Report | None = None
            if event.kind == "relay":
                return t.shown_report(event, symbol)
            if event.kind == "order" and event.body.get("name") == str(name):
                said = t.report_of(name, event.body, symbol, event.at_ns, "rest")
            elif event.kind == "exec" and event.body.get("name") == str(name) and name.leg and found is None:
                said = t.first_leg_report(name, event, symbol)
            elif event.kind == "signal" and not name.leg:
                said = t.signal_report(event, symbol)
                if found is not None and found.state in (State.FILLED, State.CANCELLED, State.REJECTED):
                    said = None
            found = said or found
        return found

    async def _looked_up(self, symbol: str, client_order_id: str) -> Lookup:
        if client_order_id in self._legs:
            return Lookup(Presence.NO_ANSWER, detail="the bridge has not reported this leg")
        record = await self._rows.answer_of(client_order_id)
        if record is None:
            return await self._asked_at_bridge(symbol, client_order_id)
        if record.state is RequestState.NEW and await self._rows.withdraw(client_order_id):
            record = await self._rows.answer_of(client_order_id) or record
        if record.state is RequestState.ACKED:
            return Lookup(Presence.FOUND, t.acknowledged(client_order_id, symbol, record.answer or {}))
        if record.state in _GONE or record.state is RequestState.NACKED:
            code, detail = _GONE.get(record.state, (record.code, record.detail))
            if code in t.EXISTS:
                return await self._asked_at_bridge(symbol, client_order_id)
            refusal = t.REFUSALS.get(code, Refusal.NOT_SENT)
            at_ns = record.answered_ns or record.created_ns
            report = Report(
                client_order_id,
                None,
                symbol,
                State.REJECTED,
                Decimal(0),
                at_ns,
                code=code,
                detail=detail,
                refusal=refusal,
            )
            return Lookup(Presence.FOUND, report)
        # the link asks the bridge about it as soon as it can: what it finds is in this row, and in events
        return Lookup(Presence.NO_ANSWER, detail=record.detail or f"its request is {record.state.value}")

    async def _asked_at_bridge(self, symbol: str, client_order_id: str) -> Lookup:
        """Ask the bridge about an id of which there is no row: a failover may have lost it."""
        record = await self._asked(self._request(RequestKind.QUERY, {"id": client_order_id}))
        if isinstance(record, Answer) or record.state is not RequestState.ACKED or record.answer is None:
            detail = record.detail if isinstance(record, Answer) else record.detail or "the bridge did not answer"
            return Lookup(Presence.NO_ANSWER, detail=detail)
        if record.answer.get("state") == "unknown_id":
            return Lookup(Presence.NOT_FOUND)
        return Lookup(Presence.FOUND, t.acknowledged(client_order_id, symbol, record.answer))

    async def open_orders(self) -> list[Report]:
        """Return the live orders of the account by a fresh status. Errors: OutageError."""
        self._check_refusal()
        account = await self._account_view(max_age_s=0.0)
        reports: list[Report] = []
        for name, fields in account.orders():
            if name is None:
                number = str(fields.get("order_id") or fields.get("name"))
                reports.append(
                    Report(
                        f"{self._config.platform.foreign_prefix}:{number}",
                        number,
                        "",
                        State.WORKING,
                        Decimal(0),
                        account.at_ns,
                    )
                )
                continue
            if name.leg:
                self._note_leg(name)
            symbol = await self._symbol_of(name.signal_id)
            report = t.report_of(name, fields, symbol, account.at_ns, "reconcile")
            if report is not None:
                reports.append(report)
        return reports

    async def fills_since(self, symbol: str, since_ns: int) -> list[Fill]:
        """Return the executions of the account in an instrument, as the bridge reported them. Errors: OutageError."""
        self._check_refusal()
        name = t.name_at(symbol, self._config.platform)
        if name is None:
            return []
        events = await self._rows.executions(self._key, self._config.account, name, since_ns)
        found = [self._fill(event, symbol, "rest") for event in events]
        return [fill for fill in found if fill is not None and fill.time_ns >= since_ns]

    async def balances(self) -> dict[str, Balance]:
        """Return the account's cash, and the quantities held by the base of their instrument. Errors: OutageError."""
        account = await self._account_view(max_age_s=_STATUS_AGE_S)
        return account.balances(self._currency)

    async def identity(self) -> VenueIdentity:
        """Return group and account, and whether its money is simulated. Errors: OutageError."""
        link = await self._fresh_link()
        account, platform = self._account(link), self._config.platform
        if account is None:
            raise OutageError(
                f"{self._title} of group {self._config.group} lists no account {self._config.account}",
                remedy=f"check {platform.name}.{platform.account_setting}, and the accounts at the {platform.peer}",
            )
        if not account.get("connected"):  # nobody can say whose money it is before the platform has read the account
            raise OutageError(f"account {self._config.account} is not connected to its broker")
        environment = Environment.SIM if account.get("sim") else Environment.LIVE
        return VenueIdentity(environment, f"{self._key}/{self._config.account}")

    def refuse(self, reason: str) -> None:
        """Send nothing and answer no read until `admit`."""
        self._refusal = reason

    def admit(self, identity: VenueIdentity) -> None:
        """End a refusal. Executions are named after `identity` from now on."""
        self._refusal, self._who = "", identity

    async def transfers_since(self, since_ns: int) -> list[Transfer]:
        """Return none: the platform lists no transfers."""
        return []

    async def skew_ms(self) -> float:
        """Return the bridge's clock minus ours, as the link measures it. Errors: OutageError."""
        return float((await self._fresh_link()).report.offset_ms)

    def on_bar(self, bar: Bar) -> None:
        """Not fed by bars."""

    async def last_price(self, symbol: str) -> Decimal | None:
        """Return None: prices come from the exchange of the platform."""
        return None

    # ── events ───────────────────────────────────────────────────────────────────────────────────
    async def events(self) -> AsyncIterator[VenueEvent]:
        """Yield what the bridge reports from now on, for ever; SessionLost while its link is away or not ready."""
        cursor: tuple[str | None, int] | None = None
        is_up = False
        while True:
            try:
                link = await self._rows.link(self._key)
                if cursor is None and link is not None:
                    cursor = link.bridge_epoch, link.stored_seq  # what came before is reconciled
                problem = self._problem(link)
                if is_up and problem:
                    is_up = False
                    yield SessionLost(problem)
                while cursor is not None and self._who is not None:  # executions are named after whose they are
                    rows = await self._rows.events_after(self._key, *cursor, _EVENTS_MAX)
                    for event in rows:
                        cursor = event.epoch, event.seq
                        async for found in self._translated(event):
                            yield found
                    if len(rows) < _EVENTS_MAX:
                        break
                if not is_up and not problem:
                    is_up = True
                    yield SessionBack()
            except OutageError as error:
                if is_up:
                    is_up = False
                    yield SessionLost(str(error))
                await self._clock.sleep(POLL_S)
                continue
            await self._rows.wait(self._key, POLL_S)

    def _problem(self, link: LinkRecord | None) -> str:
        if link is None or not link.is_fresh:
            return f"the link {self._link} is not running"
        account = self._account(link)
        if account is not None and (code := account.get(TRADING_CODE)) is not None:
            return t.disabled(code, self._title)
        if not link.report.is_ready:
            return f"{self._title} of group {self._config.group} is not ready ({link.report.state})"
        if account is None or not account.get("connected"):
            return f"account {self._config.account} is not connected to its broker"
        return ""

    async def _translated(self, event: NinjaEvent) -> AsyncIterator[VenueEvent]:
        """Yield what an event of the log means for orders."""
        if event.kind in ("epoch", "gap"):
            yield SessionLost("events of the bridge are lost: open orders and executions are read again")
            yield SessionBack()
            return
        if event.account is not None and event.account != self._config.account:
            return
        if event.kind == "signal" and event.signal_id is not None:
            if await self._is_relayed(event.signal_id):
                return  # its time on the screen is over: nothing of it was an order
            report = t.signal_report(event, await self._symbol_of(event.signal_id))
            if report is not None:
                yield report
            return
        name = t.parse_name(str(event.body.get("name") or ""))
        if event.kind == "order" and name is not None:
            if name.leg:
                self._note_leg(name)
            report = t.report_of(name, event.body, await self._symbol_of(name.signal_id), event.at_ns, "stream")
            if report is not None:
                yield report
        elif event.kind == "exec":
            symbol = str(event.body.get("instrument") or "") or await self._symbol_of(event.signal_id or "")
            if name is not None and name.leg and name.client_order_id not in self._legs:
                self._note_leg(name)
                yield t.first_leg_report(name, event, symbol)
            fill = self._fill(event, symbol, "stream")
            if fill is not None:
                yield fill

    def _fill(self, event: NinjaEvent, symbol: str, source: str) -> Fill | None:
        if self._who is None:
            raise OutageError("whose account the session is was not checked yet")
        return t.fill_of(
            event,
            symbol,
            account_id=self._config.account_id,
            identity=self._who,
            source=source,
            venue=self.name,
            currency=self._currency,
        )

    # ── what is known ────────────────────────────────────────────────────────────────────────────
    def _note_leg(self, name: t.OrderName) -> None:
        _keep(self._legs, name.client_order_id, name)

    def _note_symbol(self, signal_id: str, symbol: str) -> None:
        _keep(self._symbols, signal_id, symbol)

    async def _symbol_of(self, signal_id: str) -> str:
        """Return the instrument of a signal, "" when no row knows it."""
        if signal_id not in self._symbols:
            record = await self._rows.answer_of(signal_id)
            if record is None:
                return ""
            self._note_symbol(signal_id, str(record.request.body.get("instrument") or ""))
        return self._symbols[signal_id]

    async def _is_relayed(self, signal_id: str) -> bool:
        """Return whether a person was shown the signal. Errors: OutageError."""
        if signal_id not in self._relayed:
            record = await self._rows.answer_of(signal_id)
            is_shown = record is not None and (record.answer or {}).get("state") == t.RELAYED
            if not is_shown:
                return False  # its answer may be on its way
            _keep(self._relayed, signal_id, is_shown)
        return True

    def _check_refusal(self) -> None:
        if self._refusal:
            raise OutageError(self._refusal)

    async def _fresh_link(self) -> LinkRecord:
        link = await self._rows.link(self._key)
        if link is None or not link.is_fresh:
            raise OutageError(
                f"the link {self._link} is not running",
                remedy=f"see `fks status` and `fks {self._config.platform.name} status`",
            )
        return link

    async def _account_view(self, *, max_age_s: float) -> t.AccountReading:
        """Return the account by a status that is at most so old: asked for, or the one that the link has."""
        status = await self._fresh_status(max_age_s)
        found = t.account_in(status, self._config.account)
        if found is None:
            raise OutageError(f"the status of group {self._config.group} has no account {self._config.account}")
        if found.fields.get("status") != "Connected":
            raise OutageError(f"account {self._config.account} is not connected to its broker")
        return found

    async def _fresh_status(self, max_age_s: float) -> Mapping[str, Any]:
        now_s = self._clock.monotonic()
        if self._status is not None and now_s - self._status[0] <= max_age_s:
            return self._status[1]
        link = await self._fresh_link()
        record = await self._asked(self._request(RequestKind.STATUS, {}))
        if not isinstance(record, Answer) and record.state is RequestState.ACKED and record.answer is not None:
            self._status = now_s, record.answer
            return record.answer
        taken_ns = link.report.snapshot_ns
        if link.report.snapshot is None or taken_ns is None or self._clock.now_ns() - taken_ns > FRESH_S * 1e9:
            raise OutageError(f"{self._title} of group {self._config.group} does not answer")
        return link.report.snapshot


def _keep(names: OrderedDict[str, Any], key: str, value: Any) -> None:
    names[key] = value
    while len(names) > _NAMES_MAX:
        names.popitem(last=False)
