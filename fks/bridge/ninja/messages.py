"""Every message of fks1 as a frozen dataclass, and the conversion from and to lines.

Times `*_ms` are Unix milliseconds UTC, prices are in price units of the instrument, money in the account's currency.
Prices and money are Decimal. Quantities are whole contracts, and `Lots` on a session of a platform that trades lots
(docs/mt5-wire.md#platform).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Literal

from fks.bridge.ninja import strict_json
from fks.bridge.ninja.fields import (
    ACCOUNT,
    HEX32,
    HEX64,
    ID,
    INSTRUMENT,
    MS,
    NUMBER,
    NUMBER_OR_NULL,
    QTY,
    QTY_LEFT,
    RID,
    SEQ,
    FieldError,
    Record,
    any_object,
    boolean,
    exactly,
    integer,
    list_of,
    lots_of,
    may,
    need,
    nullable,
    numbers_by_name,
    one_of,
    positive_text,
    read,
    record,
    text,
    written,
)
from fks.bridge.ninja.strict_json import Lots

VERSION = 1
ORDER_NAME = r"FKS:([A-Za-z0-9_-]{1,32}):([EST])([2-9]|[1-9][0-9])?"
ROLES = ("control", "guardian", "observe", "data")
Role = Literal["control", "guardian", "observe", "data"]
ROLE = one_of(*ROLES)
Quantity = int | Lots
#: states of a platform's order that has ended; Unknown is none of them
ENDED = frozenset({"Filled", "Cancelled", "Rejected"})
#: keys of quantities on the wire
_QUANTITIES = frozenset({"qty", "filled"})


MARGIN_MODE = one_of("netting", "hedging")


class Message(Record):
    """Base of the messages. `t` is the type on the wire."""

    __slots__ = ()
    t: ClassVar[str]


# ── opening ──────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    t: ClassVar[str] = "hello"
    v: int = need(exactly(VERSION))
    client: str = need(text(64, 1))
    instance: str = need(HEX32)
    group: str = need(text(32, 1))
    role: Role = need(ROLE)
    nonce: str = need(HEX64)
    platform: str | None = may(text(32, 1))  # absent: ninjatrader


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge(Message):
    t: ClassVar[str] = "challenge"
    v: int = need(exactly(VERSION))
    nonce: str = need(HEX64)
    bridge: str = need(text(64))
    alg: str = need(exactly("hmac-sha256"))


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthMessage(Message):
    t: ClassVar[str] = "auth"
    mac: str = need(HEX64)
    epoch: str | None = need(nullable(HEX32))
    last_seq: int = need(integer())


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountInfo(Record):
    """An account in `welcome`."""

    name: str = need(ACCOUNT)
    sim: bool = need(boolean)
    mode: Literal["auto", "relay", "off"] = need(one_of("auto", "relay", "off"))
    connected: bool = need(boolean)
    currency: str | None = may(nullable(text(16, 1)))  # of its money; absent: USD
    margin_mode: Literal["netting", "hedging"] | None = may(nullable(MARGIN_MODE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome(Message):
    t: ClassVar[str] = "welcome"
    mac: str = need(HEX64)
    epoch: str = need(HEX32)
    last_seq: int = need(integer())
    oldest_seq: int = need(integer())
    now_ms: int = need(MS)
    hb_ms: int = need(integer(2_000, 5_000))
    max_line: int = need(integer(4_096, 1 << 20))
    platform: str = need(text(200))
    group: str = need(text(32, 1))
    accounts: tuple[AccountInfo, ...] = need(list_of(record(AccountInfo), 200))
    limits: Mapping[str, object] = need(any_object)
    halted: bool = need(boolean)
    ready: bool = need(boolean)
    journal_error: str | None = may(nullable(text(400)))
    features: tuple[str, ...] | None = may(list_of(text(64), 200))  # what the bridge can do beyond version 1


# ── event log ────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True, kw_only=True)
class SignalEvent(Record):
    """Event `signal`: the state of a signal at the bridge."""

    kind: ClassVar[str] = "signal"
    id: str = need(ID)
    state: str = need(text(32, 1))
    code: str | None = may(nullable(text(64)))
    detail: str | None = may(nullable(text(400)))
    account: str | None = may(nullable(ACCOUNT))


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderState(Record):
    """Event `order`: an OrderUpdate of the platform. `order_id` may change during the life of an order."""

    kind: ClassVar[str] = "order"
    name: str = need(text(64))
    order_id: str = need(text(200))
    state: str = need(text(32, 1))
    qty: Quantity = need(QTY_LEFT)
    filled: Quantity = need(QTY_LEFT)
    avg_price: Decimal | None = need(NUMBER_OR_NULL)
    limit: Decimal | None = need(NUMBER_OR_NULL)
    stop: Decimal | None = need(NUMBER_OR_NULL)
    error: str | None = may(nullable(text(200)))
    comment: str | None = may(nullable(text(1_000)))
    id: str | None = may(nullable(ID))
    role: Literal["E", "S", "T"] | None = may(nullable(one_of("E", "S", "T")))
    account: str | None = may(nullable(ACCOUNT))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionEvent(Record):
    """Event `exec`: a fill. `update` and `remove` are amendments of the broker's back office."""

    kind: ClassVar[str] = "exec"
    name: str = need(text(64))
    exec_id: str = need(text(200, 1))
    op: Literal["add", "update", "remove"] = need(one_of("add", "update", "remove"))
    side: Literal["buy", "sell"] = need(one_of("buy", "sell"))
    qty: Quantity = need(QTY_LEFT)
    price: Decimal = need(NUMBER)
    time_ms: int = need(MS)
    commission: Decimal | None = may(NUMBER_OR_NULL)
    fee: Decimal | None = may(NUMBER_OR_NULL)
    sod: bool | None = may(nullable(boolean))
    id: str | None = may(nullable(ID))
    role: Literal["E", "S", "T"] | None = may(nullable(one_of("E", "S", "T")))
    account: str | None = may(nullable(ACCOUNT))
    instrument: str | None = may(nullable(INSTRUMENT))


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionState(Record):
    """Event `position`: a position of the account, in an instrument that FKS has traded."""

    kind: ClassVar[str] = "position"
    account: str = need(ACCOUNT)
    instrument: str = need(INSTRUMENT)
    side: Literal["long", "short", "flat"] = need(one_of("long", "short", "flat"))
    qty: Quantity = need(QTY_LEFT)
    avg: Decimal | None = may(NUMBER_OR_NULL)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionState(Record):
    """Event `conn`: a broker connection of the platform. `status`: order feed, `price_status`: price feed."""

    kind: ClassVar[str] = "conn"
    connection: str = need(text(200))
    status: str = need(text(32, 1))
    price_status: str = need(text(32, 1))
    prev: str | None = may(nullable(text(32)))
    native_error: str | None = may(nullable(text(1_000)))
    account: str | None = may(nullable(ACCOUNT))


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskAlarm(Record):
    """Event `risk`: a limit or an invariant of the bridge."""

    kind: ClassVar[str] = "risk"
    code: str = need(text(64, 1))
    detail: str | None = may(nullable(text(1_000)))
    value: object = may(lambda value: value)
    limit: object = may(lambda value: value)
    id: str | None = may(nullable(ID))
    account: str | None = may(nullable(ACCOUNT))


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt(Record):
    """Event `halt`: the kill latch of the bridge."""

    kind: ClassVar[str] = "halt"
    on: bool = need(boolean)
    reason: str | None = may(nullable(text(400)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Relayed(Record):
    """Event `relay`: a signal that is shown to a person, for trading by hand. The event's `fields` have the whole
    signal."""

    kind: ClassVar[str] = "relay"
    id: str = need(ID)
    account: str | None = may(nullable(ACCOUNT))
    instrument: str | None = may(nullable(INSTRUMENT))
    action: str | None = may(nullable(text(16)))
    qty: Quantity | None = may(nullable(QTY_LEFT))


@dataclass(frozen=True, slots=True)
class UnreadableEvent:
    """An event whose kind or fields are not understood. It counts in the log like any other; `problem` says why."""

    kind: str
    problem: str


EventBody = (
    SignalEvent
    | OrderState
    | ExecutionEvent
    | PositionState
    | ConnectionState
    | RiskAlarm
    | Halt
    | Relayed
    | UnreadableEvent
)
_BODIES: dict[str, type[Record]] = {
    cls.kind: cls
    for cls in (SignalEvent, OrderState, ExecutionEvent, PositionState, ConnectionState, RiskAlarm, Halt, Relayed)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent(Message):
    """`ev`: a durable event. `body` is made of `fields`, which holds the whole line."""

    t: ClassVar[str] = "ev"
    seq: int = need(SEQ)
    epoch: str = need(HEX32)
    at_ms: int = need(MS)
    kind: str = need(text(32, 1))
    replay: bool | None = may(boolean)
    body: EventBody
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayEnd(Message):
    t: ClassVar[str] = "replay_end"
    last_seq: int = need(integer())
    count: int = need(integer())


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGap(Message):
    t: ClassVar[str] = "gap"
    from_: int = need(integer())
    to: int = need(integer())


@dataclass(frozen=True, slots=True, kw_only=True)
class EvAck(Message):
    t: ClassVar[str] = "evack"
    seq: int = need(integer())


# ── heartbeat ────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Message):
    t: ClassVar[str] = "ping"
    n: int = need(integer())
    t_ms: int = need(MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong(Message):
    t: ClassVar[str] = "pong"
    n: int = need(integer())
    t_ms: int = need(MS)
    echo_ms: int = need(MS)


# ── signals ──────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True, kw_only=True)
class SignalMessage(Message):
    """A new intention. `qty` may be absent only for `exit` (all of it). The bridge's clock decides on `valid_until`."""

    t: ClassVar[str] = "signal"
    is_closed: ClassVar[bool] = True
    id: str = need(ID)
    account: str = need(ACCOUNT)
    instrument: str = need(INSTRUMENT)
    action: Literal["buy", "sell", "long", "short", "exit"] = need(one_of("buy", "sell", "long", "short", "exit"))
    qty: Quantity | None = may(QTY)
    type: Literal["market", "limit", "stop", "stop_limit"] = need(one_of("market", "limit", "stop", "stop_limit"))
    price: Decimal | None = may(NUMBER)
    stop_price: Decimal | None = may(NUMBER)
    tif: Literal["day", "gtc", "ioc"] | None = may(one_of("day", "gtc", "ioc"))
    sl_points: Decimal | None = may(NUMBER)
    sl_price: Decimal | None = may(NUMBER)
    tp_points: Decimal | None = may(NUMBER)
    tp_price: Decimal | None = may(NUMBER)
    created_ms: int = need(MS)
    valid_until: int = need(MS)
    strategy: str | None = may(text(32))
    note: str | None = may(text(120))
    entries: tuple[str, ...] | None = may(list_of(ID, 100))  # of an exit, to a bridge with the feature EXIT_ENTRIES

    def check(self) -> None:
        if self.qty is None and self.action != "exit":
            raise FieldError("missing_field", "qty")
        if self.price is None and self.type in ("limit", "stop_limit"):
            raise FieldError("missing_field", f"price, which type {self.type} needs")
        if self.stop_price is None and self.type in ("stop", "stop_limit"):
            raise FieldError("missing_field", f"stop_price, which type {self.type} needs")
        for leg in ("sl", "tp"):
            if getattr(self, f"{leg}_points") is not None and getattr(self, f"{leg}_price") is not None:
                raise FieldError("bad_field", f"{leg}_points and {leg}_price: give one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack(Message):
    t: ClassVar[str] = "ack"
    id: str = need(ID)
    state: str = need(text(32, 1))
    dup: bool = need(boolean)
    order: str | None = may(nullable(text(64)))
    price_used: Decimal | None = may(NUMBER_OR_NULL)
    sl_used: Decimal | None = may(NUMBER_OR_NULL)
    tp_used: Decimal | None = may(NUMBER_OR_NULL)
    at_ms: int = need(MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nack(Message):
    """The signal will not be executed; `final`: this id gets the same answer for ever."""

    t: ClassVar[str] = "nack"
    id: str = need(text(64))
    code: str = need(text(64, 1))
    detail: str = need(text(400))
    final: bool = need(boolean)
    at_ms: int = need(MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Indeterminate(Message):
    """The bridge has an intent and does not know the result. It never submits it again."""

    t: ClassVar[str] = "indeterminate"
    id: str = need(ID)
    since_ms: int = need(MS)
    detail: str = need(text(400))


# ── requests and their answers ───────────────────────────────────────────────────────────────────
class LinkRequest(Message):
    """Base of the messages with a request id that get one answer with the same id."""

    __slots__ = ()
    rid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Query(LinkRequest):
    t: ClassVar[str] = "query"
    rid: str = need(RID)
    id: str = need(ID)


@dataclass(frozen=True, slots=True, kw_only=True)
class SigState(Message):
    t: ClassVar[str] = "sigstate"
    rid: str = need(RID)
    id: str = need(ID)
    state: str = need(text(32, 1))
    filled: Quantity | None = may(nullable(QTY_LEFT))
    avg_price: Decimal | None = may(NUMBER_OR_NULL)
    code: str | None = may(nullable(text(64)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(LinkRequest):
    t: ClassVar[str] = "cancel"
    rid: str = need(RID)
    id: str = need(ID)


@dataclass(frozen=True, slots=True, kw_only=True)
class Modify(LinkRequest):
    t: ClassVar[str] = "modify"
    is_closed: ClassVar[bool] = True
    rid: str = need(RID)
    id: str = need(ID)
    sl_price: Decimal | None = may(NUMBER)
    tp_price: Decimal | None = may(NUMBER)

    def check(self) -> None:
        if self.sl_price is None and self.tp_price is None:
            raise FieldError("missing_field", "sl_price or tp_price")


def _instruments(value: object) -> object:
    return "all" if value == "all" else list_of(INSTRUMENT, 200)(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlattenRequest(LinkRequest):
    t: ClassVar[str] = "flatten"
    is_closed: ClassVar[bool] = True
    rid: str = need(RID)
    account: str = need(ACCOUNT)
    instruments: tuple[str, ...] | Literal["all"] = need(_instruments)
    reason: str = need(text(120))


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill(LinkRequest):
    t: ClassVar[str] = "kill"
    is_closed: ClassVar[bool] = True
    rid: str = need(RID)
    reason: str = need(text(120))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(LinkRequest):
    t: ClassVar[str] = "resume"
    rid: str = need(RID)
    reason: str = need(text(120))


@dataclass(frozen=True, slots=True, kw_only=True)
class GetStatus(LinkRequest):
    """`status` of the client. The bridge's `status` has the same type on the wire."""

    t: ClassVar[str] = "status"
    rid: str = need(RID)


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionStatus(Record):
    instrument: str = need(INSTRUMENT)
    nt_name: str | None = may(nullable(text(64)))
    side: Literal["long", "short", "flat"] = need(one_of("long", "short", "flat"))
    qty: Quantity = need(QTY_LEFT)
    avg: Decimal | None = may(NUMBER_OR_NULL)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderStatus(Record):
    name: str = need(text(64))
    order_id: str = need(text(200))
    state: str = need(text(32, 1))
    side: str = need(text(16))
    type: str = need(text(16))
    qty: Quantity = need(QTY_LEFT)
    filled: Quantity = need(QTY_LEFT)
    limit: Decimal | None = may(NUMBER_OR_NULL)
    stop: Decimal | None = may(NUMBER_OR_NULL)
    oco: str | None = may(nullable(text(64)))
    ours: bool = need(boolean)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus(Record):
    """An account in `status`. `values` maps AccountItem names to a value, or None where the broker reports none."""

    name: str = need(ACCOUNT)
    status: str = need(text(32))
    price_status: str = need(text(32))
    trade_date: str | None = may(nullable(text(32)))
    values: Mapping[str, Decimal | None] = need(numbers_by_name)
    positions: tuple[PositionStatus, ...] = need(list_of(record(PositionStatus)))
    orders: tuple[OrderStatus, ...] = need(list_of(record(OrderStatus)))
    trading_code: int | None = may(nullable(integer()))  # MetaTrader 5: 10026 or 10027 while trading is disabled
    # what the account is now, as in `welcome`; absent from a bridge older than 2026-11-28
    sim: bool | None = may(boolean)
    mode: Literal["auto", "relay", "off"] | None = may(one_of("auto", "relay", "off"))
    currency: str | None = may(nullable(text(16, 1)))
    margin_mode: Literal["netting", "hedging"] | None = may(nullable(MARGIN_MODE))


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSignal(Record):
    """A signal that has not ended. `action`: buy, sell or exit; None from an AddOn older than 2026-11-22."""

    id: str = need(ID)
    action: str | None = may(nullable(text(16)))
    state: str = need(text(32, 1))
    filled: Quantity = need(QTY_LEFT)
    protected: bool = need(boolean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Message):
    """`status` of the bridge: a full snapshot. A long one comes in `parts` lines, numbered by `part` from 1."""

    t: ClassVar[str] = "status"
    rid: str | None = need(nullable(RID))
    at_ms: int = need(MS)
    ready: bool = need(boolean)
    halted: bool = need(boolean)
    accounts: tuple[AccountStatus, ...] = need(list_of(record(AccountStatus), 200))
    signals_open: tuple[OpenSignal, ...] = need(list_of(record(OpenSignal), 10_000))
    features: tuple[str, ...] | None = may(list_of(text(64), 200))
    counters: Mapping[str, object] | None = may(any_object)
    journal_error: str | None = may(nullable(text(400)))
    part: int | None = may(integer(1, 1_000))
    parts: int | None = may(integer(1, 1_000))
    agent: str | None = may(nullable(text(64)))  # version of the program beside the platform
    server_offset_s: int | None = may(nullable(integer(-86_400, 86_400)))  # trade server's clock minus UTC
    last_error: str | None = may(nullable(text(400)))  # the platform's last refusal or failure


def accounts_after(known: Iterable[AccountInfo], status: Status) -> dict[str, AccountInfo]:
    """Return the accounts by name as they are after a status; `known` holds where the status does not say.

    A platform may read an account only after a session began: `welcome` could not know what that account is.
    """
    found = {account.name: account for account in known}
    for one in status.accounts:
        is_connected = one.status == "Connected"
        if one.sim is not None and one.mode is not None:
            found[one.name] = AccountInfo(
                name=one.name,
                sim=one.sim,
                mode=one.mode,
                connected=is_connected,
                currency=one.currency,
                margin_mode=one.margin_mode,
            )
        elif one.name in found:
            found[one.name] = dataclasses.replace(found[one.name], connected=is_connected)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultMessage(Message):
    t: ClassVar[str] = "result"
    rid: str = need(RID)
    ok: bool = need(boolean)
    code: str | None = may(nullable(text(64)))
    detail: str | None = may(nullable(text(400)))
    flat: bool | None = may(nullable(boolean))
    remaining: tuple[object, ...] | None = may(nullable(list_of(lambda value: value)))
    count: int | None = may(nullable(integer()))


# ── market data ──────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe(LinkRequest):
    t: ClassVar[str] = "subscribe"
    rid: str = need(RID)
    instruments: tuple[str, ...] = need(list_of(INSTRUMENT, 50))
    quotes: bool = need(boolean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe(LinkRequest):
    t: ClassVar[str] = "unsubscribe"
    rid: str = need(RID)
    instruments: tuple[str, ...] = need(list_of(INSTRUMENT, 50))


@dataclass(frozen=True, slots=True, kw_only=True)
class TradeMessage(Message):
    """A trade. `n` counts the trades of the instrument since the bridge's start, so that losses are visible."""

    t: ClassVar[str] = "trade"
    instrument: str = need(INSTRUMENT)
    n: int = need(integer(1))
    at_ms: int = need(MS)
    price: Decimal = need(NUMBER)
    qty: Quantity = need(QTY_LEFT)
    side: Literal["buy", "sell"] | None = may(nullable(one_of("buy", "sell")))


@dataclass(frozen=True, slots=True, kw_only=True)
class QuoteMessage(Message):
    t: ClassVar[str] = "quote"
    instrument: str = need(INSTRUMENT)
    at_ms: int = need(MS)
    bid: Decimal | None = need(NUMBER_OR_NULL)
    bid_qty: int | None = need(nullable(integer()))
    ask: Decimal | None = need(NUMBER_OR_NULL)
    ask_qty: int | None = need(nullable(integer()))


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketStatus(Message):
    """State of an instrument's price feed; sent on changes and every 2 s without a trade."""

    t: ClassVar[str] = "md_status"
    instrument: str = need(INSTRUMENT)
    price_status: str = need(text(32, 1))
    at_ms: int = need(MS)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRequest(LinkRequest):
    t: ClassVar[str] = "history"
    rid: str = need(RID)
    instrument: str = need(INSTRUMENT)
    from_ms: int = need(MS)
    to_ms: int = need(MS)
    period: Literal["1m", "1d"] = need(one_of("1m", "1d"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListInstruments(LinkRequest):
    """Request for the instruments of the platform: an `instrument` for each of them, then `result` with `count`."""

    t: ClassVar[str] = "instruments"
    rid: str = need(RID)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentMessage(Message):
    """An instrument that trades in lots. `tick_size` is the step of its prices, not the point of the quotes."""

    t: ClassVar[str] = "instrument"
    rid: str = need(RID)
    instrument: str = need(INSTRUMENT)
    tick_size: Decimal = need(positive_text)
    volume_min: Decimal = need(positive_text)
    volume_max: Decimal = need(positive_text)
    volume_step: Decimal = need(positive_text)
    contract_size: Decimal = need(positive_text)
    currency_profit: str = need(text(16, 1))
    trading: bool = need(boolean)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryBar(Message):
    """A bar of the history; `at_ms` is its open time."""

    t: ClassVar[str] = "bar"
    rid: str = need(RID)
    instrument: str = need(INSTRUMENT)
    at_ms: int = need(MS)
    o: Decimal = need(NUMBER)
    h: Decimal = need(NUMBER)
    l: Decimal = need(NUMBER)  # noqa: E741 - the name on the wire
    c: Decimal = need(NUMBER)
    v: int = need(integer())


# ── errors and the end ───────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True, kw_only=True)
class LineError(Message):
    """`error`: the other end did not understand a line of ours."""

    t: ClassVar[str] = "error"
    code: str = need(text(64, 1))
    detail: str = need(text(400))
    line_no: int | None = may(nullable(integer()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bye(Message):
    """The sender closes after this."""

    t: ClassVar[str] = "bye"
    code: str = need(text(64, 1))
    detail: str | None = may(nullable(text(400)))
    retry_after_ms: int | None = may(nullable(integer()))


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message of a type that this version does not know. The session goes on."""

    t: str


FROM_CLIENT: tuple[type[Message], ...] = (
    Hello, AuthMessage, EvAck, Ping, Pong, SignalMessage, Query, Cancel, Modify, FlattenRequest, Kill, Resume,
    GetStatus, Subscribe, Unsubscribe, HistoryRequest, ListInstruments, Bye,
)  # fmt: skip
FROM_BRIDGE: tuple[type[Message], ...] = (
    Challenge, Welcome, LogEvent, ReplayEnd, LogGap, Ping, Pong, Ack, Nack, Indeterminate, SigState, Status,
    ResultMessage, LineError, Bye, TradeMessage, QuoteMessage, MarketStatus, HistoryBar, InstrumentMessage,
)  # fmt: skip
_CLIENT = {cls.t: cls for cls in FROM_CLIENT}
_BRIDGE = {cls.t: cls for cls in FROM_BRIDGE}


def from_bridge(found: Mapping[str, object], *, has_lots: bool = False) -> Message | Unknown:
    """Return the bridge's message in a JSON object. `has_lots`: quantities are decimal strings. Errors: FieldError."""
    return _message_of(_BRIDGE, with_lots(found) if has_lots else found)


def from_client(found: Mapping[str, object], *, has_lots: bool = False) -> Message | Unknown:
    """Return the client's message in a JSON object, with quantities as `from_bridge`. Errors: FieldError."""
    return _message_of(_CLIENT, with_lots(found) if has_lots else found)


def with_lots(found: Mapping[str, object]) -> dict[str, object]:
    """Return a JSON object whose quantities, also those in lists of objects, are `Lots` where they were decimal
    strings."""

    def of(key: str, value: object) -> object:
        if isinstance(value, dict):
            return with_lots(value)
        if isinstance(value, list):
            return [with_lots(one) if isinstance(one, dict) else one for one in value]
        lots = lots_of(value) if key in _QUANTITIES else None
        return value if lots is None else lots

    return {key: of(key, value) for key, value in found.items()}


def _message_of(types: Mapping[str, type[Message]], found: Mapping[str, object]) -> Message | Unknown:
    t = found.get("t")
    if not isinstance(t, str):
        raise FieldError("missing_field" if t is None else "bad_field", "t")
    cls = types.get(t)
    if cls is None:
        return Unknown(t[:64])
    return _log_event(found) if cls is LogEvent else read(cls, found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _LogFields(Record):
    seq: int = need(SEQ)
    epoch: str = need(HEX32)
    at_ms: int = need(MS)
    kind: str = need(text(32, 1))
    replay: bool | None = may(nullable(boolean))


def _log_event(found: Mapping[str, object]) -> LogEvent:
    head = read(_LogFields, found)
    return LogEvent(
        seq=head.seq, epoch=head.epoch, at_ms=head.at_ms, kind=head.kind, replay=head.replay,
        body=_body(head.kind, found), fields=found,
    )  # fmt: skip


def _body(kind: str, found: Mapping[str, object]) -> EventBody:
    cls = _BODIES.get(kind)
    if cls is None:
        return UnreadableEvent(kind, "unknown kind")
    try:
        return read(cls, found)  # type: ignore[return-value]
    except FieldError as error:
        # a durable event must not stop the log: it is stored as it came, and reported
        return UnreadableEvent(kind, f"{error.code}: {error.detail}")


def as_object(message: Message) -> dict[str, object]:
    """Return `message` as the JSON object that goes on the wire."""
    if isinstance(message, LogEvent):
        return dict(message.fields)
    return {"t": message.t, **written(message)}


def to_line(message: Message) -> bytes:
    """Return `message` as one line with LF. Errors: ValueError for a number with too many digits."""
    return strict_json.dumps(as_object(message))


def order_name(signal_id: str, role: Literal["E", "S", "T"], lot: int = 1) -> str:
    """Return the name of an order at the platform, the only key that may survive a restart: `FKS:<id>:<role>[n]`."""
    return f"FKS:{signal_id}:{role}{lot if lot > 1 else ''}"
