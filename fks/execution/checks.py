"""Self-checks of the order path: journal, venue sessions, signals and bars that wait though nothing keeps them."""

from __future__ import annotations

from collections.abc import Iterable

from fks.config.settings import Supervision
from fks.execution.book import Book
from fks.model.health import Problem

HELD_S = 20.0  # a look at a place that holds its signals back takes a few seconds


def order_problems(book: Book, limits: Supervision, now_s: float) -> list[Problem]:
    """Return what is wrong now. Ages are of the last look at the tables, at most a second old.

    A venue that is away is not mended by a new process, which would have to reconcile it first; signals that nobody
    takes while their venue is READY may be. Those that were looked at just now wait for what no restart brings: the end
    of a halt, of an order.
    """
    found = []
    if not book.is_journal_up:
        found.append(Problem("database", "the journal takes nothing: nothing is sent", about="journal"))
    for status in book.venues.values():
        away_s = 0.0 if status.away_s is None else now_s - status.away_s
        if away_s > limits.sessions_wait_max_s:
            text = f"{status.name} is {status.state} for {away_s:.0f} s: {status.detail or 'no session yet'}"
            found.append(Problem("venue", text, status.name))
        waiting = book.ready.get(status.name)
        if waiting is None or status.away_s is not None or book.is_killed:
            continue
        if waiting.age_s > limits.signals_wait_max_s:
            text = f"{waiting.count} signals wait for {status.name}, the oldest for {waiting.age_s:.0f} s"
            held = sum(
                count for place, (count, at_s) in book.held.items() if place[1] == status.name and now_s - at_s < HELD_S
            )
            found.append(Problem("queue", text, status.name, is_mended_by_restart=waiting.count > held))
    return found


class Behind:
    """Since when each strategy instance stands still though there is a newer sealed bar. Looked at by one loop."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[int | None, float]] = {}

    def problems(
        self, cursors: Iterable[tuple[str, int | None, int | None]], now_s: float, *, wait_max_s: float
    ) -> list[Problem]:
        """Return the instances behind for longer than `wait_max_s`, of (id, cursor, newest sealed bar).

        One that moves, however slowly, is catching up: that is no problem.
        """
        since: dict[str, tuple[int | None, float]] = {}
        for id, cursor_ns, sealed_ns in cursors:
            if sealed_ns is None or (cursor_ns is not None and cursor_ns >= sealed_ns):
                continue
            known = self._since.get(id)
            since[id] = known if known is not None and known[0] == cursor_ns else (cursor_ns, now_s)
        self._since = since
        return [
            Problem("queue", f"sealed bars wait for {id} for {now_s - began_s:.0f} s", id, is_mended_by_restart=True)
            for id, (_, began_s) in since.items()
            if now_s - began_s > wait_max_s
        ]
