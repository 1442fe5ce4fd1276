"""Lines of the log files of this node: parsed, chosen by component and level, followed across rotation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40}
BYTES_MAX = 4_000_000  # read from the end of each file when lines are searched for
BYTES_RECENT = 256_000  # and when only the last ones are wanted
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:[.,]\d+)?)")
_BAD = re.compile(r"\b(ERROR|FATAL|PANIC|CRITICAL|Traceback)\b")
_WARN = re.compile(r"\b(WARN|WARNING)\b")
_FIXED = frozenset({"ts", "level", "component", "event", "pid"})
_TELLERS = ("keeper", "supervisor")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log. Raw lines of programs that write none of our JSON have `raw` and no fields."""

    time: str
    component: str
    level: str
    event: str
    fields: dict[str, Any]
    raw: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class LogFilter:
    """The filter of the lines that are shown."""

    components: tuple[str, ...] = ()
    level: str = "DEBUG"
    trace: str | None = None

    def takes(self, line: Line) -> bool:
        """Return whether `line` is to be shown."""
        if LEVELS.get(line.level, 20) < LEVELS[self.level]:
            return False
        if self.components and not any(is_of(line.component, name) for name in self.components):
            return False
        return self.trace is None or self.trace in line.raw or any(str(v) == self.trace for v in line.fields.values())


def newest(folder: Path, component: str, count: int, level: str = "DEBUG") -> list[Line] | None:
    """Return the last lines of a component by the files of `folder`, oldest first; None when it has none there."""
    if not any(is_of(name, component) for path in folder.glob("*") if (name := component_of(path))):
        return None
    wanted = LogFilter((component,), level)
    reader = FolderReader(folder, BYTES_RECENT if level == "DEBUG" else BYTES_MAX, component)
    return sorted((line for line in reader.drain() if wanted.takes(line)), key=lambda line: line.time)[-count:]


class FolderReader:
    """Reads the lines appended to the files of a folder since the last call. Identifies a file by its inode, so a
    rotated file is read to its end and the new one from its start."""

    def __init__(self, folder: Path, bytes_max: int = BYTES_MAX, component: str | None = None) -> None:
        """`component`: its files alone; None: those of all."""
        self._folder = folder
        self._component = component
        self._bytes_max = bytes_max
        self._places: dict[int, int] = {}
        self._is_first = True

    def drain(self) -> list[Line]:
        """Return the new lines of all files; the first time those in the last `bytes_max` of each."""
        found: list[Line] = []
        # files with restart records last: a record is then never younger than the first line after it
        for path in sorted(self._folder.glob("*"), key=lambda path: (path.name.startswith(_TELLERS), path.name)):
            name = component_of(path)
            if name is not None and (self._component is None or is_of(name, self._component)):
                found += self._read(path)
        self._is_first = False
        return found

    def _read(self, path: Path) -> Iterator[Line]:
        try:
            with path.open("rb") as stream:
                status = os.fstat(stream.fileno())
                place = self._places.get(
                    status.st_ino, max(0, status.st_size - self._bytes_max) if self._is_first else 0
                )
                stream.seek(place if place <= status.st_size else 0)
                data = stream.read()
                end = data.rfind(b"\n") + 1  # a line still being written is left for the next look
                self._places[status.st_ino] = stream.tell() - len(data) + end
        except OSError:
            return
        component = component_of(path) or path.stem
        last = ""
        for text in data[:end].decode(errors="replace").splitlines():
            if text.strip():
                line = parse(text, component, last)
                last = line.time
                yield line


def parse(text: str, component: str, before: str = "") -> Line:
    """Return a line of a file. `before` is the time of the line above, for lines without one."""
    if text.startswith("{"):
        try:
            found = orjson.loads(text)
            fields = {key: value for key, value in found.items() if key not in _FIXED}
            pid = found.get("pid")
            return Line(
                found["ts"],
                found["component"],
                found["level"],
                found["event"],
                fields,
                pid=pid if isinstance(pid, int) else 0,
            )
        except (orjson.JSONDecodeError, KeyError):
            pass
    match = _TIME.search(text[:80])
    time = f"{match[1]}T{match[2].replace(',', '.')}" if match else before
    level = "ERROR" if _BAD.search(text) else "WARNING" if _WARN.search(text) else "INFO"
    return Line(time, component, level, "", {}, text)


def component_of(path: Path) -> str | None:
    """Return the component whose file this is: orders.jsonl, orders.jsonl.1, postgres.log; None for other files."""
    match = re.fullmatch(r"(.+?)\.(?:jsonl|log|out)(?:\.\d+)?", path.name)
    return match[1] if match and path.is_file() else None


def is_of(component: str, name: str) -> bool:
    """Return whether `name` means `component`: collector means collector:binance too, raylet and gcs are Ray's."""
    asked = {"raylet": "ray", "gcs": "ray"}.get(name, name).replace(":", "-")
    found = component.partition("@")[0].replace(":", "-")  # strategy:0@w1 is of another machine
    return found == asked or found.startswith(asked + "-")
