"""Decisions of benchmarks/recovery.py: serving again, denied without a feed, the audit's minimum, its page."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.faults.rig import Sample
from benchmarks.faults.serving import ENDED, ENTRIES_MIN, Entry, denied_without_feed, served_at
from benchmarks.recovery import Line, problems, table, written
from fks.lab.chaos.auditor import Audit, Violation
from tests.support.feed_faults import WIRES, Exercised

FAULT = 100.0
STATES = [(50.0, "READY"), (FAULT, ENDED), (100.9, "SYNCING"), (101.0, "READY")]


@pytest.mark.parametrize(
    ("entries", "states", "served"),
    [
        ([], STATES, None),
        ([Entry(100.5, sent=101.2)], STATES, 101.2),
        ([Entry(100.5, code="VENUE_NOT_RECONCILED")], STATES, None),
        ([Entry(100.2, sent=100.95)], STATES, None),  # the venue was still compared
        ([Entry(100.2, sent=100.5)], STATES, None),  # READY before the fault counts no more
        ([Entry(99.9, sent=101.1), Entry(100.1, sent=101.3)], STATES, 101.3),  # requested before the fault
        ([Entry(101.5, sent=101.9), Entry(100.1, sent=101.3)], STATES, 101.3),
        ([Entry(101.0, sent=101.2)], [*STATES, (101.1, "STALE"), (102.0, "READY")], None),
        ([Entry(100.5, sent=101.2)], STATES[:1], 101.2),  # the order manager lives
        ([Entry(100.5, sent=101.2)], [], None),
    ],
)
def test_orders_are_served_when_a_ready_venue_sent_a_later_entry(
    entries: list[Entry], states: list[tuple[float, str]], served: float | None
) -> None:
    assert served_at(FAULT, states, entries) == served
    assert served_at(FAULT, states[::-1], entries) == served


def denied(count: int, *, every_s: float, code: str = "FEED_STALE") -> list[Entry]:
    return [Entry(FAULT + 0.1 + every_s * number, code) for number in range(count)]


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        (denied(ENTRIES_MIN, every_s=0.3), ""),
        ([], "no proof"),
        (denied(ENTRIES_MIN - 1, every_s=0.3), "no proof"),
        (denied(10 * ENTRIES_MIN, every_s=0.02), "no proof"),
        (denied(ENTRIES_MIN, every_s=0.3, code="NOTIONAL_MIN"), "no proof"),
        ([*denied(ENTRIES_MIN, every_s=0.3), Entry(FAULT + 3, client_order_id="a")], "1 entries admitted"),
        ([*denied(ENTRIES_MIN, every_s=0.3), Entry(FAULT - 3, client_order_id="a")], ""),
        ([*denied(ENTRIES_MIN, every_s=0.3), Entry(FAULT + 10, client_order_id="a")], ""),
        ([*denied(ENTRIES_MIN, every_s=0.3), Entry(FAULT + 8, client_order_id="a", sent=FAULT + 8.9)], "1 entries"),
        ([*denied(ENTRIES_MIN, every_s=0.3), Entry(FAULT + 8, client_order_id="a", sent=FAULT + 9.0)], ""),
    ],
)
def test_denials_without_a_feed_need_twenty_entries_over_five_seconds(entries: list[Entry], problem: str) -> None:
    note, wrong = denied_without_feed(entries, FAULT, FAULT + 9)
    assert [text[: len(problem)] for text in wrong] == ([problem] if problem else [])
    late = sum(entry.sent == FAULT + 9 for entry in entries)
    assert note.startswith(f"{sum(FAULT < entry.asked < FAULT + 9 for entry in entries) - late} entries over ")


SOUND = Audit(signals=9, orders=9, fills=9, bars=9, violations=(), decisions=300)


@pytest.mark.parametrize(
    ("found", "is_cluster", "problem"),
    [
        (SOUND, False, ""),
        (replace(SOUND, decisions=0), False, "no proof: no decision was recomputed"),
        (replace(SOUND, is_whole=False), False, "no proof: an execution is on its way"),
        (replace(SOUND, violations=(Violation("bars wrong", "one is missing"),)), True, "bars wrong: one is missing"),
        (replace(SOUND, violations=(Violation("leaked", "process 7"),)), False, "leaked: process 7"),
        (replace(SOUND, violations=(Violation("leaked", "process 7"),)), True, ""),
    ],
)
def test_an_audit_that_recomputed_no_decision_is_no_proof(found: Audit, is_cluster: bool, problem: str) -> None:
    wrong = problems(found, is_cluster=is_cluster)
    assert [text[: len(problem)] for text in wrong] == ([problem] if problem else [])


PAGE = """text
<!-- figures -->
| Fault | `--only` | Detected | limit | Serving again | limit | Measured |
|---|---|---|---|---|---|---|
| kill -9 guardian | `kill-guardian` | 9.00 (9.00) | 0.5 | 9.00 (9.00) | 2 | 2020-01-01, 2 at load 1.0 |
| of another name | `kill-orders` | 9.00 (9.00) | 0.5 | 9.00 (9.00) | 2 | 2020-01-01, 2 at load 1.0 |
| no longer measured | `none` | 9.00 (9.00) | 0.5 | 9.00 (9.00) | 2 | 2020-01-01, 2 at load 1.0 |
<!-- end -->
more
"""


def test_run_replaces_its_own_rows_of_the_page() -> None:
    orders = Line("kill -9 orders", "kill-orders", (0.5, 2.0), [Sample(0.1, 1.0), Sample(0.3, 3.0)], 1.25)
    redis = Line("Redis killed", "redis", (2.0, None), [Sample(0.1, 0.2)], 2.0)
    page = written(PAGE, [redis, orders], "2026-11-23")
    assert page.splitlines()[4:] == [
        "| kill -9 guardian | `kill-guardian` | 9.00 (9.00) | 0.5 | 9.00 (9.00) | 2 | 2020-01-01, 2 at load 1.0 |",
        "| kill -9 orders | `kill-orders` | 0.20 (0.30) | 0.5 | 2.00 (3.00) | 2 | 2026-11-23, 2 at load 1.2: over the "
        "limit |",
        "| Redis killed | `redis` | 0.10 (0.10) | 2 | 0.20 (0.20) | - | 2026-11-23, 1 at load 2.0 |",
        "<!-- end -->",
        "more",
    ]
    assert written(page, [], "2026-11-24") == page
    assert {"kill-guardian", "kill-orders", "redis"} <= set(table())


LEAST = WIRES["binance"].least


@pytest.mark.parametrize(
    ("changed", "lacking"),
    [
        ({}, []),
        *(({name: getattr(LEAST, name) // 2 - 1}, [name]) for name in ("faults", "kills", "trades", "outages")),
        *(({name: getattr(LEAST, name) // 2 - 1}, [name]) for name in ("let_in", "refused")),
        (
            {"own_ends": (1, -9)},
            ["a collector ended by itself with status 1", "a collector ended by itself with status -9"],
        ),
    ],
)
def test_a_run_of_feed_faults_below_its_minimum_is_no_proof(changed: dict[str, object], lacking: list[str]) -> None:
    enough = Exercised(
        *(getattr(LEAST, name) // 2 for name in ("faults", "kills", "trades", "outages", "let_in", "refused"))
    )
    found = replace(enough, **changed).lacking(LEAST, 1800.0)
    assert [text.partition(":")[0] for text in found] == lacking
