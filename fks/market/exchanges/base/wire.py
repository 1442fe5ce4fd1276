"""Protocol of one exchange connection without I/O: frames in, values out.

A Wire lives as long as one connection and is used by one task. The same object reads a live connection, a recording and
a test.

| In | Out |
|---|---|
| a message of a subscribed channel | its values, in the order of the message |
| every subscription has been answered | `SubscriptionsAnswered`, once |
| one subscription was refused | `Suspect` with the reason; the others stand |
| an unknown kind of message | nothing; counted in `ConnectionCounters.unknown` |
| a known kind with an unknown field | its values; the field is counted once a connection |
| not JSON, a wrong type, a price of zero or NaN | `Suspect` with the text, and `Discontinuity` (empty symbol: any) |
| a sequence gap, a wrong checksum | `Discontinuity`; the wire resubscribes the channel (a book: see `BookResync`) |
| a notice that the exchange closes the connection | raises OutageError |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from fks.model.market import Channel, Discontinuity, MarketEvent, Subscription, Suspect

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SubscriptionsAnswered:
    """Every subscription of `subscribe_frames` has been answered."""


class Wire(Protocol):
    """One connection's protocol, without I/O."""

    def url(self, wanted: Sequence[Subscription]) -> str:
        """Return the address to connect to for these. It contains no secrets."""
        ...

    def subscribe_frames(self, wanted: Sequence[Subscription]) -> list[bytes]:
        """Return the frames that subscribe. Errors: InputError for a channel or timeframe that the exchange lacks."""
        ...

    def receive(self, frame: bytes, received_ns: int) -> Sequence[MarketEvent | SubscriptionsAnswered]:
        """Return the events of a frame; see the table above. Errors: OutageError, PeerError end the connection."""
        ...

    def unsubscribe_frames(self, gone: Sequence[Subscription]) -> list[bytes]:
        """Return the frames that unsubscribe these. Messages of them that are on their way are still read."""
        ...

    def due_frames(self, now_s: float) -> list[bytes]:
        """Return frames due now (pings, resubscriptions). Called about once a second and after each Discontinuity.

        Errors: PeerError after too many resubscriptions; it ends the connection.
        """
        ...


TEXT_MAX = 4000  # of a message kept in quarantine


def parts(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """Return `items` in order, in parts of at most `most`: as many as one request takes."""
    return [items[start : start + most] for start in range(0, len(items), most)]


def answered(asked: set[T], one: T) -> list[SubscriptionsAnswered]:
    """Remove `one` from the unanswered subscriptions; return SubscriptionsAnswered when it was the last."""
    was_open = bool(asked)
    asked.discard(one)
    return [SubscriptionsAnswered()] if was_open and not asked else []


def suspect_message(channel: Channel, symbol: str, why: object, frame: bytes, received_ns: int) -> list[MarketEvent]:
    """Return the events of a message that failed validation: its quarantine record and a Discontinuity.

    A quote has no Discontinuity: the next quote replaces it.
    """
    text = bytes(frame[:TEXT_MAX]).decode(errors="replace")
    suspect = Suspect(channel, symbol, str(why), text, received_ns)
    return (
        [suspect]
        if channel is Channel.QUOTES
        else [suspect, Discontinuity(channel, symbol, f"a message was not believed: {why}")]
    )
