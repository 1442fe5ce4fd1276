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

_KEPT = ("venues", "remaining", "cancelled", "orders")


class Progress:
    """Writes into the kill's file when nothing is left to do, and when something is after all. Pages once a cause."""

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
        self._paged: set[str] = set()
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
            stuck = [left["symbol"] for left in report["remaining"] if left["kind"] == "stuck"]
            if stuck:
                self._page(
                    "kill.stuck", f"the kill could not close {', '.join(stuck)}: close it at the venue", record.kill_id
                )
        elif record.is_done and not is_settled:
            why = next((work.state for work in self._works if not work.is_settled), "")
            self._journal.reopen(why, now_ns=self._clock.now_ns())
            self._tables.is_merged = False
            self._log.error("kill.reopened", kill_id=record.kill_id)
        if is_settled:
            self._unsettled_s = None
            return
        self._unsettled_s = now if self._unsettled_s is None else self._unsettled_s
        if now - self._unsettled_s > self._timing.page_s:
            states = ", ".join(f"{work.report()['name']}: {work.state} {work.detail}".strip() for work in self._works)
            self._page(
                "kill.unfinished", f"a kill is not done after {self._timing.page_s:g} s ({states})", record.kill_id
            )

    def _page(self, event: str, message: str, kill_id: str) -> None:
        if event not in self._paged:
            self._paged.add(event)
            self._tables.page(event, message, kill_id=kill_id)
