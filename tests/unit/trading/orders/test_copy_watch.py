"""Followers compared with their leader: the metric, and the alert for a difference that stays."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

from fks.model.account import Position
from fks.model.copies import parse_rule
from fks.trading.order_manager.copying import DIVERGED_S, CopyWatch

D = Decimal
ES = "ES 12-26"


class Seen:
    """A meter, a publisher and a clock."""

    def __init__(self) -> None:
        self.now_s, self.alerts, self.gauges = 0.0, list[str](), dict[str, float]()

    def monotonic(self) -> float:
        return self.now_s

    def gauge(self, name: str, value: float, **labels: str) -> None:
        assert name == "fks_copy_difference"
        self.gauges[f"{labels['account']} {labels['symbol']}"] = value

    def alert(self, severity: str, event: str, message: str, **payload: object) -> None:
        assert severity == "warning"
        self.alerts.append(f"{event} {payload['venue']} {payload['held']} {payload['expected']}")


def watch_of(seen: Seen, held: dict[str, int], *rules: str) -> CopyWatch:
    numbers = {"ninja": 1, "ninja:fund": 2, "ninja:apex": 3}
    positions: dict[Any, Position] = {
        venue: Position(numbers[venue], venue, ES, "", D(count), D(1), D(0), D(0)) for venue, count in held.items()
    }
    cache = SimpleNamespace(
        positions=positions, venues={venue: SimpleNamespace(account_id=id) for venue, id in numbers.items()}
    )
    context: Any = SimpleNamespace(cache=cache, meter=seen, publisher=seen, clock=seen)
    return CopyWatch(context, [parse_rule(rule) for rule in rules])


def test_a_difference_that_stays_is_alerted_once() -> None:
    seen = Seen()
    watch = watch_of(seen, {"ninja": 4, "ninja:fund": 1, "ninja:apex": 2}, "fund 0.5x", "apex 0.5x")
    for seen.now_s in (0.0, DIVERGED_S - 1, DIVERGED_S, DIVERGED_S + 1):
        watch.look()
    assert seen.gauges == {f"fund {ES}": -1.0, f"apex {ES}": 0.0}
    assert seen.alerts == ["copy.diverged ninja:fund 1 2"]


def test_a_follower_that_holds_what_the_leader_has_closed_differs() -> None:
    seen = Seen()
    watch = watch_of(seen, {"ninja:apex": 2}, "fund 2", "apex 1")
    for seen.now_s in (0.0, DIVERGED_S):
        watch.look()
    assert seen.alerts == ["copy.diverged ninja:apex 2 0"]


def test_a_person_who_trades_by_hand_is_measured_and_not_alerted() -> None:
    seen = Seen()
    watch = watch_of(seen, {"ninja": 1}, "fund 1 relay", "apex 1 off")
    for seen.now_s in (0.0, DIVERGED_S):
        watch.look()
    assert (seen.gauges, seen.alerts) == ({f"fund {ES}": -1.0}, [])
