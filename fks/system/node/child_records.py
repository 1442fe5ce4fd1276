"""Records of the keeper's child processes in `run/keeper.json`, by which the next keeper finds them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from fks.config.machine import process_space
from fks.config.paths import Paths
from fks.config.secrets import write_private
from fks.system.process.handle import ProcessHandle


@dataclass(frozen=True, slots=True)
class ChildRecord:
    """One service: its process, since when (ns UTC), and how often it was restarted while this system is up."""

    pid: int
    mark: str
    since_ns: int
    restarts: int = 0


class ChildRecords:
    """The file `run/keeper.json`, replaced whole. Records of an earlier boot, or of another pid
    namespace (a container that was made again on the same volume), are void: their pids mean nothing here."""

    def __init__(self, file: Path, write: Callable[[str, Callable[[], None]], None] | None = None) -> None:
        """`write(name, write)` is how the keeper writes its files (`HomeDisk.write`)."""
        self._file = file
        self._write = write
        self._space = process_space()
        self._records: dict[str, ChildRecord] = {}
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            document = orjson.loads(file.read_bytes())
            if document["space"] == self._space:
                self._records = {name: ChildRecord(**record) for name, record in document["services"].items()}

    def get(self, name: str) -> ChildRecord | None:
        """Return the record of a service, or None."""
        return self._records.get(name)

    def items(self) -> list[tuple[str, ChildRecord]]:
        """Return every service with its record."""
        return list(self._records.items())

    def pids(self) -> dict[str, int]:
        """Return the process of each service that runs."""
        return {name: record.pid for name, record in self._records.items() if record.pid}

    def put(self, name: str, record: ChildRecord) -> None:
        """Replace the record of `name`. After return it is on disk, or is kept by `write` until it can be."""
        self._records[name] = record
        if self._write is not None:
            self._write(self._file.name, self._save)
        else:
            self._save()

    def forget(self, name: str) -> None:
        """Record that `name` has no process; the count of restarts stays."""
        record = self._records.get(name)
        if record is not None and record.pid:
            self.put(name, replace(record, pid=0, mark=""))

    def remove(self) -> None:
        """Remove all records: everything is stopped."""
        self._records = {}
        self._file.unlink(missing_ok=True)

    def _save(self) -> None:
        services = {name: asdict(record) for name, record in self._records.items()}
        write_private(self._file, orjson.dumps({"space": self._space, "services": services}).decode())


def has_living(paths: Paths) -> bool:
    """Return whether a service that a keeper of this home started still runs."""
    records = ChildRecords(paths.run / "keeper.json").items()
    return any(ProcessHandle.find(record.pid, record.mark) for _, record in records)
