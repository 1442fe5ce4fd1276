"""The progress of a kill over all venues: when it is done, when it is not after all, and when a person must look."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fks.clock import Clock
from fks.guardian.journal import KillJournal
from fks.guardian.kill_work import KillWork
from fks.guardian.rows import KillTables
from fks.guardian.timing import Timing
from fks.model.ports import Log

#: what pages a person about a kill
PAGES = _STUCK, _UNFINISHED = ("kill.stuck", "kill.unfinished")
_KEPT = ("venues", "remaining", "cancelled", "orders")


class Progress:
    """Writes into the kill's file when nothing is left to do, and when something is after all. Each cause has one page,
    which ends with it."""

    def __init__(
        self,
        works: Sequence[KillWork],
        journal: KillJournal,
        tables: KillTables,
        report: Callable[[], Mapping[str, Any]],
        clock: Clock,
        log: Log,
        timing: Timing,
    ) -> None:
        self._works = works
        self._journal = journal
        self._tables = tables
        self._report = report
        self._clock = clock
        self._log = log
        self._timing = timing
        self._paged: dict[str, object] = {}  # causes of pages -> symbols that the open page names; None = it is ended
        self._unsettled_s: float | None = None  # monotonic, since when it is not done

    async def run(self) -> None:
        """Look every round until cancelled."""
        while True:
            self._note(all(work.is_settled for work in self._works))
            await self._clock.sleep(self._timing.round_s)

    def _note(self, is_settled: bool) -> None:
        record, now = self._journal.record, self._clock.monotonic()
        if record is None:
            return
        if is_settled and not record.is_done:
            report = {key: value for key, value in self._report().items() if key in _KEPT}
            self._journal.done(report, now_ns=self._clock.now_ns())
            self._tables.is_merged = False
            self._log.warning("kill.done", remaining=len(report["remaining"]), cancelled=report["cancelled"])
        elif record.is_done and not is_settled:
            why = next((work.state for work in self._works if not work.is_settled), "")
            self._journal.reopen(why, now_ns=self._clock.now_ns())
            self._tables.is_merged = False
            self._log.error("kill.reopened", kill_id=record.kill_id)
        stuck = self._stuck()
        why = "; ".join(f"{symbol}: {why}" for symbol, why in sorted(stuck.items()))
        self._page_while(_STUCK, f"the kill could not close {why}" if stuck else "", record.kill_id, sorted(stuck))
        if is_settled:
            self._unsettled_s = None
        elif self._unsettled_s is None:
            self._unsettled_s = now
        states = ", ".join(f"{work.report()['name']}: {work.state} {work.detail}".strip() for work in self._works)
        is_late = self._unsettled_s is not None and now - self._unsettled_s > self._timing.page_s
        late = f"a kill is not done after {self._timing.page_s:g} s ({states})" if is_late else ""
        self._page_while(_UNFINISHED, late, record.kill_id)

    def _stuck(self) -> dict[str, str]:
        """Return the symbols that a person must look at, and why."""
        record = self._journal.record
        lines = record.report["remaining"] if record is not None and record.is_done else []
        found = {line["symbol"]: "close it at the venue" for line in lines if line["kind"] == "stuck"}
        for work in self._works:
            for symbol, why in work.stuck.items():
                found[symbol] = f"{why}, it goes on every {self._timing.retry_max_s:g} s"
        return found

    def _page_while(self, event: str, message: str, kill_id: str, symbols: Sequence[str] = ()) -> None:
        """Page once while a cause holds, and end the page with it; one of before a restart, too. The open page changes
        with its symbols, so that each of them is named in it."""
        named = symbols if message else None
        if event not in self._paged or self._paged[event] != named:
            self._paged[event] = named
            if message:
                self._tables.page(event, message, kill_id=kill_id, symbols=list(symbols))
            else:
                self._tables.end_page(event)
