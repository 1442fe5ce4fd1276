"""What the keeper writes down of its children, so that the next keeper finds them: one small file, replaced whole."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from fks.config.machine import boot_id
from fks.config.secrets import write_private


@dataclass(frozen=True, slots=True)
class Entry:
    """One service: who runs it, since when (ns UTC), and how often it was restarted while this system is up."""

    pid: int
    mark: str
    since_ns: int
    restarts: int = 0


class Book:
    """The file `run/keeper.json`. Entries of an earlier boot of the machine are void: pids mean nothing across it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._boot = boot_id()
        self._entries: dict[str, Entry] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            document = orjson.loads(file.read_bytes())
            if document["boot"] == self._boot:
                self._entries = {name: Entry(**entry) for name, entry in document["services"].items()}

    def get(self, name: str) -> Entry | None:
        """Return what is known of a service, or None."""
        return self._entries.get(name)

    def items(self) -> list[tuple[str, Entry]]:
        """Return every service with what is known of it."""
        return list(self._entries.items())

    def pids(self) -> dict[str, int]:
        """Return who runs each service."""
        return {name: entry.pid for name, entry in self._entries.items() if entry.pid}

    def note(self, name: str, entry: Entry) -> None:
        """Remember who runs `name`. Returned, it is on disk."""
        self._entries[name] = entry
        self._save()

    def forget(self, name: str) -> None:
        """Remember that nobody runs `name`; the count of restarts stays."""
        entry = self._entries.get(name)
        if entry is not None and entry.pid:
            self.note(name, replace(entry, pid=0, mark=""))

    def remove(self) -> None:
        """Forget all: everything is stopped."""
        self._entries = {}
        self._file.unlink(missing_ok=True)

    def _save(self) -> None:
        services = {name: asdict(entry) for name, entry in self._entries.items()}
        write_private(self._file, orjson.dumps({"boot": self._boot, "services": services}).decode())
