"""Messages from clients of `WS /ws`, and their answers, which go through the client's queue, in order.

`{"type": "subscribe", "channels": ["bars"], "symbols": ["BTC/USDT"], "timeframes": ["1m"], "bars": 100}` is answered by
`subscribed`, a `snapshot` per symbol (and timeframe) of the channels that have one, then by new messages. Repeated, it
gives a new snapshot. `after`, {"stream": of `hello`, "seq": of the last message}, replays what was missed since, or is
answered with `resumed` false: then the client reads again. `unsubscribe` has the same members, without `bars` and
`after`; an omitted one means all. `exchange` is needed where several exchanges have a symbol. `id` is returned in the
answers. `checked` acknowledges a check (`window.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fks.api import snapshots
from fks.api.client import TOPICS_MAX, SocketClient, Topic, topics_of
from fks.api.gateway import Replica
from fks.api.hub import BUSY, EVERY
from fks.model.errors import FksError, InputError
from fks.model.timeframe import check_timeframe, iso
from fks.model.untrusted import parse
from fks.store.reading import ReadingStore

NAMES_MAX = 200  # of one message
BARS_ALL_MAX = 20_000  # of all snapshots of one request: about 3 MB
_BUSY_WAIT_S = 2.0
_KEYS = {
    "subscribe": {"type", "id", "channels", "symbols", "exchange", "timeframes", "bars", "after"},
    "unsubscribe": {"type", "id", "channels", "symbols", "exchange", "timeframes"},
    "ping": {"type", "id"},
    "checked": {"type", "id", "n"},
}


def is_checked(client: SocketClient, text: str) -> bool:
    """Take the answer to a check; False for any other message, also a wrong answer: `handle` reports its error."""
    try:
        request = _parsed(text)
        if request["type"] != "checked":
            return False
        _note_checked(client, request.get("n"))
    except InputError:
        return False
    return True


async def handle(gate: Replica, client: SocketClient, text: str) -> None:
    """Handle a client's message; an error is answered, and the client stays connected."""
    request: Mapping[str, Any] = {}
    try:
        request = _parsed(text)
        if request["type"] == "ping":
            client.answer(_answer(request, {"type": "pong", "time": iso(gate.deps.clock.now_ns())}))
        elif request["type"] == "checked":
            _note_checked(client, request.get("n"))
        elif request["type"] == "subscribe":
            await _subscribe(gate, client, request)
        else:
            await _unsubscribe(gate, client, request)
    except FksError as error:
        code = getattr(error, "code", "UNAVAILABLE")
        answer = {"type": "error", "code": code, "detail": error.message, "remedy": error.remedy}
        client.answer(_answer(request, answer))


def _parsed(text: str) -> Mapping[str, Any]:
    request = parse(text.encode())
    if not isinstance(request, dict) or not isinstance(request.get("type"), str) or request["type"] not in _KEYS:
        raise _wrong(
            'only {"type": "subscribe"}, "unsubscribe", "ping" and "checked" are understood here', "see docs/api.md"
        )
    if unknown := sorted(request.keys() - _KEYS[request["type"]]):
        raise _wrong(f"{request['type']} has no {unknown[0]!r}", f"it has {', '.join(sorted(_KEYS[request['type']]))}")
    if not isinstance(request.get("id", ""), str | int) or len(str(request.get("id", ""))) > 64:
        raise _wrong("id is no text of at most 64 characters", "leave it out, or number your messages")
    return request


def _note_checked(client: SocketClient, number: object) -> None:
    try:
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError("n is no number")
        client.note_checked(number)
    except ValueError as error:
        raise _wrong(f"checked: {error}", 'answer {"type": "check"} with its own n') from error


