"""Self-checks of the order path: journal, venue sessions, signals and bars that wait though nothing keeps them."""

from __future__ import annotations

from fks.config.settings import Supervision
from fks.model.health import FailedCheck
from fks.order_manager.cache import OrderCache

HELD_S = 20.0  # a look at a place that holds its signals back takes a few seconds


def order_problems(cache: OrderCache, limits: Supervision, now_s: float) -> list[FailedCheck]:
    """Return what is wrong now. Ages are of the last look at the tables, at most a second old.

    A new process does not help a venue that is away: it would have to reconcile it first. Signals that no
    core takes while their venue is READY may need one. Those that were looked at just now wait for something that no
    restart brings: the end of a halt, of an order.
    """
    found = []
    if not cache.is_journal_up:
        found.append(FailedCheck("database", "the journal takes nothing: nothing is sent", about="journal"))
    for status in cache.venues.values():
        away_s = 0.0 if status.away_s is None else now_s - status.away_s
        if away_s > limits.sessions_wait_max_s:
            text = f"{status.name} is {status.state} for {away_s:.0f} s: {status.detail or 'no session yet'}"
            found.append(FailedCheck("venue", text, status.name))
        waiting = cache.ready.get(status.name)
        if waiting is None or status.away_s is not None or cache.is_killed:
            continue
        if waiting.age_s > limits.signals_wait_max_s:
            text = f"{waiting.count} signals wait for {status.name}, the oldest for {waiting.age_s:.0f} s"
            held = sum(
                count for key, (count, at_s) in cache.held.items() if key[1] == status.name and now_s - at_s < HELD_S
            )
            found.append(FailedCheck("queue", text, status.name, is_mended_by_restart=waiting.count > held))
    return found
