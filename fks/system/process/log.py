"""Logging: named events with key-values, one JSON object a line, without a secret in them.

A process opens one log per component: `FKS_HOME/logs/<component>.jsonl`. Several processes may write the same file (the
replicas of the gateway, an old process beside a new one): a line is one write, and the process that finds the file full
rotates it under a lock while the others notice and follow. `fks logs` merges the files by time.

structlog is not used: of this module it would replace `bind` and the merging of fields. Redaction at every depth, the
lines of other libraries and the rotation shared by processes would stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import sys
import traceback
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from fks.config.paths import Paths
from fks.config.settings import LogSettings

BYTES_MAX = 10_000_000  # of one file; a day at INFO is a page, DEBUG fills one in minutes
FILES_KEPT = 3  # rotated files: .1 is the newest
TEXT_MAX = 4000  # characters of one value
HIDDEN = "***"
_NETWORK_LIBRARIES = frozenset({"ccxt", "aiohttp", "websockets"})

_OF_A_TRACEBACK = re.compile(
    r"Traceback \(most recent call last\)|\s+File \"|\s{4,}\S|\s+[\^~]+\s*$|During handling of the above|The above "
    r"exception was"
)
_SECRET_KEY = re.compile(r"(?i)(^|_)(password|passwd|secret|token|signature|api_?key|authorization|cookie|dsn)$")
_SECRET_TEXT = (
    re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"),
    re.compile(
        r"(?i)\b((?:signature|api_?key|apikey|secret|token|password|listenkey)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;}]{4,}"
    ),
    re.compile(r"(\w+://[^/\s:@]*:)[^@\s/]+(?=@)"),
)


#: plain secrets that this process received after its log was opened, the newest last
_LATER: deque[str] = deque(maxlen=200)


def hide(*values: str) -> None:
    """Show these secrets in no log of this process from now on."""
    _LATER.extend(value for value in _hidden_forms(values) if value not in _LATER)


def _hidden_forms(values: Iterable[str]) -> list[str]:
    """Return the texts under which secrets may stand in a log: each itself, and the lines of a private key, whose ends
    are written in more than one way."""
    found = []
    for value in values:
        lines = value.replace("\\n", "\n").splitlines() if value.startswith("-----BEGIN ") else []
        found += [text for text in (value, *lines) if len(text) >= 8]
    return found


class Redactor:
    """Removes secrets from text: known values anywhere, and text that looks like one by its surroundings."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values = tuple(sorted(set(_hidden_forms(values)), key=len, reverse=True))

    def text(self, text: str) -> str:
        """Return `text` without secrets."""
        for value in (*self._values, *_LATER):
            text = text.replace(value, HIDDEN)
        for pattern in _SECRET_TEXT:
            text = pattern.sub(rf"\1{HIDDEN}", text)
        return text

    def field(self, key: str, value: object) -> object:
        """Return a value for the log: hidden under a secret's name, redacted at every depth, then cut to TEXT_MAX."""
        if value is not None and _SECRET_KEY.search(key):
            return HIDDEN
        if isinstance(value, bool | float | None) or (isinstance(value, int) and abs(value) < 2**63):
            return value
        if isinstance(value, dict):
            return {str(k): self.field(str(k), v) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.field(key, item) for item in value]
        return self.text(str(value))[:TEXT_MAX]  # a cut before it would leave half a secret


class JsonLog:
    """A fks.model.ports.Log that writes JSON lines through stdlib logging."""

    def __init__(self, logger: logging.Logger, component: str, redactor: Redactor, **context: object) -> None:
        self._logger = logger
        self._component = component
        self._redactor = redactor
        self._context = context

    def bind(self, **context: object) -> JsonLog:
        """Return a log whose every line carries `context` as well."""
        return JsonLog(self._logger, self._component, self._redactor, **self._context, **context)

    def debug(self, event: str, **fields: object) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Log a failure; inside an `except` block the traceback goes with it."""
        if sys.exc_info()[0] is not None:
            fields.setdefault("traceback", traceback.format_exc(limit=20))
        self._write(logging.ERROR, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            merged = {key: self._redactor.field(key, value) for key, value in {**self._context, **fields}.items()}
            self._logger.log(level, event, extra={"component": self._component, "fields": merged})


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, component, event, pid, then the event's own fields."""

    def __init__(self, component: str, redactor: Redactor) -> None:
        super().__init__()
        self._component = component
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = record.fields if hasattr(record, "fields") else self._foreign(record)
        line = {
            "ts": _iso(record.created),
            "level": "INFO" if _is_network_error(record) else record.levelname,
            "component": getattr(record, "component", self._component),
            "event": record.msg if hasattr(record, "fields") else "log",
            "pid": record.process,
        }
        taken = {f"{key}_" if key in line else key: value for key, value in fields.items()}
        return orjson.dumps(line | taken, default=str, option=orjson.OPT_NON_STR_KEYS).decode()

    def _foreign(self, record: logging.LogRecord) -> dict[str, Any]:
        found = {"logger": record.name, "message": self._redactor.text(record.getMessage())[:TEXT_MAX]}
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            found["error"] = self._redactor.text(f"{type(error).__name__}: {error}")[:TEXT_MAX]
            if record.levelno >= logging.ERROR and not _is_network_error(record):  # a warning needs no traceback
                found["traceback"] = self._redactor.text(self.formatException(record.exc_info))[-TEXT_MAX:]
        return found