async def _subscribe(gate: Replica, client: SocketClient, request: Mapping[str, Any]) -> None:
    channels = _channels(request)
    if not channels:
        raise _wrong("channels: at least one is needed", f"use {', '.join(EVERY)}")
    reading, exchange = ReadingStore(gate.db), _exchange(request)
    found = [await reading.find(text, exchange) for text in _names(request, "symbols")]
    places = [(item.exchange, item.symbol) for item in found]
    frames = [check_timeframe(text) for text in _names(request, "timeframes")]
    bars = request.get("bars", 1)
    if isinstance(bars, bool) or not isinstance(bars, int) or not 1 <= bars <= snapshots.BARS_MAX:
        raise _wrong(f"bars={bars!r} is no number from 1 to {snapshots.BARS_MAX}", "ask GET /historical for more")
    topics = wide(topics_of(channels, places, frames))
    shown = [
        topic for topic in topics if topic.channel in snapshots.CHANNELS and (topic.symbol or topic.channel == "feeds")
    ]
    if len(client.topics | set(topics)) > TOPICS_MAX or len(shown) * bars > BARS_ALL_MAX:
        raise _wrong(f"{len(topics)} subscriptions with {bars} bars each are too many", "ask for fewer at a time")
    after = _after(request)
    missed = None if after is None else gate.hub.missed(*after, topics)
    added = set(topics) - client.topics
    client.begin(shown)
    client.topics.update(topics)
    gate.hub.changed()
    for queued in missed or ():
        client.put(*queued)
    try:
        if any(topic.channel in BUSY for topic in topics):
            await gate.hub.wait_busy(_BUSY_WAIT_S)  # while Redis is away there are no messages, and no snapshot either
        shots = [(topic, *await snapshots.snapshot_of(gate, topic, bars)) for topic in shown]
    except FksError:
        client.give_up(shown, added)
        gate.hub.changed()
        raise
    resumed = {} if after is None else {"resumed": missed is not None}
    client.answer(_answer(request, {"type": "subscribed", **_described(channels, places, frames), **resumed}))
    for topic, message, contains in shots:
        client.release(topic, message, contains)


async def _unsubscribe(gate: Replica, client: SocketClient, request: Mapping[str, Any]) -> None:
    channels = _channels(request) or list(EVERY)
    reading, exchange, texts = ReadingStore(gate.db), _exchange(request), _names(request, "symbols")
    places = [(item.exchange, item.symbol) for text in texts for item in await reading.spelled(text, exchange)]
    frames = [check_timeframe(text) for text in _names(request, "timeframes")]
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
    answer = _described(sorted({topic.channel for topic in gone}), places, frames)
    client.answer(_answer(request, {"type": "unsubscribed", **answer, "count": len(gone)}))


def wide(topics: frozenset[Topic]) -> list[Topic]:
    """Remove the exchange where messages have none: orders and the like are of a venue."""
    market = snapshots.CHANNELS
    return sorted({topic if topic.channel in market else topic._replace(exchange="") for topic in topics})


def _exchange(request: Mapping[str, Any]) -> str | None:
    found = request.get("exchange")
    if found is not None and (not isinstance(found, str) or not 0 < len(found) <= 64):
        raise _wrong("exchange is no name", 'use {"exchange": "binance"}')
    if found is not None and not request.get("symbols"):
        raise _wrong("exchange: of which symbols?", "name symbols along with it")
    return found


def _after(request: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return stream and number of the last message that the client received, where it gives them."""
    found = request.get("after")
    if found is None:
        return None
    stream, seq = (found.get("stream"), found.get("seq")) if isinstance(found, dict) else (None, None)
    if not isinstance(stream, str) or isinstance(seq, bool) or not isinstance(seq, int):
        raise _wrong("after names no message", 'use {"after": {"stream": of hello, "seq": of the last message}}')
    return stream, seq


def _channels(request: Mapping[str, Any]) -> list[str]:
    channels = _names(request, "channels")
    if unknown := [name for name in channels if name not in EVERY]:
        raise InputError(f"unknown channel {unknown[0]!r}", code="CHANNEL_UNKNOWN", remedy=f"use {', '.join(EVERY)}")
    return channels


def _names(request: Mapping[str, Any], key: str) -> list[str]:
    names = request.get(key, [])
    if (
        not isinstance(names, list)
        or len(names) > NAMES_MAX
        or not all(isinstance(n, str) and 0 < len(n) <= 64 for n in names)
    ):
        raise _wrong(f"{key} is no list of at most {NAMES_MAX} names", f'use {{"{key}": ["…"]}}')
    return list(dict.fromkeys(names))


def _described(channels: list[str], places: list[tuple[str, str]], frames: list[str]) -> dict[str, Any]:
    return {
        "channels": channels,
        "symbols": [f"{exchange}:{symbol}" for exchange, symbol in places],
        "timeframes": frames,
    }


def _answer(request: Mapping[str, Any], message: dict[str, Any]) -> dict[str, Any]:
    id = request.get("id")
    return message if id is None else {**message, "id": id}


def _wrong(message: str, remedy: str) -> InputError:
    return InputError(message, code="INVALID", status=422, remedy=remedy)
