"""Crash attribution: the instance that ended the last worker is counted, isolated, or disabled with a page.

The predecessor's mark names the instance that was running when its process ended. The supervisor's record of that end
(signal, last lines, traceback) is stored with the instance. Each crash is recorded once, in one fenced statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fks.model.timeframe import NS, iso
from fks.store.crash_marks import CrashMarkStore
from fks.store.strategies import Exposure, Instance
from fks.system.process.crash_marker import CrashMark, CrashMarker
from fks.system.runtime import Runtime
from fks.system.supervision.containment import Disable, Isolate, respond_to_crash
from fks.trading.strategy_worker.outputs import WorkerStore

TRACEBACK_MAX = 8000
POSTED_S = 10.0  # the keeper of the predecessor's node posts its mark within two beats
EXIT_WAIT_S = 1.5  # the supervisor records how a worker ended at about the time its successor starts
_US = 1000


class CrashAttribution:
    """Reads the predecessor's mark once and records it. `crash_file` is faulthandler's output, None if unknown."""

    def __init__(self, runtime: Runtime, store: WorkerStore, marker: CrashMarker, *, crash_file: Path | None) -> None:
        self._clock, self._meter, self._log = runtime.clock, runtime.meter, runtime.log
        self._store, self._owner, self._marker = store, store.owner, marker
        self._window_s = runtime.settings.strategies.crash_window_s
        self._mark = marker.left()
        self._dump = _read(crash_file) if self._mark is not None else ""
        self._posted = CrashMarkStore(runtime.db)
        self._until_s = runtime.clock.monotonic() + POSTED_S

    async def settle(self) -> None:
        """Record the crash of the predecessor's mark, if it left one here, or if the keeper of another node posted it:
        for POSTED_S after the start each call looks for that. Errors: OutageError; then call it again."""
        if self._mark is not None:
            await self._settle(self._mark)
            self._drop()
        if self._clock.monotonic() > self._until_s:
            return
        row = await self._posted.unsettled(self._owner.lease)
        if row is not None:
            await self._settle(CrashMark(row.instance, row.at_ns, row.bar_ns, row.epoch))
            await self._posted.settle(self._owner.lease, row.at_ns)

    async def _settle(self, mark: CrashMark) -> None:
        at_ns = mark.at_ns // _US * _US
        if self._clock.now_ns() - at_ns > self._window_s * NS:
            # too old to be of our predecessor: the worker ran on another machine since, or not at all
            self._log.info("strategy.mark_old", instance=mark.instance, at=iso(at_ns), epoch=mark.epoch)
            return
        facts = await self._facts(at_ns)
        before = await self._store.get(mark.instance)
        # an instance that was disabled, or given to another worker, was handled meanwhile
        if before is not None and before.is_enabled and before.is_isolated == (self._owner.only is not None):
            await self._record(before, mark, at_ns, facts)

    def _drop(self) -> None:
        self._mark = None
        self._marker.clear()

    async def _record(self, before: Instance, mark: CrashMark, at_ns: int, facts: Mapping[str, str]) -> None:
        since_s = None if before.crashed_ns is None or not before.crashes else (at_ns - before.crashed_ns) / NS
        verdict = respond_to_crash(
            crashes=before.crashes, is_isolated=before.is_isolated, since_last_s=since_s, window_s=self._window_s
        )
        when = "while it was loaded" if not mark.bar_ns else f"on the bar of {iso(mark.bar_ns)}"
        text = f"{when}: {facts['reason']}" if facts["reason"] else when
        error = f"took its worker down {verdict.crashes} times, the last {text}"
        event = "strategy.suspected"
        message = None
        if self._store.is_shadow and isinstance(verdict, Isolate | Disable):
            # it is no worth a worker: without it its champion loses nothing
            event = "strategy.challenger_disabled"
            message = (
                f"challenger {before.id} {error}: it is disabled. It held nothing, and its champion was not affected. "
                f"See 'fks strategies challengers list'"
            )
        elif isinstance(verdict, Isolate):
            event = "strategy.isolated"
            message = f"strategy instance {before.id} {error}: it runs in a worker of its own now"
        elif isinstance(verdict, Disable):
            event = "strategy.disabled"
            message = (
                f"strategy instance {before.id} {error}: it is disabled. "
                f"{position_text(await self._store.exposure(before.id))} "
                f"See 'fks strategies instance {before.id}', correct it, then 'fks strategies enable {before.id}'"
            )
        is_new = await self._store.record_crash(
            before,
            crashes=verdict.crashes,
            isolate=isinstance(verdict, Isolate),
            disable=isinstance(verdict, Disable),
            at_ns=at_ns,
            traceback=f"{self._owner.lease} died {text}\n{facts['traceback']}"[:TRACEBACK_MAX],
            error=error,
            message=message,
        )
        if is_new:
            self._meter.count("fks_strategy_worker_crashes_total", strategy_instance=before.id)
            level = self._log.warning if message is None else self._log.error
            level(event, instance=before.id, crashes=verdict.crashes, where=text)

    async def _facts(self, at_ns: int) -> Mapping[str, str]:
        """Return how the predecessor ended, from the supervisor's row or else from its own dump."""
        deadline = self._clock.monotonic() + (0.0 if self._dump else EXIT_WAIT_S)
        while True:
            found = await self._store.last_exit(self._owner.lease, at_ns)
            if found is not None or self._clock.monotonic() >= deadline:
                break
            await self._clock.sleep(0.1)
        reason, payload = found if found is not None else ("", {})
        lines = payload.get("last_lines") or ()
        dump = str(payload.get("traceback") or "") or self._dump or "\n".join(str(line) for line in lines)
        return {"reason": reason, "traceback": dump}


def position_text(held: list[Exposure]) -> str:
    """Return a text about the positions of an instance that no longer decides, for the page."""
    if not held:
        return "It holds nothing."
    parts = []
    for item in held:
        what = f"{format(item.quantity, 'f')} {item.symbol} on {item.venue}"
        side = "sell" if item.quantity > 0 else "buy"
        way = f"'fks orders place {side} {format(abs(item.quantity), 'f')} {item.symbol}' closes it"
        if item.protections:
            parts.append(f"It holds {what}; its {item.protections} protective order(s) stay at the venue; {way}.")
        else:
            parts.append(f"It holds {what} WITHOUT stop-loss or take-profit: nothing closes it by itself; {way}.")
    return " ".join(parts)


def _read(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(errors="replace")[:TRACEBACK_MAX]
    except OSError:
        return ""
