"""Snapshots: the first message of a new subscription to market data, in the form of the later ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from fks.api.client import Message, Topic
from fks.api.gateway import Replica
from fks.model.timeframe import iso, to_ns
from fks.store.db import Row
from fks.store.latest import Latest

#: The channels with a snapshot; missed messages of the others are read over REST.
CHANNELS = frozenset({"bars", "prices", "quotes", "book", "feeds"})
BARS_MAX = 1000
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
