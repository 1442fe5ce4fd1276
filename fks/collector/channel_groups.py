"""What of a symbol shares a socket: its trades and the exchange's bars; its quotes and its book, each by itself.

A strand goes by the symbol's name, or by that and the channel's where it is an aside. So a strand of quotes that is
silent is subscribed anew without a word to anybody who waits for trades.
"""

from __future__ import annotations

from collections.abc import Iterable

from fks.model.market import BarSeen, Book, Channel, Discontinuity, MarketEvent, Quote, Subscription, Suspect

ASIDES = (Channel.QUOTES, Channel.BOOK)
_SEPARATOR = " "


def strand_of(symbol: str, channel: str) -> str:
    """Return the strand on which a channel of a symbol comes."""
    return f"{symbol}{_SEPARATOR}{channel}" if channel in ASIDES else symbol


def told_on(event: MarketEvent) -> str:
    """Return the strand that an event belongs to."""
    if isinstance(event, BarSeen):
        return event.bar.symbol
    if isinstance(event, Discontinuity | Suspect):
        return strand_of(event.symbol, event.channel)
    return strand_of(
        event.symbol,
        Channel.QUOTES if isinstance(event, Quote) else Channel.BOOK if isinstance(event, Book) else Channel.TRADES,
    )


def whose(strand: str) -> tuple[str, Channel | None]:
    """Return the symbol of a strand and, of an aside, its channel."""
    symbol, _, channel = strand.rpartition(_SEPARATOR)
    return (symbol, Channel(channel)) if channel in ASIDES else (strand, None)


def strands(wanted: Iterable[Subscription]) -> list[str]:
    """Return the strands that subscriptions come on."""
    return sorted({strand_of(item.symbol, item.channel) for item in wanted})


def may_move(strand: str, beside: Iterable[str]) -> bool:
    """Return whether a silent strand may be subscribed anew: no trades are disturbed for an aside that shares their
    socket.

    It does where there may be no more sockets. `beside`: the strands on its socket.
    """
    return whose(strand)[1] is None or not any(whose(other)[1] is None for other in beside)
