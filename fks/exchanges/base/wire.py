"""The shape of an exchange's wire: frames in, values out, and no socket anywhere.

A Wire lives as long as one connection and is used by one task. The same object reads a live socket, a recording and a
test.

| Comes in | Goes out |
|---|---|
| a message of a channel that was asked for | its values, in the order of the message |
| every subscription has been answered | `Subscribed`, once |
| one subscription was refused | `Suspect` with the reason; the others stand |
| an unknown kind of message | nothing; counted in `Tally.unknown` |
| a known kind with a field nobody knows | its values; the field is counted once a connection |
| not JSON, a wrong type, a price of zero or NaN | `Suspect` with the text, and `Gone`: what it held is missing (symbol
empty: of any) |
| a hole in sequence numbers, a wrong checksum | `Gone`; the wire asks for the channel anew by itself (a book: as `Anew`
says) |
| the exchange says that it is going away | raises OutageError |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fks.model.market import Channel, Gone, MarketEvent, Subscription, Suspect

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Subscribed:
    """Everything that `hello` asked for has been answered."""


class Wire(Protocol):
    """One connection's protocol, without I/O."""

    def url(self, wanted: Sequence[Subscription]) -> str:
        """Return where to dial for these. Secrets are never part of it."""
        ...

    def hello(self, wanted: Sequence[Subscription]) -> list[bytes]:
        """Return the frames that subscribe. Errors: InputError for what the exchange has not (a timeframe, a
        channel)."""
        ...

    def receive(self, frame: bytes, received_ns: int) -> Sequence[MarketEvent | Subscribed]:
        """Return what a frame says; see the table above. Errors: OutageError, PeerError; then the connection is
        over."""
        ...

    def bye(self, gone: Sequence[Subscription]) -> list[bytes]:
        """Return the frames that unsubscribe some of what `hello` asked for. What of them is on its way is read all the
        same."""
        ...

    def pulse(self, now_s: float) -> list[bytes]:
        """Return frames due now (pings, a channel asked for anew). Called about once a second and after each Gone.

        Errors: PeerError when a channel was asked for too often; then the connection is over.
        """
        ...


TEXT_MAX = 4000  # of a message kept in quarantine


def parts(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """Return `items` in order, at most so many together: what one request takes."""
    return [items[start : start + most] for start in range(0, len(items), most)]


def answered(asked: set[T], one: T) -> list[Subscribed]:
    """Take `one` out of what was asked for and not answered yet; return Subscribed when it was the last."""
    was_open = bool(asked)
    asked.discard(one)
    return [Subscribed()] if was_open and not asked else []


def doubted(channel: Channel, symbol: str, why: object, frame: bytes, received_ns: int) -> list[MarketEvent]:
    """Return what becomes of a message not believed: it is quarantined, and what it may have held is missing.

    A quote is missing only until the next one, so no Gone is said of it.
    """
    text = bytes(frame[:TEXT_MAX]).decode(errors="replace")
    suspect = Suspect(channel, symbol, str(why), text, received_ns)
    return (
        [suspect]
        if channel is Channel.QUOTES
        else [suspect, Gone(channel, symbol, f"a message was not believed: {why}")]
    )