def _is_network_error(record: logging.LogRecord) -> bool:
    """Return whether asyncio reports a network error that a library left in a future of its own.

    ccxt raises the same error to its caller, where it is handled; the copy in the future is no bug of ours.
    """
    error = record.exc_info[1] if record.exc_info else None
    if record.name != "asyncio" or error is None or "exception was never retrieved" not in str(record.msg):
        return False
    return type(error).__module__.partition(".")[0] in _NETWORK_LIBRARIES or isinstance(error, OSError)


class SharedRotatingHandler(logging.Handler):
    """Appends lines to a file that other processes may append to and rotate as well.

    A write error (disk full) is swallowed: losing a log line must not stop an order.
    """

    def __init__(self, path: Path, *, bytes_max: int = BYTES_MAX, files_kept: int = FILES_KEPT) -> None:
        super().__init__()
        self._path = path
        self._bytes_max = bytes_max
        self._files_kept = files_kept
        self._handle: int | None = None
        self._inode = 0

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            data = (self.format(record) + "\n").encode()
            handle = self._follow()
            if os.fstat(handle).st_size + len(data) > self._bytes_max:
                handle = self._rotate()
            os.write(handle, data)

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        super().close()

    def _follow(self) -> int:
        """Return a handle of the file that has the name now."""
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            inode = 0
        if self._handle is None or inode != self._inode:
            if self._handle is not None:
                os.close(self._handle)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._inode = os.fstat(self._handle).st_ino
        return self._handle

    def _rotate(self) -> int:
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            if os.fstat(self._follow()).st_size > self._bytes_max // 2:  # else another process has just done it
                for number in range(self._files_kept, 0, -1):
                    older = self._path.with_name(f"{self._path.name}.{number}")
                    newer = self._path.with_name(f"{self._path.name}.{number - 1}") if number > 1 else self._path
                    if newer.exists():
                        newer.replace(older)
        finally:
            os.close(folder)  # frees the lock
        return self._follow()


def log_file(paths: Paths, component: str) -> Path:
    """Return the file of a component. Replicas share one: `gateway:3f2a` writes gateway.jsonl."""
    base = component.partition(":")[0] if component.startswith("gateway:") else component
    return paths.logs / f"{re.sub(r'[^A-Za-z0-9._-]', '-', base)}.jsonl"


def open_log(component: str, paths: Paths, settings: LogSettings, hidden: Iterable[str] = ()) -> JsonLog:
    """Return the log of a component; warnings of libraries in this process go there, too. `hidden`: the plain secrets
    that are shown nowhere in it.

    Opening twice in one process returns the same file without doubling lines.
    """
    redactor = Redactor(hidden)
    logger = logging.getLogger(f"fks.component.{component}")
    logger.setLevel(settings.level)
    logger.propagate = False
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(_handler(paths, component, redactor))
    _catch_libraries(_handler(paths, component, redactor))
    return JsonLog(logger, component, redactor)


def _handler(paths: Paths, component: str, redactor: Redactor) -> SharedRotatingHandler:
    handler = SharedRotatingHandler(log_file(paths, component))
    handler.setFormatter(JsonFormatter(component, redactor))
    return handler


def _catch_libraries(handler: SharedRotatingHandler) -> None:
    """Send warnings of asyncio, aiohttp and friends to the file of the process's newest log."""
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, SharedRotatingHandler):
            root.removeHandler(old)
            old.close()
    handler.setLevel(logging.WARNING)
    root.addHandler(handler)


def tail(file: Path, lines: int, redactor: Redactor, *, since: int = 0, bytes_max: int = 65536) -> list[str]:
    """Return the last lines of a file from byte `since` on, redacted; none when it cannot be read."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(since if since <= size else 0, size - bytes_max))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return [redactor.text(line) for line in text.splitlines() if line.strip()][-lines:]


def last_output(file: Path, lines: int, redactor: Redactor, *, since: int = 0) -> str:
    """Return the last lines that a program wrote before it failed, for a person: indented, without secrets, and of a
    traceback only the line that names the error; "" when it wrote nothing."""
    kept = [line for line in tail(file, lines * 20, redactor, since=since) if not _OF_A_TRACEBACK.match(line)]
    return "\n".join(f"    {line.strip()}" for line in kept[-lines:])


def _iso(seconds: float) -> str:
    """Return UTC with all six digits, so that lines sort as text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
