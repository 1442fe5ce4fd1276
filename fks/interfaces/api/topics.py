"""Topics of `WS /ws`: the subjects that a client subscribes to, and the topics that a message belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any, NamedTuple

Message = Mapping[str, Any]


class Topic(NamedTuple):
    """Subject of one subscription; "" means any. `timeframe` is of bars alone."""

    channel: str
    exchange: str = ""
    symbol: str = ""
    timeframe: str = ""


def topics_of(
    channels: Iterable[str], symbols: Iterable[tuple[str, str]] = (), timeframes: Iterable[str] = ()
) -> frozenset[Topic]:
    """Return every combination; `symbols` are (exchange or "", symbol), none of them means all."""
    places, frames = list(symbols) or [("", "")], list(timeframes) or [""]
    return frozenset(
        Topic(channel, exchange, symbol, frame if channel == "bars" else "")
        for channel, (exchange, symbol), frame in product(channels, places, frames)
    )


def wanted(topics: set[Topic], channel: str, message: Message) -> bool:
    """Return whether one of `topics` is the message's; one without a symbol belongs to all of its channel."""
    if message.get("symbol") is None:
        return any(topic.channel == channel for topic in topics)
    return not topics.isdisjoint(topics_matching(channel, message))


def topics_matching(channel: str, message: Message) -> set[Topic]:
    """Return every topic that the message belongs to."""
    exchanges = {"", str(message.get("exchange") or "")}
    frames = {"", str(message.get("timeframe") or "")} if channel == "bars" else {""}
    symbols = ("", str(message.get("symbol") or ""))
    return {Topic(channel, exchange, symbol, frame) for exchange in exchanges for symbol in symbols for frame in frames}
