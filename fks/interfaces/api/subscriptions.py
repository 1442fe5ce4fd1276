"""Messages from clients of `WS /ws`, and their answers, which go through the client's queue, in order.

`{"type": "subscribe", "channels": ["bars"], "symbols": ["BTC/USDT"], "timeframes": ["1m"], "bars": 100}` is answered by
`subscribed`, a `snapshot` per symbol (and timeframe) of the channels that have one, then by new messages. Repeated, it
gives a new snapshot. `after`, {"stream": of `hello`, "seq": of the last message}, replays what was missed since, or is
answered with `resumed` false: then the client reads again. `unsubscribe` has the same members, without `bars` and
`after`; an omitted one means all. `exchange` is needed where several exchanges have a symbol. `id` is returned in the
answers. `checked` acknowledges a check (`window.py`). A snapshot has the form of the messages that follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from fks.interfaces.api.client import TOPICS_MAX, SocketClient
from fks.interfaces.api.gateway import Replica
from fks.interfaces.api.hub import BUSY, EVERY
from fks.interfaces.api.topics import Message, Topic, topics_of
from fks.model.errors import FksError, InputError, invalid, unprocessable
from fks.model.timeframe import check_timeframe, iso, to_ns
from fks.model.untrusted import parse
from fks.store.db import Row
from fks.store.latest import Latest
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
    if isinstance(bars, bool) or not isinstance(bars, int) or not 1 <= bars <= SNAPSHOT_BARS_MAX:
        raise _wrong(f"bars={bars!r} is no number from 1 to {SNAPSHOT_BARS_MAX}", "ask GET /historical for more")
    topics = wide(topics_of(channels, places, frames))
    shown = [topic for topic in topics if topic.channel in SNAPSHOTS and (topic.symbol or topic.channel == "feeds")]
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
        shots = [(topic, *await snapshot_of(gate, topic, bars)) for topic in shown]
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
    market = SNAPSHOTS
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
        raise invalid("CHANNEL_UNKNOWN", f"unknown channel {unknown[0]!r}", f"use {', '.join(EVERY)}")
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
    return unprocessable("INVALID", message, remedy)


#: The channels with a snapshot; missed messages of the others are read over REST.
SNAPSHOTS = frozenset({"bars", "prices", "quotes", "book", "feeds"})
SNAPSHOT_BARS_MAX = 1000
_PRICES = ("open", "high", "low", "close", "volume")
_KINDS = {"prices": "price", "quotes": "quote", "book": "book"}
Contains = Callable[[Message], bool]


async def snapshot_of(gate: Replica, topic: Topic, bars: int) -> tuple[Message, Contains]:
    """Return the snapshot of a topic, and the test whether it contains a message.

    `items` are messages in their usual form, oldest first: the newest `bars` bars (of each timeframe the newest, when
    the topic names none), the newest price, quote or book, the feeds' states. Errors: OutageError.
    """
    if topic.channel == "bars":
        items = await stored_bars(gate, topic, bars)
    elif topic.channel == "feeds":
        rows = await gate.db.fetch("reading.feed_states", topic.exchange or None, topic.symbol or None)
        items = [{"type": "feed", **dict(row)} for row in rows]
    else:
        seen = await Latest(gate.bus).read(topic.exchange, topic.symbol)
        found = getattr(seen, _KINDS[topic.channel])
        items = [] if found is None else [found]
    names = {"exchange": topic.exchange, "symbol": topic.symbol, "timeframe": topic.timeframe}
    message = {
        "type": "snapshot",
        "channel": topic.channel,
        **{name: value for name, value in names.items() if value},
        "time": iso(gate.deps.clock.now_ns()),
        "items": items,
    }
    return message, contained_bars(items) if topic.channel == "bars" else _contained_newest(topic.channel, items)


async def stored_bars(gate: Replica, topic: Topic, bars: int) -> list[dict[str, Any]]:
    """Return the newest stored bars of a topic as messages, oldest first."""
    place = (topic.exchange, topic.symbol)
    if not topic.timeframe:
        rows = await gate.db.fetch("reading.sealed_bars", *place)
        return [_bar(topic, row["timeframe"], row) for row in rows]
    first = await gate.db.fetchval("reading.nth_newest", *place, topic.timeframe, None, bars)
    if first is None:
        return []
    # one more than requested: a bar may have been sealed since
    rows = await gate.db.fetch("reading.page", *place, topic.timeframe, first, None, bars + 1)
    return [_bar(topic, topic.timeframe, row) for row in rows if row["is_complete"]]


def _bar(topic: Topic, timeframe: str, row: Row) -> dict[str, Any]:
    """Return a stored bar as the message that published it."""
    prices = {
        name: None if row[name] is None else repr(row[name]) for name in ("open", "high", "low", "close", "volume")
    }
    return {
        "type": "bar",
        "exchange": topic.exchange,
        "symbol": topic.symbol,
        "timeframe": timeframe,
        "time": iso(to_ns(row["time"])),
        **prices,
        "revision": row["revision"],
    }


def contained_bars(items: list[dict[str, Any]]) -> Contains:
    """Return the test for bars: contained when the snapshot has it in this revision or a later one.

    One without revision is contained when it is the same, unless another one of its time was not: then the snapshot
    may be older than both, and the last one counts.
    """
    known = {(item["timeframe"], item["time"]): item for item in items}
    passed: set[tuple[Any, Any]] = set()

    def contains(message: Message) -> bool:
        key = (message.get("timeframe"), message.get("time"))
        if (item := known.get(key)) is None:
            return False
        if isinstance(revision := message.get("revision"), int):
            return bool(revision <= item["revision"])
        if key not in passed and all(message.get(name) == item[name] for name in _PRICES):
            return True
        passed.add(key)
        return False

    return contains


def _contained_newest(channel: str, items: list[dict[str, Any]]) -> Contains:
    """Return the test for a price, quote or book: contained when the snapshot's came later; a feed's state is rather
    repeated than lost."""
    if channel == "feeds" or not items:
        return lambda message: False
    newest = _received(items[0])
    return lambda message: (_received(message) or "") < (newest or "")


def _received(message: Message) -> str | None:
    """Return the time of receipt of a message, in a form that sorts."""
    try:
        return datetime.fromisoformat(str(message.get("received"))).isoformat(timespec="microseconds")
    except ValueError:
        return None
