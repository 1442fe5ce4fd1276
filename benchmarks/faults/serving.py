"""Decisions of the benchmark without I/O: whether orders are served again, whether entries were denied without a feed.

Times are epoch seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

READY, ENDED = "READY", "ended"  # states of a venue in the order manager; the second: its process was struck
STALE = "FEED_STALE"
ENTRIES_MIN, SPAN_MIN_S = 20, 5.0


@dataclass(slots=True)
class Entry:
    """A requested entry: when it was requested, the code of its denial, when the exchange received its order."""

    asked: float
    code: str = ""
    client_order_id: str = ""
    sent: float | None = None

    @property
    def outcome(self) -> str:
        return self.code or ("admitted" if self.client_order_id else "undecided")


def served_at(fault: float, states: Iterable[tuple[float, str]], entries: Iterable[Entry]) -> float | None:
    """Return when the exchange received the first entry that was requested after the fault and sent while the last
    recorded state of its venue was READY; None while there is none.

    `states`: (time, state) of the venue as the order manager logs them; the end of its process is ENDED.
    """
    recorded = sorted(states, key=lambda item: item[0])
    sent = [entry.sent for entry in entries if entry.sent is not None and entry.asked >= fault]
    for at in sorted(sent):
        before = [state for since, state in recorded if since <= at]
        if before and before[-1] == READY:
            return at
    return None


def denied_without_feed(entries: Iterable[Entry], since: float, live: float) -> tuple[str, list[str]]:
    """Return the outcomes of the entries requested from `since` until their feed was live, and the problems with them:
    one was admitted, or too few were denied FEED_STALE for a proof.

    One that was requested before the feed was live and sent after it is neither.
    """
    inside = [e for e in entries if since < e.asked < live and (e.sent is None or e.sent < live)]
    times, outcomes = sorted(entry.asked for entry in inside), Counter(entry.outcome for entry in inside)
    span_s = times[-1] - times[0] if times else 0.0
    note = f"{len(inside)} entries over {span_s:.1f} s: {', '.join(f'{n} {name}' for name, n in outcomes.items())}"
    wrong = []
    if outcomes["admitted"]:
        wrong.append(f"{outcomes['admitted']} entries admitted while the feed was not live")
    if outcomes[STALE] < ENTRIES_MIN or span_s < SPAN_MIN_S:
        wrong.append(f"no proof: {note}; {ENTRIES_MIN} {STALE} over {SPAN_MIN_S:g} s are needed")
    return note, wrong
