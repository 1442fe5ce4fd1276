"""Strategies of users' files and packages, run in a confined process (`fks.system.process.confinement`): the process
that has the database and the keys runs none of their code.

`ConfinedCatalogue` is a catalogue whose further strategies are `RemoteStrategy`; its process starts with the first of
them and ends with the catalogue. Requests to the process are pickled; its answers are JSON and columns of numbers, and
their shapes are checked: it may send anything.

Run by `fks.system.process.confinement` (`main`), this module is that process.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import select
import struct
import subprocess
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from itertools import count as counted
from pathlib import Path
from typing import IO, Any, Final, TypeVar
from weakref import finalize

import numpy as np
from pydantic import TypeAdapter

from fks.model.bar import Bars, Floats
from fks.model.errors import BugError, FksError, InputError, OutageError
from fks.model.signal import EntryGroup
from fks.strategies.base import Decisions, Strategy, StrategyError
from fks.strategies.base.fitted import Panel, state_values
from fks.strategies.base.location import defined_at, one_line
from fks.strategies.base.remote import RemoteFacts, RemoteGiven, RemoteKind, remote_class
from fks.strategies.base.strategy import COLUMNS_MAX, called
from fks.strategies.check import CheckViolation
from fks.strategies.registry import (
    Catalogue,
    CatalogueEntry,
    NarrowCatalogue,
    fields_of,
    files_of,
    load_builtin,
    load_file,
    package_places,
    packages,
    private_group,
    readable_of,
    refusal_of,
    source_hash,
)
from fks.system.process.confinement import confined_command, environment
from fks.system.process.isolated import discard_output, end_of, storable
from fks.system.process.scratch import delete_scratch, make_scratch

_HEAD: Final = struct.Struct("<I")
_ANSWER_MAX: Final = 16_000_000  # bytes of JSON
_PIPE: Final = 1 << 20  # bytes of one read
READY_S: Final = 60.0  # until a process that was started has to be ready
_TAPES_KEPT: Final = 4  # tapes that both processes keep: a search asks for the same ones thousands of times
_MADE_KEPT: Final = 64
_TEXT_MAX: Final = 3000  # characters of a message of the process
_SCRATCH: Final = "fks-strategy-"
_LOOK_S: Final = 0.5  # between two looks for a stop
_METHODS: Final = ("decide", "warmup", "protect", "fit")
_KIND, _FACTS, _VIOLATIONS = TypeAdapter(RemoteKind), TypeAdapter(RemoteFacts), TypeAdapter(list[CheckViolation])
_NAMES, _GROUP = TypeAdapter(list[str]), TypeAdapter(EntryGroup | None)
_VALUES = TypeAdapter(dict[str, Any])
T = TypeVar("T")


class ConfinedCatalogue(Catalogue):
    """The built-in strategies, and those of packages and users' files in a confined process. `files` are further files,
    whose strategies come before others of the same name; `limit_s`: how long one request may take (None: no limit);
    a request ends early once `stop` is set."""

    def __init__(
        self,
        folder: Path | None = None,
        files: Sequence[Path] = (),
        *,
        limit_s: float | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        super().__init__(iter(load_builtin().entries.values()))
        self._has_more = bool(packages() or files_of(folder) or files)
        self._process = ConfinedProcess(folder, files, limit_s, stop)
        #: names of the strategies in `files`
        self.of_files = self._process.names() if files else []
        for name in self.of_files:
            self.entries.pop(name, None)

    def kind(self, name: str) -> type[Strategy]:
        """See `Catalogue.kind`."""
        if name not in self.entries and self._has_more:
            described = self._process.describe(name)
            kind = remote_class(described, self._process)
            self.entries[name] = CatalogueEntry(name, described.origin, described.where, kind)
        return super().kind(name)


class ConfinedProcess:
    """The client of a confined process, a `RemotePort`: started when it is needed, again after a fork or its end."""

    def __init__(
        self,
        folder: Path | None,
        files: Sequence[Path] = (),
        limit_s: float | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._folder, self._files, self._limit_s = folder, files, limit_s
        self._stop = threading.Event() if stop is None else stop
        self._lock = threading.Lock()
        self._numbers = counted(1)
        self._running: _Running | None = None

    def names(self) -> list[str]:
        """Return the names of the strategies in the further files."""
        return self._asked(_NAMES.validate_python, "names", "")

    def describe(self, kind: str) -> RemoteKind:
        """Return the description of a class. Errors: InputError STRATEGY_UNKNOWN, StrategyError for a broken file."""
        described = self._asked(_KIND.validate_python, "describe", kind)
        if described.name != kind:
            raise StrategyError(
                f"strategy {kind}: its code gave another name",
                code="STRATEGY_BROKEN",
                remedy=f"name it {kind} in its file alone",
            )
        return described

    def make(self, kind: str, params: Mapping[str, Any]) -> tuple[RemoteGiven, RemoteFacts]:
        given = RemoteGiven(kind, params, next(self._numbers))
        return given, self._asked(_FACTS.validate_python, "make", kind, given)

    def decide(self, given: RemoteGiven, bars: Bars) -> Decisions:
        return self._asked(Decisions.of, "decide", given.kind, given, bars)

    def group(self, given: RemoteGiven, symbol: str) -> EntryGroup | None:
        return self._asked(_GROUP.validate_python, "group", given.kind, given, symbol)

    def fit(self, given: RemoteGiven, panel: Panel) -> dict[str, Any]:
        return self._asked(_VALUES.validate_python, "fit", given.kind, given, *panel)

    def check(self, check: str, given: RemoteGiven, tapes: Sequence[Bars], count: int) -> list[Any]:
        found = self._asked(_VIOLATIONS.validate_python, "check", given.kind, given, check, count, *tapes)
        return [astuple(one) for one in found]

    def _asked(self, read: Callable[[Any], T], request: str, kind: str, *arguments: Any) -> T:
        """Return the answer to a request, as `read` gives it. Errors: those that the code raised; StrategyError
        STRATEGY_RAISED when the process ended, or its answer is none."""
        with self._lock:
            if self._running is None or self._running.owner != os.getpid():
                self._running = _Running(self._folder, self._files, self._stop)
            running = self._running
            try:
                answer = running.ask(request, kind, arguments, self._limit_s)
                if "error" not in answer:
                    return read(answer["result"])
            except TimeoutError:
                self._running = None
                running.close()
                raise StrategyError(
                    f"strategy {kind}: its code "
                    + ("was stopped" if self._stop.is_set() else f"took longer than {self._limit_s:g} s"),
                    code="STRATEGY_SLOW",
                    remedy="make decide() faster: 'fks strategies check' shows where it stands",
                ) from None
            except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError):  # it may have sent anything
                self._running = None
                running.close()
                raise StrategyError(
                    f"strategy {kind}: its code {end_of(running.process.returncode)}",
                    code="STRATEGY_RAISED",
                    remedy="see 'fks strategies list'; raise an error, or decide",
                ) from None
            except BaseException:  # Ctrl-C: the answer that comes now is of no later request
                self._running = None
                running.close()
                raise
        raise _raised(kind, answer["error"])


def _raised(kind: str, error: Any) -> FksError:
    error = error if isinstance(error, dict) else {}
    code, message, remedy = (_printable(str(error.get(name, ""))) for name in ("code", "message", "remedy"))
    status = error.get("status")
    made = InputError if code in ("PARAM_WRONG", "STRATEGY_UNKNOWN") else StrategyError
    status = status if isinstance(status, int) and 400 <= status < 500 else 422
    return made(message or f"strategy {kind} raised", code=code, status=status, remedy=remedy)


def _printable(text: str) -> str:
    """Return a text for databases, terminals and JSON: no control characters, not too long."""
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in text[:_TEXT_MAX])


class _Running:
    """One started process, its pipes and the tapes that it has."""

    def __init__(self, folder: Path | None, files: Sequence[Path], stop: threading.Event) -> None:
        self.owner, self._stop = os.getpid(), stop
        # the process ends with the thread that started it: this one lives as long as its executor
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="confined")
        try:
            scratch, held = make_scratch(_SCRATCH)
        except OSError as error:
            self._starter.shutdown(wait=False)
            raise OutageError(
                f"no folder for the process that runs code of users: {error}", remedy="see TMPDIR, and its free space"
            ) from None
        readable = [*readable_of(folder), *(file for file in files if not refusal_of(file)), *package_places()]
        try:
            self.process: subprocess.Popen[bytes] = self._starter.submit(_start, readable, scratch).result()
        except OSError as error:
            delete_scratch(scratch, held)
            self._starter.shutdown(wait=False)
            raise OutageError(
                f"the process that runs code of users did not start: {error}", remedy="see the load of this machine"
            ) from None
        self.close = finalize(self, _close, self.process, self._starter, scratch, held, self.owner)
        self._tapes: OrderedDict[Any, tuple[int, Bars]] = OrderedDict()
        self._number = 0
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout
        os.set_blocking(self._requests.fileno(), False)  # a process that reads nothing would hold ours
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(self._answers.fileno(), select.POLLIN)
        self._writable.register(self._requests.fileno(), select.POLLOUT)
        try:
            is_ready = self._read(0, READY_S) == ("ready", b"")
        except (EOFError, OSError, ValueError):  # TimeoutError is an OSError
            is_ready = False
        if not is_ready:
            self.close()
            raise OutageError(
                f"the process that runs code of users {end_of(self.process.returncode)} as it started",
                remedy="see 'fks doctor', and the load of this machine",
            )
        self._write((folder, files), READY_S)

    def ask(self, request: str, kind: str, arguments: Sequence[Any], limit_s: float | None) -> dict[str, Any]:
        """Return an answer: its "result" or its "error". Errors: TimeoutError after `limit_s`; OSError, EOFError,
        ValueError, TypeError."""
        sent = [self._tape(one) if isinstance(one, Bars) else one for one in arguments]
        count = next((len(one) for one in arguments if isinstance(one, Bars)), 0)
        began_s = time.monotonic()
        self._write((request, kind, sent), limit_s)
        left_s = None if limit_s is None else max(0.0, limit_s - (time.monotonic() - began_s))
        head, body = self._read(COLUMNS_MAX * count * 8, left_s)
        if not isinstance(head, dict):
            raise ValueError("no answer")
        if "columns" in head:
            table = np.frombuffer(body, dtype=np.float64).reshape(len(head["columns"]), count)
            return {"result": {name: table[row] for row, name in enumerate(head["columns"])}}
        return head

    def _tape(self, bars: Bars) -> tuple[int, Bars | None]:
        """Return the number of a tape, and the tape itself where the process has it no longer. Both keep the newest."""
        key = _memory_of(bars)
        if key in self._tapes:
            self._tapes.move_to_end(key)
            return self._tapes[key][0], None
        self._number += 1
        self._tapes[key] = self._number, bars  # as long as it is kept, its memory is no other tape's
        if len(self._tapes) > _TAPES_KEPT:
            self._tapes.popitem(last=False)
        return self._number, bars

    def _write(self, value: Any, limit_s: float | None) -> None:
        """Send a request. Errors: TimeoutError; OSError when the process has ended."""
        until_s = None if limit_s is None else time.monotonic() + limit_s
        data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
        rest = memoryview(struct.pack("<Q", len(data)) + data)
        while rest:
            self._await(self._writable, until_s)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._requests.fileno(), rest) :]

    def _read(self, body_max: int, limit_s: float | None) -> tuple[Any, bytes]:
        until_s = None if limit_s is None else time.monotonic() + limit_s
        size, body = (_HEAD.unpack(self._exactly(_HEAD.size, until_s))[0] for _ in range(2))
        if size > _ANSWER_MAX or body > body_max:
            raise ValueError("the answer is too long")
        head = storable(json.loads(self._exactly(size, until_s)))
        return head, self._exactly(body, until_s)

    def _await(self, poll: select.poll, until_s: float | None) -> None:
        """Wait for a pipe. Errors: TimeoutError at `until_s`, and soon after the stop was asked for."""
        while True:
            left_s = _LOOK_S if until_s is None else max(0.0, min(_LOOK_S, until_s - time.monotonic()))
            if poll.poll(left_s * 1000):
                return
            if self._stop.is_set() or (until_s is not None and time.monotonic() >= until_s):
                raise TimeoutError

    def _exactly(self, size: int, until_s: float | None) -> bytes:
        """Return so many bytes of the answers. Errors: EOFError; TimeoutError."""
        parts = []
        while size:
            self._await(self._readable, until_s)
            part = os.read(self._answers.fileno(), min(size, _PIPE))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _memory_of(bars: Bars) -> Any:
    """Return the key of a tape among those in memory: the addresses, shapes and strides of its columns."""
    parts = []
    for part in (bars, *bars.inputs.values()):
        columns = (part.time_ns, part.open, part.high, part.low, part.close, part.volume)
        about = part.symbol, part.timeframe, part.calendar, part.exchange, part.splits, part.rolls
        parts.append((about, *map(_place_of, columns)))
    features = [(name, _place_of(one.values), _place_of(one.time_ns)) for name, one in bars.features.items()]
    return (*parts, *features, tuple(bars.inputs))


def _place_of(column: Any) -> Any:
    return column.ctypes.data, column.shape, column.strides


def _start(readable: Sequence[Path], scratch: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        confined_command("fks.system.process.confined_strategies", readable, scratch),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=environment(scratch),
        cwd="/",
    )


def _close(process: subprocess.Popen[bytes], starter: ThreadPoolExecutor, scratch: Path, held: int, owner: int) -> None:
    if os.getpid() != owner:
        os.close(held)  # a forked process: the other one ends it
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    starter.shutdown(wait=False)
    delete_scratch(scratch, held)


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise EOFError
    return data


# ── in the confined process ──────────────────────────────────────────────────────────────────────
@dataclass
class _Server:
    """Answers requests with the code of packages and of the folder's files."""

    catalogue: NarrowCatalogue
    files: Sequence[Path]

    def __post_init__(self) -> None:
        self._named: list[str] = []
        for entry in (entry for file in self.files for entry in load_file(file)):
            self._named.append(entry.name)
            self.catalogue.entries[entry.name] = entry
        self._made: OrderedDict[int, Strategy] = OrderedDict()
        self._tapes: OrderedDict[int, Bars] = OrderedDict()

    def names(self, kind: str) -> list[str]:
        return self._named

    def describe(self, kind: str) -> dict[str, Any]:
        found, entry = self.catalogue.kind(kind), self.catalogue.entries[kind]
        places = {method: defined_at(found, method) for method in _METHODS if hasattr(found, method)}
        return asdict(
            RemoteKind(
                found.name, entry.origin, entry.where, entry.summary, found.model_json_schema(), fields_of(found),
                source_hash(found), places,
            )
        )  # fmt: skip

    def make(self, kind: str, given: RemoteGiven) -> dict[str, Any]:
        from fks.strategies.combination import has_protections

        made = self._strategy(given)
        return asdict(
            RemoteFacts(
                made.model_dump(mode="json"),
                made.warmup(),
                tuple(made.inputs()),
                tuple(made.features()),
                made.entries_max(),
                source_hash(made),
                has_protections(made),
                made.training(),
            )
        )

    def decide(self, kind: str, given: RemoteGiven, bars: Bars) -> dict[str, Floats]:
        return called(self._strategy(given), bars).columns()

    def group(self, kind: str, given: RemoteGiven, symbol: str) -> dict[str, Any] | None:
        found = self._strategy(given).group(symbol)
        return None if found is None else asdict(found)

    def fit(self, kind: str, given: RemoteGiven, *panel: Bars) -> dict[str, Any]:
        return state_values(self._strategy(given), panel)

    def check(self, kind: str, given: RemoteGiven, check: str, count: int, *tapes: Bars) -> list[Any]:
        from fks.strategies import check as checks

        made = self._strategy(given)
        if check == "check_strategy":
            return [asdict(found) for found in checks.check_strategy(made, tapes, prefixes=count)]
        find: Callable[[Strategy, Bars], Any] = {"warmups": checks.warmups, "causality": checks.causality}[check]
        return [asdict(found) for found in find(made, tapes[0])]

    def _strategy(self, given: RemoteGiven) -> Strategy:
        if given.number not in self._made:
            self._made[given.number] = self.catalogue.make(given.kind, given.params)
            if len(self._made) > _MADE_KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(given.number)
        return self._made[given.number]

    def tape(self, given: Any) -> Any:
        """Return the argument of a request: a tape that was sent with it, or one of before."""
        if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], int)):
            return given
        number, bars = given
        if bars is not None:
            self._tapes[number] = bars
            if len(self._tapes) > _TAPES_KEPT:
                self._tapes.popitem(last=False)
        self._tapes.move_to_end(number)
        return self._tapes[number]


