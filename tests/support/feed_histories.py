"""Recorded histories of feeds: the calls of one feed with their arguments and answers, one JSON object a line.

The first line is a header: `{"format": "fks-feed-history/2", "spec", "now_s"}`. Each further line is a call of the feed:
`call` and `args`, then the results: `actions` and the `rows` of the transition table for an event, `gives` for an answer
of REST and for another call, and `state` and `stream` when they changed. `replay` makes the same calls on a new feed,
which must give the same.

`FKS_RECORD_FEEDS=FOLDER` makes the soak of faults write the histories of all its feeds into FOLDER. As a program this
module selects few short ones of them, which together reach all rows that any of them reaches:

    python -m tests.support.feed_histories FOLDER tests/tapes/feed
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import msgspec

from fks.market.feed import machine as m
from fks.market.feed.feed import FeedSpec, SymbolFeed
from fks.market.feed.queues import Batch
from fks.model.bar import BarClosed, PublicTrade
from fks.model.market import BarSeen, Book, Quote

MakeFeed = Callable[[FeedSpec, float], SymbolFeed]
FORMAT = "fks-feed-history/2"
VARIABLE = "FKS_RECORD_FEEDS"
#: lines and bytes kept after the last row that a selected history is kept for: what follows from it
AFTER, AFTER_BYTES = 40, 20_000
_EVENTS = {kind.__name__: kind for kind in (*m.EVENTS, PublicTrade, BarClosed, BarSeen, Quote, Book)}
#: calls that change a feed, beside events: the types of their arguments
_CALLS: dict[str, Any] = {
    "take_batch": tuple[int, int],
    "put_back": tuple[()],
    "keep_trades": tuple[int],
}


# ── recording ────────────────────────────────────────────────────────────────────────────────────
class RecordedFeed(SymbolFeed):
    """A feed that writes its calls and its answers. A line is in the file once its call has returned."""

    def __init__(self, spec: FeedSpec, now_s: float, file: TextIO) -> None:
        super().__init__(spec, now_s)
        self._file = file
        self._shown: tuple[str, str] = ("", "")
        self._write({"format": FORMAT, "spec": _plain(spec), "now_s": now_s})

    def handle(self, event: m.FeedEvent) -> list[m.FeedAction]:
        given = _tagged(event)
        actions = super().handle(event)
        self._note("handle", [given], _gave(self, event, actions))
        return actions

    def take_batch(self, bars_max: int, trades_max: int) -> Batch:
        batch = super().take_batch(bars_max, trades_max)
        if batch:  # taking nothing changes nothing
            self._note("take_batch", [bars_max, trades_max], {"gives": _shown(batch)})
        return batch

    def put_back(self, batch: Batch) -> None:
        super().put_back(batch)
        if batch:
            self._note("put_back", [])

    def keep_trades(self, trades_max: int) -> None:
        super().keep_trades(trades_max)
        self._note("keep_trades", [trades_max])

    def _note(self, call: str, args: list[Any], gave: dict[str, Any] | None = None) -> None:
        line = {"call": call, "args": args} | (gave or {})
        if self._shown != (self.state, self.stream):
            self._shown = (self.state, self.stream)
            line |= {"state": self.state, "stream": self.stream}
        self._write(line)

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(_text(line) + "\n")
        self._file.flush()  # the process is killed at any moment


def feed_maker(folder: str) -> MakeFeed:
    """Return a maker of feeds that write their histories into a folder."""

    def make(spec: FeedSpec, now_s: float) -> SymbolFeed:
        path = Path(folder) / f"{spec.symbol.lower()}-{time.time_ns()}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        return RecordedFeed(spec, now_s, path.open("w"))

    return make


def folder_asked_for() -> str:
    """Return the folder that FKS_RECORD_FEEDS names; "": histories are not recorded."""
    return os.environ.get(VARIABLE, "")


# ── replay ───────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True, slots=True)
class Difference:
    """The first line at which a replay gave something else. `line` counts from 1, the header included."""

    line: int
    recorded: str
    replayed: str


@dataclass(slots=True)
class Replayed:
    """Result of a replay. `first` holds each reached row of the transition table and the line that reached it first."""

    difference: Difference | None = None
    first: dict[int, int] = field(default_factory=dict)


def replay(lines: Sequence[str]) -> Replayed:
    """Make the calls of a history on a new feed, up to the first difference.

    Errors: ValueError when the lines are no history of this format.
    """
    header = msgspec.json.decode(lines[0])
    if header.get("format") != FORMAT:
        raise ValueError(f"not a history of format {FORMAT}: {header.get('format')!r}")
    feed = SymbolFeed(msgspec.convert(header["spec"], FeedSpec), header["now_s"])
    result, taken = Replayed(), Batch([], [], [], [])
    state, stream = "", ""
    for number, text in enumerate(lines[1:], 2):
        line = msgspec.json.decode(text)
        call, args = line["call"], line["args"]
        again: dict[str, Any] = {"call": call, "args": args}
        if call == "handle":
            event = _event(args[0])
            again |= _gave(feed, event, feed.handle(event))
            for row in feed.applied:
                result.first.setdefault(row, number)
        elif call == "put_back":
            feed.put_back(taken)
        else:
            gave = getattr(feed, call)(*msgspec.convert(args, _CALLS[call]))
            if call == "take_batch":
                taken = gave
                again["gives"] = _shown(taken)
        if (state, stream) != (feed.state, feed.stream):
            state, stream = feed.state, feed.stream
            again |= {"state": state, "stream": stream}
        if _text(line) != _text(again):
            result.difference = Difference(number, _text(line), _text(again))
            return result
    return result


def _gave(feed: SymbolFeed, event: m.FeedEvent, actions: Sequence[m.FeedAction]) -> dict[str, Any]:
    """Return the results of an event, those that a feed shows to the gap filler among them."""
    line: dict[str, Any] = {"actions": [_tagged(action) for action in actions]} if actions else {}
    if isinstance(event, m.TradesFetched | m.Recovered):
        line["gives"] = _plain(feed.fetched_gap)
    elif isinstance(event, m.CorrectionStarted):
        line["gives"] = list(feed.correcting)
    return line | ({"rows": list(feed.applied)} if feed.applied else {})


def _event(value: dict[str, Any]) -> Any:
    ((name, fields),) = value.items()
    kind = _EVENTS[name]
    if kind is m.Received:
        return m.Received(fields["now_ns"], fields["now_s"], [_event(item) for item in fields["events"]])
    if kind is m.BookReceived:
        return m.BookReceived(fields["now_ns"], fields["now_s"], _event(fields["value"]))
    return msgspec.convert(fields, kind)


def _tagged(value: object) -> dict[str, Any]:
    """Return a value under the name of its class, and so the values in it that may be of several classes."""
    fields = _plain(value)
    if isinstance(value, m.Received):
        fields["events"] = [_tagged(item) for item in value.events]
    elif isinstance(value, m.BookReceived):
        fields["value"] = _tagged(value.value)
    return {type(value).__name__: fields}


def _shown(batch: Batch) -> dict[str, Any]:
    """Return a batch for the store with the ids of its trades instead of the trades, which events hold already."""
    shown = {"sealed": batch.sealed, "revised": batch.revised, "outages": batch.outages}
    return {name: _plain(items) for name, items in shown.items() if items} | (
        {"trades": [trade.trade_id for trade in batch.trades]} if batch.trades else {}
    )


def _plain(value: object) -> Any:
    """Return a value as JSON has it: money as text."""
    return msgspec.json.decode(msgspec.json.encode(value))


def _text(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()


# ── selection ────────────────────────────────────────────────────────────────────────────────────
def load(path: Path) -> list[str]:
    """Return the lines of a history; a last one that was cut by a kill is left out."""
    lines = path.read_text().split("\n")
    return lines[:-1]


def select(histories: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the beginnings of few histories that reach every row that any of them reaches.

    Greedy: always the beginning that reaches the most rows that are not reached yet for its size.
    """
    reached = {name: replay(lines).first for name, lines in histories.items() if lines}
    missing = {row for first in reached.values() for row in first}
    chosen: dict[str, int] = {}
    while missing:
        best: tuple[float, str, int] | None = None
        for name, first in reached.items():
            for end in sorted({line for row, line in first.items() if row in missing}):
                gain = sum(row in missing for row, line in first.items() if line <= end)
                size = sum(map(len, histories[name][:end])) - sum(map(len, histories[name][: chosen.get(name, 0)]))
                if best is None or gain / size > best[0]:
                    best = gain / size, name, end
        assert best is not None
        _, name, end = best
        chosen[name] = max(end, chosen.get(name, 0))
        missing -= {row for row, line in reached[name].items() if line <= end}
    kept = {name: _beginning(histories[name], end) for name, end in chosen.items()}
    rows = {name: set(replay(lines).first) for name, lines in kept.items()}
    for name in sorted(kept, key=lambda name: len(kept[name])):  # one that the others make superfluous goes
        if rows[name] <= set().union(*(found for other, found in rows.items() if other != name)):
            del kept[name], rows[name]
    return kept


def _beginning(lines: list[str], end: int) -> list[str]:
    after: list[str] = []
    for line in lines[end : end + AFTER]:
        if sum(map(len, after)) + len(line) > AFTER_BYTES:
            break
        after.append(line)
    return lines[:end] + after


def main() -> None:
    """Select histories of one folder and write them into another."""
    source, target = map(Path, sys.argv[1:3])
    target.mkdir(parents=True, exist_ok=True)
    for name, lines in select({path.name: load(path) for path in sorted(source.glob("*.jsonl"))}).items():
        rows = "-".join(map(str, sorted(replay(lines).first)))
        file = target / f"{name.partition('-')[0]}-rows-{rows}.jsonl"
        file.write_text("\n".join(lines) + "\n")
        print(f"{file}: {len(lines)} lines from {name}")


if __name__ == "__main__":
    main()
