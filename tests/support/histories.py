"""Recording of order histories: `FKS_RECORD_HISTORIES=1 pytest …` writes one file for each test that asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fks.orders import messages as m
from fks.orders.history import HistoryWriter

FOLDER = Path(__file__).parents[1] / "tapes" / "orders"


class Histories:
    """A Recorder that keeps what every core of one run was given."""

    def __init__(self, limits: m.Limits) -> None:
        self._limits = limits
        self._writers: dict[m.PositionKey, HistoryWriter] = {}

    def __call__(
        self, key: m.PositionKey, event: m.Event, now: m.Now, facts: m.Facts, commands: list[m.Command]
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