def prepare() -> None:
    """Read what the process cannot read once it is confined."""
    private_group()


def main() -> None:
    """Answer requests on standard input until it ends."""
    requests, send = os.fdopen(os.dup(0), "rb"), discard_output()

    def answer(head: Any, body: bytes = b"") -> None:
        data = json.dumps(head, default=str).encode()
        send(_HEAD.pack(len(data)) + _HEAD.pack(len(body)) + data + body)

    def next_one() -> Any:
        return pickle.loads(_exactly(requests, struct.unpack("<Q", _exactly(requests, 8))[0]))  # noqa: S301  our parent

    answer("ready")
    try:
        folder, files = next_one()
        server = _Server(NarrowCatalogue(folder), files)
        while True:
            request, kind, arguments = next_one()
            given = [server.tape(one) for one in arguments]
            try:
                found = getattr(server, request)(kind, *given)
                if request == "decide":
                    answer({"columns": list(found)}, b"".join(column.tobytes() for column in found.values()))
                else:
                    answer({"result": found})
            except InputError as error:
                answer({"error": {"code": error.code, "status": error.status} | _text_of(error.message, error.remedy)})
            except FksError as error:
                answer({"error": {"code": "STRATEGY_RAISED", **_text_of(error.message, error.remedy)}})
            except (Exception, SystemExit) as error:  # code of users may raise anything
                text = f"strategy {kind} raised {one_line(error)}"
                answer({"error": {"code": "STRATEGY_RAISED", **_text_of(text, "correct the strategy")}})
    except EOFError:
        return


def _text_of(message: str, remedy: str) -> dict[str, str]:
    return {"message": message[:2000], "remedy": remedy[:500]}


if __name__ == "__main__":
    raise BugError("run it by fks.system.process.confinement")
