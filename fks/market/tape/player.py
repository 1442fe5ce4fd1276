"""Replay of a tape through the exchange's own wires: pure, in the order of its records, the same events each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from fks.market.exchanges.base.exchange import WireExchange
from fks.market.exchanges.base.wire import SubscriptionsAnswered, Wire
from fks.market.tape.records import RecordKind, TapeRecord
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import ConfigError, FksError
from fks.model.instrument import Instrument
from fks.model.market import Channel, Discontinuity, MarketEvent, Subscription
from fks.model.ports import Log


@dataclass(frozen=True, slots=True)
class Played:
    """Result of one record.

    `error` is the wire's error, which ended that connection; `wanted` are the subscriptions of a new connection;
    `answer` are trades of a REST answer; `hole` is a gap of the tape.
    """

    kind: RecordKind
    connection: int
    received_ns: int
    events: tuple[MarketEvent, ...] = ()
    error: str = ""
    wanted: tuple[Subscription, ...] = ()
    answer: TradesAnswer | None = None
    hole: HoleFound | None = None


class _DiscardingLog:
    """A Log for wires in a replay: their messages were logged during the recording."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


def wires_of(exchange: str) -> Callable[[], Wire]:
    """Return the factory of an exchange's wires, as its collector has it. It opens no connection and needs no key.

    Errors: ConfigError for an exchange that FKS does not know.
    """
    from fks.clock import FakeClock
    from fks.config.settings import Data, Settings, Sim
    from fks.market.exchanges.registry import capabilities_of, make_exchange

    setting = capabilities_of(exchange).key_setting
    given = {} if setting is None else {setting: "none"}
    settings = Settings(sim=Sim(enabled=False), data=Data(**given))
    made = make_exchange(exchange, settings=settings, node=None, clock=FakeClock(), log=discarding_log())
    if not isinstance(made, WireExchange):
        raise ConfigError(f"{exchange} has no wire", remedy="its tape was made by another version")
    return made.wire


def discarding_log() -> Log:
    """Return a Log that discards everything."""
    return _DiscardingLog()


def wanted_of(data: bytes) -> tuple[Subscription, ...]:
    """Return the subscriptions in an OPEN record."""
    return tuple(
        Subscription(Channel(channel), symbol, frame) for channel, symbol, frame in msgspec.json.decode(data)["wanted"]
    )


def play(records: Iterable[TapeRecord], make_wire: Callable[[], Wire]) -> Iterator[Played]:
    """Yield the result of each record, with one wire per connection.

    Guarantees: no clock and no randomness, so two replays are equal. A connection whose wire raised yields nothing
    more.
    """
    wires: dict[int, Wire] = {}
    for record in records:
        number = record.connection
        if record.kind is RecordKind.OPEN or (record.kind is RecordKind.STANDING and number not in wires):
            wires[number] = wire = make_wire()
            wanted = wanted_of(record.data)
            wire.subscribe_frames(wanted)
            yield Played(record.kind, number, record.received_ns, wanted=wanted)
        elif record.kind is RecordKind.FRAME and number in wires:
            played = _received(wires[number], record)
            if played.error:
                del wires[number]
            yield played
        elif record.kind is RecordKind.TRADES:
            yield Played(
                record.kind, number, record.received_ns, answer=msgspec.json.decode(record.data, type=TradesAnswer)
            )
        elif record.kind is RecordKind.LOST:
            yield Played(record.kind, number, record.received_ns)
        elif record.kind is RecordKind.HOLE:
            wires.clear()  # the open connections are listed again after it
            yield Played(record.kind, number, record.received_ns, hole=msgspec.json.decode(record.data, type=HoleFound))


def _received(wire: Wire, record: TapeRecord) -> Played:
    found: Sequence[MarketEvent | SubscriptionsAnswered] = ()
    error = ""
    try:
        found = wire.receive(record.data, record.received_ns)
        if found and isinstance(found[-1], Discontinuity):
            wire.due_frames(record.received_ns / 1e9)  # it requested a new snapshot then, and the answer is on the tape
    except FksError as raised:
        error = str(raised)
    events = tuple(event for event in found if not isinstance(event, SubscriptionsAnswered))
    return Played(record.kind, record.connection, record.received_ns, events, error)


class HoleFound(msgspec.Struct, frozen=True):
    """A gap that a reader of files found: not_whole, missing, order or run, and its description."""

    kind: str
    text: str


class BarsAnswer(msgspec.Struct, rename={"values": "told"}):
    """A REST request for bars (the port's arguments) and its answer."""

    asked: list[str | int | None]
    values: list[Bar]


class TradesAnswer(msgspec.Struct, rename={"values": "told"}):
    """A REST request for public trades (the port's arguments) and its answer."""

    asked: list[str | int | None]
    values: list[PublicTrade]


class InstrumentsAnswer(msgspec.Struct, rename={"values": "told"}):
    """A REST request for instruments (the port's arguments) and its answer."""

    asked: list[str | int | None]
    values: list[Instrument]


def answer_of(record: TapeRecord) -> BarsAnswer | TradesAnswer | InstrumentsAnswer:
    """Return the request and the answer of a BARS, TRADES or INSTRUMENTS record."""
    if record.kind is RecordKind.BARS:
        return msgspec.json.decode(record.data, type=BarsAnswer)
    if record.kind is RecordKind.TRADES:
        return msgspec.json.decode(record.data, type=TradesAnswer)
    return msgspec.json.decode(record.data, type=InstrumentsAnswer)
