"""Generator of docs/feeds.md from the tables of the feed: `python scripts/feeds_page.py > docs/feeds.md`."""

from __future__ import annotations

import re
import sys
from enum import Enum

from fks.market.feed.machine import (
    ACTIONS,
    EVENTS,
    STREAM,
    TRANSITIONS,
    FeedAct,
    FeedAction,
    FeedEvent,
    FeedState,
    FeedTransition,
    Stream,
)

_STATES: dict[FeedState, str] = {
    FeedState.COLD: "nothing is built yet",
    FeedState.BACKFILL: "trades are missing and are being fetched; what arrives waits",
    FeedState.LIVE: "complete up to the last trade, and the stream is trusted",
    FeedState.STALE: "complete up to the last trade, but not subscribed, or silent without proof",
    FeedState.OFF: "not collected any more",
}
_STREAMS: dict[Stream, str] = {
    Stream.CURRENT: "trades arrive, or REST proved that none is missing",
    Stream.LAGGING: "REST has a trade that did not arrive: only a trade of the stream proves it current again",
    Stream.SILENT: "silent beyond its limit: not trusted until a trade arrives, or REST proves the silence for as long",
    Stream.SILENT_LAGGING: "both",
}
#: the transitions of a feed's usual life
PICTURE = """stateDiagram-v2
    direction LR
    [*] --> COLD
    COLD --> BACKFILL: subscribed
    BACKFILL --> LIVE: nothing is missing
    LIVE --> BACKFILL: a gap
    LIVE --> STALE: disconnected or silent
    STALE --> BACKFILL: subscribed again
    STALE --> LIVE: trusted again
    LIVE --> OFF: stopped"""


def document() -> str:
    """Return the whole page."""
    states = "\n".join(f"| {state.value} | {meaning} |" for state, meaning in _STATES.items())
    streams = "\n".join(f"| {stream.value} | {meaning} |" for stream, meaning in _STREAMS.items())
    events = "\n".join(f"| {_spaced(event)} | {_first_line(event)} |" for event in EVENTS)
    actions = "\n".join(f"| `{action.__name__}` | {_first_line(action)} |" for action in ACTIONS)
    acts = "\n".join(f"* {act.name.lower()}: {act.value}" for act in FeedAct)
    return f"""# Feeds

This page is made of the tables of `fks/market/feed/machine.py` by `python scripts/feeds_page.py > docs/feeds.md`; a
test keeps it true. The collector gives each feed its events and performs the actions that the feed returns.

```mermaid
{PICTURE}
```

## States
| State | Meaning |
|---|---|
{states}

Beside its state a feed has a **stream**: what the trades of its connection prove.

| Stream | Meaning |
|---|---|
{streams}

## Events
| Event | Meaning |
|---|---|
{events}

## Transitions
The first row of a state and event whose condition holds applies. A pair without a row changes nothing.

{_table()}

{acts}

## Transitions of the stream
| Event | From | To |
|---|---|---|
{_stream_table()}

## Actions
| Action | Meaning |
|---|---|
{actions}
"""


def _table() -> str:
    lines = ["| # | From | Event | When | To | Then | Note |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*lines, *map(_line, TRANSITIONS)])


def _line(row: FeedTransition) -> str:
    target = "–" if row.target is None else row.target.value
    acts = ", ".join(act.name.lower() for act in row.acts) or "–"
    when = (row.guard.__doc__ or "").strip()
    return (
        f"| {row.number} | {_names(FeedState, row.states)} | {_spaced(row.event)} | {when} | {target} | {acts} "
        f"| {row.note or '–'} |"
    )


def _stream_table() -> str:
    found: dict[tuple[str, Stream], list[Stream]] = {}
    for (event, before), after in STREAM.items():
        found.setdefault((event, after), []).append(before)
    return "\n".join(
        f"| {event} | {_names(Stream, frozenset(before))} | {after.value} |" for (event, after), before in found.items()
    )


def _names(kind: type[Enum], chosen: frozenset[FeedState] | frozenset[Stream]) -> str:
    return "any" if len(chosen) == len(kind) else ", ".join(str(one.value) for one in kind if one in chosen)


def _spaced(event: type[FeedEvent]) -> str:
    return re.sub(r"(?<!^)([A-Z])", r" \1", event.__name__).lower()


def _first_line(kind: type[FeedEvent] | type[FeedAction]) -> str:
    return re.sub(r"\s+", " ", (kind.__doc__ or "").strip().split("\n\n")[0])


if __name__ == "__main__":
    sys.stdout.write(document())
