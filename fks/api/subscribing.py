"""What a client of `WS /ws` may say, and what becomes of it. Every answer goes through its queue, in order.

`{"type": "subscribe", "channels": ["bars"], "symbols": ["BTC/USDT"], "timeframes": ["1m"], "bars": 100}` is answered by
`subscribed`, a `snapshot` per symbol (and timeframe) of the channels that have one, then by what happens. Said again,
it gives a fresh snapshot. `unsubscribe` takes the same words; what is left out means all. `exchange` says which one
where several have a symbol. `id` comes back in the answers. `checked` says how far the listener has come (`window.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fks.api import snapshots
from fks.api.client import TOPICS_MAX, Client, Topic, topics_of
from fks.api.exact import parse
from fks.api.gateway import Gateway
from fks.api.hub import BUSY, EVERY
from fks.model.errors import FksError, InputError
from fks.model.timeframe import check_timeframe, iso
from fks.store.reading import ReadingStore

NAMES_MAX = 200  # of one message
BARS_ALL_MAX = 20_000  # of all snapshots that one message asks for: about 3 MB
_HEAR_S = 2.0
_KEYS = {
    "subscribe": {"type", "id", "channels", "symbols", "exchange", "timeframes", "bars"},
    "unsubscribe": {"type", "id", "channels", "symbols", "exchange", "timeframes"},
    "ping": {"type", "id"},
    "checked": {"type", "id", "n"},
}


def is_checked(client: Client, text: str) -> bool:
    """Take the answer to a check; False for all else, a wrong one too: `hear` says what is wrong with it."""
    try:
        said = _parsed(text)
        if said["type"] != "checked":
            return False
        _note_checked(client, said.get("n"))
    except InputError:
        return False
    return True


async def hear(gate: Gateway, client: Client, text: str) -> None:
    """Do what a client says, or tell it what is wrong with that; it stays connected either way."""
    said: Mapping[str, Any] = {}
    try:
        said = _parsed(text)
        if said["type"] == "ping":
            client.answer(_answer(said, {"type": "pong", "time": iso(gate.deps.clock.now_ns())}))
        elif said["type"] == "checked":
            _note_checked(client, said.get("n"))
        elif said["type"] == "subscribe":
            await _subscribe(gate, client, said)
        else:
            await _unsubscribe(gate, client, said)
    except FksError as error:
        code = getattr(error, "code", "UNAVAILABLE")
        told = {"type": "error", "code": code, "detail": error.message, "remedy": error.remedy}
        client.answer(_answer(said, told))


def _parsed(text: str) -> Mapping[str, Any]:
    said = parse(text.encode())
    if not isinstance(said, dict) or not isinstance(said.get("type"), str) or said["type"] not in _KEYS:
        raise _wrong(
            'only {"type": "subscribe"}, "unsubscribe", "ping" and "checked" are understood here', "see docs/api.md"
        )
    if unknown := sorted(said.keys() - _KEYS[said["type"]]):
        raise _wrong(f"{said['type']} has no {unknown[0]!r}", f"it has {', '.join(sorted(_KEYS[said['type']]))}")
    if not isinstance(said.get("id", ""), str | int) or len(str(said.get("id", ""))) > 64:
        raise _wrong("id is no text of at most 64 characters", "leave it out, or number your messages")
    return said


def _note_checked(client: Client, number: object) -> None:
    try:
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError("n is no number")
        client.note_checked(number)
    except ValueError as error:
        raise _wrong(f"checked: {error}", 'answer {"type": "check"} with its own n') from error


async def _subscribe(gate: Gateway, client: Client, said: Mapping[str, Any]) -> None:
    channels = _channels(said)
    if not channels:
        raise _wrong("channels: at least one is needed", f"use {', '.join(EVERY)}")
    reading, exchange = ReadingStore(gate.db), _exchange(said)
    found = [await reading.find(text, exchange) for text in _names(said, "symbols")]
    places = [(item.exchange, item.symbol) for item in found]
    frames = [check_timeframe(text) for text in _names(said, "timeframes")]
    bars = said.get("bars", 1)
    if isinstance(bars, bool) or not isinstance(bars, int) or not 1 <= bars <= snapshots.BARS_MAX:
        raise _wrong(f"bars={bars!r} is no number from 1 to {snapshots.BARS_MAX}", "ask GET /historical for more")
    topics = wide(topics_of(channels, places, frames))
    shown = [
        topic for topic in topics if topic.channel in snapshots.CHANNELS and (topic.symbol or topic.channel == "feeds")
    ]
    if len(client.topics | set(topics)) > TOPICS_MAX or len(shown) * bars > BARS_ALL_MAX:
        raise _wrong(f"{len(topics)} subscriptions with {bars} bars each are too many", "ask for fewer at a time")
    added = set(topics) - client.topics
    client.begin(shown)
    client.topics.update(topics)
    gate.hub.changed()
    try:
        if any(topic.channel in BUSY for topic in topics):
            await gate.hub.hears_busy(_HEAR_S)  # while Redis is away there is nothing to hear, and no snapshot either
        shots = [(topic, *await snapshots.snapshot_of(gate, topic, bars)) for topic in shown]
    except FksError:
        client.give_up(shown, added)
        gate.hub.changed()
        raise
    client.answer(_answer(said, {"type": "subscribed", **_told(channels, places, frames)}))
    for topic, message, contains in shots:
        client.release(topic, message, contains)


async def _unsubscribe(gate: Gateway, client: Client, said: Mapping[str, Any]) -> None:
    channels = _channels(said) or list(EVERY)
    reading, exchange, texts = ReadingStore(gate.db), _exchange(said), _names(said, "symbols")
    places = [(item.exchange, item.symbol) for text in texts for item in await reading.spelled(text, exchange)]
    frames = [check_timeframe(text) for text in _names(said, "timeframes")]
    meant = {*places, *(("", symbol) for _, symbol in places)}
    gone = [
        topic
        for topic in client.topics
        if topic.channel in channels
        and (not places or (topic.exchange, topic.symbol) in meant)
        and (not frames or topic.timeframe in frames)
    ]
    client.drop(gone)
    gate.hub.changed()
    told = _told(sorted({topic.channel for topic in gone}), places, frames)
    client.answer(_answer(said, {"type": "unsubscribed", **told, "count": len(gone)}))


def wide(topics: frozenset[Topic]) -> list[Topic]:
    """Leave the exchange out where messages have none: orders and the like are of a venue."""
    market = snapshots.CHANNELS
    return sorted({topic if topic.channel in market else topic._replace(exchange="") for topic in topics})


def _exchange(said: Mapping[str, Any]) -> str | None:
    found = said.get("exchange")
    if found is not None and (not isinstance(found, str) or not 0 < len(found) <= 64):
        raise _wrong("exchange is no name", 'use {"exchange": "binance"}')
    if found is not None and not said.get("symbols"):
        raise _wrong("exchange: of which symbols?", "name symbols along with it")
    return found


def _channels(said: Mapping[str, Any]) -> list[str]:
    channels = _names(said, "channels")
    if unknown := [name for name in channels if name not in EVERY]:
        raise InputError(f"unknown channel {unknown[0]!r}", code="CHANNEL_UNKNOWN", remedy=f"use {', '.join(EVERY)}")
    return channels


def _names(said: Mapping[str, Any], key: str) -> list[str]:
    names = said.get(key, [])
    if (
        not isinstance(names, list)
        or len(names) > NAMES_MAX
        or not all(isinstance(n, str) and 0 < len(n) <= 64 for n in names)
    ):
        raise _wrong(f"{key} is no list of at most {NAMES_MAX} names", f'use {{"{key}": ["…"]}}')
    return list(dict.fromkeys(names))


def _told(channels: list[str], places: list[tuple[str, str]], frames: list[str]) -> dict[str, Any]:
    return {
        "channels": channels,
        "symbols": [f"{exchange}:{symbol}" for exchange, symbol in places],
        "timeframes": frames,
    }


def _answer(said: Mapping[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    id = said.get("id")
    return message if id is None else {**message, "id": id}


def _wrong(message: str, remedy: str) -> InputError:
    return InputError(message, code="INVALID", status=422, remedy=remedy)
