"""A tape through the same wires again: pure, in the order of its records, the same events each time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from fks.exchanges.base.exchange import WireExchange
from fks.exchanges.base.wire import Subscribed, Wire
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import ConfigError, FksError
from fks.model.instrument import Instrument
from fks.model.market import Channel, Discontinuity, MarketEvent, Subscription
from fks.model.ports import Log
from fks.tape.records import Kind, Record


@dataclass(frozen=True, slots=True)
class Played:
    """What one record gave.

    `error` is what the wire raised, which ended that connection when it happened; `wanted` what was dialled for; `told`
    the trades that REST told; `hole` what is not on the tape here.
    """

    kind: Kind
    connection: int
    received_ns: int
    events: tuple[MarketEvent, ...] = ()
    error: str = ""
    wanted: tuple[Subscription, ...] = ()
    told: ToldTrades | None = None
    hole: HoleFound | None = None


class _Unheard:
    """A Log for wires that play: what they say was said when it happened."""

    def debug(self, event: str, **fields: object) -> None: ...
    def info(self, event: str, **fields: object) -> None: ...
    def warning(self, event: str, **fields: object) -> None: ...
    def error(self, event: str, **fields: object) -> None: ...


def wires_of(exchange: str) -> Callable[[], Wire]:
    """Return what makes fresh wires of an exchange, as its collector has them. Nothing is dialled, no key is needed.

    Errors: ConfigError for an exchange that FKS does not know.
    """
    from fks.clock import FakeClock
    from fks.config.settings import Data, Settings, Sim
    from fks.exchanges.registry import capabilities_of, make_exchange

    setting = capabilities_of(exchange).key_setting
    given = {} if setting is None else {setting: "none"}
    settings = Settings(sim=Sim(enabled=False), data=Data(**given))
    made = make_exchange(exchange, settings=settings, node=None, clock=FakeClock(), log=unheard())
    if not isinstance(made, WireExchange):
        raise ConfigError(f"{exchange} has no wire", remedy="its tape was made by another version")
    return made.wire


def unheard() -> Log:
    """Return a Log that keeps nothing."""
    return _Unheard()


def wanted_of(data: bytes) -> tuple[Subscription, ...]:
    """Return the subscriptions in an OPEN record."""
    return tuple(
        Subscription(Channel(channel), symbol, frame) for channel, symbol, frame in msgspec.json.decode(data)["wanted"]
    )


def play(records: Iterable[Record], make_wire: Callable[[], Wire]) -> Iterator[Played]:
    """Yield what each dial and each frame gives, through one wire a connection.

    Guarantees: reads no clock and no dice: twice gives the same. A connection whose wire raised gives nothing more.
    """
    wires: dict[int, Wire] = {}
    for record in records:
        number = record.connection
        if record.kind is Kind.OPEN or (record.kind is Kind.STANDING and number not in wires):
            wires[number] = wire = make_wire()
            wanted = wanted_of(record.data)
            wire.subscribe_frames(wanted)
            yield Played(record.kind, number, record.received_ns, wanted=wanted)
        elif record.kind is Kind.FRAME and number in wires:
            played = _heard(wires[number], record)
            if played.error:
                del wires[number]
            yield played
        elif record.kind is Kind.TRADES:
            yield Played(
                record.kind, number, record.received_ns, told=msgspec.json.decode(record.data, type=ToldTrades)
            )
        elif record.kind is Kind.LOST:
            yield Played(record.kind, number, record.received_ns)
        elif record.kind is Kind.HOLE:
            wires.clear()  # what stands after it is said anew; another recording counts its connections from 1 again
            yield Played(record.kind, number, record.received_ns, hole=msgspec.json.decode(record.data, type=HoleFound))


def _heard(wire: Wire, record: Record) -> Played:
    found: Sequence[MarketEvent | Subscribed] = ()
    error = ""
    try:
        found = wire.receive(record.data, record.received_ns)
        if found and isinstance(found[-1], Discontinuity):
            wire.due_frames(record.received_ns / 1e9)  # it asked anew then, and the answer is on the tape
    except FksError as raised:
        error = str(raised)
    events = tuple(event for event in found if not isinstance(event, Subscribed))
    return Played(record.kind, record.connection, record.received_ns, events, error)


class HoleFound(msgspec.Struct, frozen=True):
    """What a reader of files found to be missing: not_whole, missing, order or run, and in words."""

    kind: str
    text: str


class ToldBars(msgspec.Struct):
    """What REST was asked (the port's arguments) and told, of bars."""

    asked: list[str | int | None]
    told: list[Bar]


class ToldTrades(msgspec.Struct):
    """What REST was asked (the port's arguments) and told, of public trades."""

    asked: list[str | int | None]
    told: list[PublicTrade]


class ToldInstruments(msgspec.Struct):
    """What REST was asked (the port's arguments) and told, of instruments."""

    asked: list[str | int | None]
    told: list[Instrument]


def told_of(record: Record) -> ToldBars | ToldTrades | ToldInstruments:
    """Return what REST was asked and told, of a BARS, TRADES or INSTRUMENTS record."""
    if record.kind is Kind.BARS:
        return msgspec.json.decode(record.data, type=ToldBars)
    if record.kind is Kind.TRADES:
        return msgspec.json.decode(record.data, type=ToldTrades)
    return msgspec.json.decode(record.data, type=ToldInstruments)
