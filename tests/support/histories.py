"""Recorded histories of an order core: its events and its commands, one JSON object a line.

The first line is a header: `{"format": "fks-order-history/1", "key", "limits"}`. Each further line has `ns` and
`mono_s` of the moment, `facts` when they changed, `event` and `commands`. `replay` gives the same events to a new core,
which must give the same commands: so a change of the core shows what it changes in runs that happened
(tests/tapes/orders). `FKS_RECORD_HISTORIES=1 pytest …` writes one file for each test that asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from fks.trading.orders import messages as m
from fks.trading.orders.core import OrderCore

FOLDER = Path(__file__).parents[1] / "tapes" / "orders"
FORMAT = "fks-order-history/1"
_EVENTS = {kind.__name__: kind for kind in m.CoreEvent.__subclasses__()}


@dataclass(frozen=True, slots=True)
class ReplayDifference:
    """The first line at which a replay gave other commands. `line` counts from 1, the header included."""

    line: int
    event: str
    recorded: tuple[str, ...]
    replayed: tuple[str, ...]


class HistoryWriter:
    """Turns what one core is given into lines. Soft state: the last facts."""

    def __init__(self, key: m.PositionKey, limits: m.Limits) -> None:
        self.lines = [_text({"format": FORMAT, "key": list(key), "limits": _plain(limits)})]
        self._facts: object = None

    def note(self, event: m.CoreEvent, now: m.Now, facts: m.Facts, commands: Sequence[m.CoreCommand]) -> None:
        """Add one line. An event that commanded nothing is kept as well: it may have moved a state."""
        plain = _plain(facts)
        clock_ns = plain.pop("exchange_now_ns")
        is_news = plain != self._facts
        line: dict[str, Any] = {"ns": now.ns, "mono_s": now.mono_s, "exchange_ns": clock_ns}
        if is_news:
            line["facts"] = self._facts = plain
        line["event"] = _tagged(event)
        line["commands"] = [_tagged(command) for command in commands]
        self.lines.append(_text(line))


def replay(lines: Iterable[str]) -> ReplayDifference | None:
    """Return the first difference between the recorded commands and those of the core as it is now; None = there is
    none.

    Errors: ValueError when the lines are no history of this format.
    """
    numbered = enumerate((line for line in lines if line.strip()), 1)
    header = msgspec.json.decode(next(numbered)[1])
    if header.get("format") != FORMAT:
        raise ValueError(f"not a history of format {FORMAT}: {header.get('format')!r}")
    account_id, venue, symbol = header["key"]
    core = OrderCore((account_id, venue, symbol), msgspec.convert(header["limits"], m.Limits))
    plain: dict[str, Any] = {}
    for number, text in numbered:
        line = msgspec.json.decode(text)
        plain = line.get("facts", plain)
        facts = msgspec.convert(plain | {"exchange_now_ns": line["exchange_ns"]}, m.Facts)
        kind = line["event"]["type"]
        event = msgspec.convert(line["event"]["value"], _EVENTS[kind])
        commands = core.handle(event, m.Now(line["ns"], line["mono_s"]), facts)
        recorded = tuple(_text(command) for command in line["commands"])
        replayed = tuple(_text(_tagged(command)) for command in commands)
        if recorded != replayed:
            return ReplayDifference(number, kind, recorded, replayed)
    return None


class Histories:
    """A Recorder that keeps what every core of one run was given."""

    def __init__(self, limits: m.Limits) -> None:
        self._limits = limits
        self._writers: dict[m.PositionKey, HistoryWriter] = {}

    def __call__(
        self, key: m.PositionKey, event: m.CoreEvent, now: m.Now, facts: m.Facts, commands: list[m.CoreCommand]
    ) -> None:
        self._writers.setdefault(key, HistoryWriter(key, self._limits)).note(event, now, facts, commands)

    @property
    def writers(self) -> list[HistoryWriter]:
        """Return the histories that are worth keeping: those in which something was commanded."""
        return [w for w in self._writers.values() if any('"commands":[{' in line for line in w.lines)]


def is_recording() -> bool:
    """Return whether this run writes histories."""
    return bool(os.environ.get("FKS_RECORD_HISTORIES"))


def save(name: str, runs: Iterable[Histories]) -> None:
    """Write the histories of a test's runs, one file a core and run, when FKS_RECORD_HISTORIES is set."""
    if not is_recording():
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for number, writer in enumerate(writer for run in runs for writer in run.writers):
        stem = name.removeprefix("test_").replace("[", "-").replace("]", "")
        file = FOLDER / f"{stem}{f'-{number}' if number else ''}.jsonl"
        file.write_text("\n".join(writer.lines) + "\n")


def _plain(value: object) -> Any:
    """Return a value as JSON has it: money as text, ids as text, sets sorted."""
    return msgspec.json.decode(msgspec.json.encode(value, order="sorted"))


def _tagged(value: object) -> dict[str, Any]:
    return {"type": type(value).__name__, "value": _plain(value)}


def _text(value: object) -> str:
    return msgspec.json.encode(value, order="sorted").decode()
