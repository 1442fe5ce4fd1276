"""Evaluation of alert rules: nothing fires twice, early, or for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fks.system.alerts.engine import AlertEngine, MeasuredValue, Observed, Occurrence, Raise, Settle
from fks.system.alerts.rules import DEFAULTS, AlertRule, RuleKind


def _rule(kind: RuleKind, **fields: Any) -> AlertRule:
    return AlertRule(name="r", kind=kind, on="m", **fields)


class _Part:
    """The rows that an engine works against: which alerts are open, and everything that was raised."""

    def __init__(self, *rules: AlertRule) -> None:
        self.rules = rules
        self.engine = AlertEngine()
        self.open: set[str] = set()
        self.raised: list[Raise] = []
        self.settled: list[Settle] = []

    def step(self, now_s: float, *values: float, occurrences: tuple[Occurrence, ...] = ()) -> list[Raise | Settle]:
        measures = [MeasuredValue("m", value, {"n": str(number)}) for number, value in enumerate(values)]
        found = self.engine.step(self.rules, Observed(now_s, measures, occurrences), frozenset(self.open))
        for item in found:
            if isinstance(item, Raise):
                self.raised.append(item)
                if item.ref is None:
                    assert item.key not in self.open, "it is open already"
                    self.open.add(item.key)
            else:
                assert item.key in self.open, "nothing of that key is open"
                self.open.remove(item.key)
                self.settled.append(item)
        return found


def test_threshold_fires_once_and_settles() -> None:
    part = _Part(_rule(RuleKind.THRESHOLD, above=5, message="it is {value}", resolve_message="it is {value} again"))
    assert part.step(0, 4.9) == []
    assert [item.message for item in part.step(1, 5)] == ["it is 5"]
    assert part.step(2, 7) == []
    assert [item.message for item in part.step(3, 4)] == ["it is 4 again"]


def test_threshold_below() -> None:
    part = _Part(_rule(RuleKind.THRESHOLD, below=1))
    assert [type(item) for now, value in enumerate((2, 1, 2)) for item in part.step(now, value)] == [Raise, Settle]


def test_each_combination_of_labels_is_an_alert_of_its_own() -> None:
    part = _Part(_rule(RuleKind.THRESHOLD, above=5))
    part.step(0, 5, 1, 6)
    assert {item.labels["n"] for item in part.raised} == {"0", "2"}
    whole = _Part(AlertRule(name="r", kind=RuleKind.THRESHOLD, on="m", above=5, by=("other",)))
    whole.step(0, 5, 1, 6)
    assert len(whole.raised) == 1


def test_measure_that_is_gone_settles() -> None:
    part = _Part(_rule(RuleKind.THRESHOLD, above=1))
    part.step(0, 1)
    assert [type(item) for item in part.step(1)] == [Settle]


def test_measure_that_is_not_known_ends_and_begins_nothing() -> None:
    rule = _rule(RuleKind.DURATION, above=1, for_s=10)
    part = _Part(rule)
    part.step(0, 1.0)

    def unknown(now_s: float) -> list[Raise | Settle]:
        observed = Observed(now_s, [MeasuredValue("m", None, {"n": "0"})])
        return part.engine.step(part.rules, observed, frozenset(part.open))

    assert unknown(20) == [], "it may be over by now"
    assert len(part.step(21, 1.0)) == 1, "it is not: it lasts since the beginning"
    assert unknown(22) == []
    assert [type(item) for item in part.step(23, 0.0)] == [Settle]


def test_rule_whose_measures_are_incomplete_ends_nothing() -> None:
    for rule in (_rule(RuleKind.THRESHOLD, above=1), _rule(RuleKind.DURATION, above=1, for_s=1)):
        part = _Part(rule)
        part.step(0, 1, 1)
        part.step(1, 1, 1)
        assert len(part.open) == 2
        lost = Observed(2, [MeasuredValue("m", 0.0, {"n": "0"})], incomplete=frozenset({"r"}))
        found = part.engine.step(part.rules, lost, frozenset(part.open))
        assert [item.key for item in found] == ["r|n=0"], "what is measured and fine is over; what is missing is not"
        assert [type(item) for item in part.step(3)] == [Settle, Settle]


def test_nothing_counts_as_absent_while_its_measures_are_incomplete() -> None:
    part = _Part(_rule(RuleKind.ABSENCE, for_s=10))
    part.step(0, 1.0)
    for now_s in (5, 15, 25):
        lost = Observed(now_s, incomplete=frozenset({"r"}))
        assert part.engine.step(part.rules, lost, frozenset()) == []
    assert part.step(26, 1.0) == []
    assert len(part.step(36)) == 1


def test_detail_is_shown_and_is_no_part_of_the_key() -> None:
    engine, rule = AlertEngine(), _rule(RuleKind.THRESHOLD, above=1, message="{n} {age}")
    first = engine.step([rule], Observed(0, [MeasuredValue("m", 1, {"n": "a"}, detail={"age": "5"})]), frozenset())
    assert [(item.key, item.message) for item in first if isinstance(item, Raise)] == [("r|n=a", "a 5")]
    assert engine.step([rule], Observed(1, [MeasuredValue("m", 1, {"n": "a"}, detail={"age": "6"})]), {"r|n=a"}) == []


def test_duration_fires_after_its_time_and_starts_again() -> None:
    part = _Part(_rule(RuleKind.DURATION, above=1, for_s=10))
    assert [bool(part.step(now, value)) for now, value in ((0, 1), (9, 1), (9.5, 0), (10, 1), (19.9, 1), (20, 1))] == [
        *(False, False, False, False, False),
        True,
    ]
    assert part.raised[0].at_s == 10, "it began then, and not when it fired"


def test_rate_counts_each_occurrence_once() -> None:
    part = _Part(_rule(RuleKind.RATE, count=3, window_s=60))
    same = Occurrence("m", "a", 0)
    assert part.step(1, occurrences=(same, same, same)) == []
    assert part.step(2, occurrences=(same, Occurrence("m", "b", 2))) == []
    assert len(part.step(3, occurrences=(Occurrence("m", "c", 3),))) == 1
    assert part.step(59) == []
    assert [type(item) for item in part.step(60.5)] == [Settle], "only two are within the last minute"


def test_notice_is_raised_once_for_each_occurrence() -> None:
    part = _Part(_rule(RuleKind.RATE))
    items = tuple(Occurrence("m", str(number), number) for number in range(3))
    assert [item.ref for item in part.step(3, occurrences=items) if isinstance(item, Raise)] == ["0", "1", "2"]
    assert part.step(4, occurrences=items) == []


def test_absence_counts_from_the_first_look_and_from_what_was_seen() -> None:
    part = _Part(_rule(RuleKind.ABSENCE, for_s=10))
    assert part.step(0) == []
    assert part.step(9) == []
    assert len(part.step(10)) == 1
    assert [type(item) for item in part.step(11, 1.0)] == [Settle]
    assert part.step(20) == []
    assert len(part.step(21)) == 1


def test_rule_that_is_switched_off_settles_its_alerts() -> None:
    rule = _rule(RuleKind.THRESHOLD, above=1)
    part = _Part(rule)
    part.step(0, 1)
    part.rules = (rule.model_copy(update={"is_enabled": False}),)
    assert [type(item) for item in part.step(1, 1)] == [Settle]


def test_restart_raises_nothing_twice() -> None:
    part = _Part(_rule(RuleKind.THRESHOLD, above=1))
    part.step(0, 1)
    part.engine = AlertEngine()
    assert part.step(1, 1) == []


_RULES = st.sampled_from(
    [
        _rule(RuleKind.THRESHOLD, above=5),
        _rule(RuleKind.DURATION, above=5, for_s=3),
        _rule(RuleKind.ABSENCE, for_s=4),
        _rule(RuleKind.RATE, count=2, window_s=5),
        _rule(RuleKind.RATE),
    ]
)
_STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 6.0),
        st.lists(st.integers(0, 9), max_size=3),
        st.lists(st.tuples(st.integers(0, 5), st.floats(0.0, 3.0)), max_size=4),
        st.booleans(),
    ),
    max_size=25,
)


@given(_RULES, _STEPS)
def test_open_alerts_are_unique_and_end_with_their_cause(rule: AlertRule, steps: list[Any]) -> None:
    """`_Part.step` asserts it of each step: no key is open twice, and none settles that is not open."""
    part, now_s, refs = _Part(rule), 0.0, set()
    beyond: dict[str, float] = {}
    for wait_s, values, happened, is_restarted in steps:
        now_s += wait_s
        if is_restarted:
            part.engine = AlertEngine()
            beyond = {}
        occurrences = tuple(Occurrence("m", str(ref), max(now_s - age_s, 0.0)) for ref, age_s in happened)
        fresh = {item.ref for item in occurrences}
        beyond = {str(n): beyond.get(str(n), now_s) for n, value in enumerate(values) if value >= 5}
        for item in part.step(now_s, *values, occurrences=occurrences):
            if isinstance(item, Raise) and rule.kind is RuleKind.DURATION:
                assert now_s - beyond[item.labels["n"]] >= rule.for_s
            if isinstance(item, Raise) and item.ref is not None:
                assert item.ref in fresh
        refs |= fresh
        if rule.kind is RuleKind.THRESHOLD:
            assert part.open == {f"r|n={n}" for n in beyond}, "open is exactly what is beyond the limit"
    if rule.is_notice and not any(step[3] for step in steps):
        assert sorted(item.ref or "" for item in part.raised) == sorted(refs)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "threshold"},
        {"kind": "threshold", "above": 1, "below": 2},
        {"kind": "duration", "above": 1},
        {"kind": "absence"},
        {"kind": "rate", "above": 1},
        {"kind": "rate", "count": 3},
        {"kind": "route", "count": 3, "window_s": 3},
        {"kind": "threshold", "above": float("nan")},
        {"kind": "rate", "severity": "loud"},
        {"kind": "rate", "escalate_after_s": 60},
        {"kind": "rate", "name": "a|b"},
        {"kind": "rate", "unknown": 1},
    ],
)
def test_incomplete_rules_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AlertRule.model_validate({"name": "r", "on": "m", **fields})


def test_rules_that_come_along_have_names_of_their_own() -> None:
    assert len({rule.name for rule in DEFAULTS}) == len(DEFAULTS)
    routes = {rule.name for rule in DEFAULTS if rule.kind is RuleKind.ROUTE}
    assert routes == {"other", "report", "unknown-order", "unprotected"}
