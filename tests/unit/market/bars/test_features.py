"""Own columns beside bars: of each bar what was known at its end, and nothing that came later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.market.bars.splits import adjusted, split_day
from fks.model.bar import Bars, Feature, Floats
from fks.model.errors import InputError
from fks.model.features import EventColumn, EventRevision, aligned, check_feature_name, near_events
from fks.model.timeframe import bar_end
from fks.research.backtest.fingerprint import tape_hash
from fks.research.backtest.frames import sample
from fks.strategies.base import Decisions, Strategy, StrategyError, decide, evaluate, feature
from fks.strategies.check import check_strategy, ensure_causal, synthetic, with_inputs

S = 1_000_000_000
rows = st.lists(
    st.tuples(st.integers(-20, 200), st.integers(0, 90), st.one_of(st.none(), st.integers(-9, 9))),
    max_size=40,
    unique_by=lambda row: row[:2],
)


class Mood(Strategy):
    """Long while its column is above 0; `shift` rows into the future when it cheats."""

    name: ClassVar[str] = "mood"
    shift: int = 0

    def warmup(self) -> int:
        return 1

    def features(self) -> tuple[str, ...]:
        return ("mood",)

    def decide(self, bars: Bars) -> Decisions:
        values = feature(self, bars, "mood").values
        if self.shift:
            values = np.append(values[self.shift :], np.full(self.shift, np.nan))
        return Decisions(np.where(values > 0, 1.0, 0.0))


@given(rows, st.randoms(use_true_random=False), st.sampled_from(["1m", "1M"]))
def test_a_bar_has_the_latest_value_that_was_known_at_its_end(
    given_rows: list[tuple[int, int, int | None]], dice: object, timeframe: str
) -> None:
    """Against the rule by hand. Rows: (time, delay until it is known, value), in units of ten seconds or two days."""
    unit = 10 * S if timeframe == "1m" else 2 * 86_400 * S
    bars = synthetic(30)
    if timeframe == "1M":
        starts = [i * S for i in (0, 2_678_400, 5_097_600, 7_776_000, 10_368_000)]  # January to May 1970
        bars = replace(bars[:5], timeframe="1M", time_ns=np.array(starts))
    first = int(bars.time_ns[0])
    values = [(first + t * unit, first + (t + d) * unit, np.nan if v is None else float(v)) for t, d, v in given_rows]
    dice.shuffle(values)  # type: ignore[attr-defined]
    time_ns, known_ns = (np.array([row[i] for row in values], dtype=np.int64) for i in (0, 1))
    found = aligned(bars, time_ns, known_ns, np.array([row[2] for row in values], dtype=np.float64))
    for i, start in enumerate(bars.time_ns.tolist()):
        known = [row for row in values if row[1] <= bar_end(start, timeframe)]
        best = max(known, key=lambda row: row[:2], default=None)
        assert found.time_ns[i] == (-1 if best is None else best[0])
        assert np.isnan(found.values[i]) if best is None or np.isnan(best[2]) else found.values[i] == best[2]


def test_columns_are_cut_and_grow_with_their_bars() -> None:
    bars = synthetic(100)
    column = Feature(np.arange(100.0), bars.time_ns)
    whole = bars.with_features({"mood": column})
    part = whole[20:40]
    assert part.features["mood"].values.tolist() == list(range(20, 40))
    assert part.features["mood"].time_ns.tolist() == bars.time_ns[20:40].tolist()
    both = whole.with_features({"other": column})
    assert sorted(both.features) == ["mood", "other"]
    assert both.joined({"SYNTHETIC": bars}).features.keys() == both.features.keys()


def test_a_split_changes_no_column() -> None:
    days = synthetic(60, "1d")
    bars = adjusted(
        replace(days, calendar="XNYS"), [split_day(str(np.datetime64(int(days.time_ns[30]), "ns"))[:10], "2:1")]
    )
    assert bars.splits
    mood = np.where(np.arange(60) % 7 < 3, 1.0, -1.0)
    with_mood = bars.with_features({"mood": Feature(mood, bars.time_ns)})
    assert decide(Mood(), with_mood).target.tolist() == np.where(mood > 0, 1.0, 0.0).tolist()
    assert with_mood.as_traded.features["mood"].values.tolist() == mood.tolist()


def test_the_check_refuses_a_column_of_the_future_and_takes_an_honest_one() -> None:
    assert check_strategy(Mood()) == []
    (finding,) = check_strategy(Mood(shift=1))
    assert finding.check == "lookahead"
    tape = synthetic(500).with_features({"mood": Feature(np.sin(np.arange(500.0)), synthetic(500).time_ns)})
    ensure_causal(Mood(), tape)
    with pytest.raises(StrategyError, match="looks ahead"):
        ensure_causal(Mood(shift=2), tape)


def newest(self: Strategy, bars: Bars) -> Floats:
    """Return for each bar the value that is of its time, whenever it was known."""
    column = feature(self, bars, "mood")
    place = np.searchsorted(column.time_ns, bars.time_ns, side="right") - 1
    return np.where(place >= 0, column.values[place], np.nan)


def unless_wild(self: Strategy, bars: Bars) -> Floats:
    """Return the values, none of them where the whole column jumps about, which it does not on a calm tape."""
    values = feature(self, bars, "mood").values
    return np.where(np.mean(np.abs(np.diff(values)) > 0.7) > 0.05, -1.0, values)


class Reads(Mood):
    """The same of values that are looked up by a rule of its own."""

    rule: Callable[[Strategy, Bars], Floats]

    def decide(self, bars: Bars) -> Decisions:
        return Decisions(np.where(self.rule(self, bars) > 0, 1.0, 0.0))


def test_the_check_refuses_values_read_by_the_time_they_are_of() -> None:
    """On bars whose values are known at once, the reader is honest: only later ones show it."""
    (finding,) = check_strategy(Reads(rule=newest))
    assert (finding.check, finding.tape) == ("lookahead", "SYNTHETIC")
    bars = synthetic(500)
    times, values = bars.time_ns, np.sin(np.arange(500.0))
    ensure_causal(Reads(rule=newest), bars.with_features({"mood": aligned(bars, times, bars.ends_ns, values)}))
    late = bars.with_features({"mood": aligned(bars, times, bars.ends_ns + 600 * S, values)})
    ensure_causal(Mood(), late)
    with pytest.raises(StrategyError, match="looks ahead"):
        ensure_causal(Reads(rule=newest), late)


def test_other_values_after_a_bar_show_a_reader_that_no_prefix_shows() -> None:
    reader = Reads(rule=unless_wild)
    bars = with_inputs(reader, synthetic(600))
    whole = evaluate(reader, bars).target
    assert all(np.array_equal(evaluate(reader, bars[:k]).target, whole[:k]) for k in range(2, 600))
    (finding,) = check_strategy(reader)
    assert "with other values in its columns after bar" in finding.detail
    with pytest.raises(StrategyError, match="with other values in its columns after bar"):
        ensure_causal(reader, bars)


class Keeps(Mood):
    """The next value of the column that it was given first, which its class keeps."""

    kept: ClassVar[list[Floats]] = []

    def decide(self, bars: Bars) -> Decisions:
        if not self.kept:
            self.kept.append(np.append(feature(self, bars, "mood").values[1:], np.nan))
        return Decisions(np.where(self.kept[0][: len(bars)] > 0, 1.0, 0.0))


def test_a_column_that_a_class_keeps_is_not_there_in_one_made_again() -> None:
    (finding,) = check_strategy(Keeps())
    assert finding.check == "lookahead"


@given(rows, st.integers(1, 29), st.integers(0, 2**32))
def test_rows_that_are_known_later_change_no_value_before(
    given_rows: list[tuple[int, int, int | None]], cut: int, seed: int
) -> None:
    """Taken away, with other values, or known at another time that is later, too."""
    bars, dice = synthetic(30), np.random.default_rng(seed)
    first, end = int(bars.time_ns[0]), int(bars.ends_ns[cut - 1])
    time_ns = np.array([first + 10 * S * t for t, _, _ in given_rows], dtype=np.int64)
    known_ns = time_ns + np.array([10 * S * d for _, d, _ in given_rows], dtype=np.int64)
    values = np.array([np.nan if v is None else v for *_, v in given_rows], dtype=np.float64)
    is_later = known_ns > end
    noise = np.where(is_later, dice.standard_normal(len(values)), values)
    moved = np.where(is_later, end + 1 + dice.integers(0, 600 * S, len(values)), known_ns)
    found = aligned(bars, time_ns, known_ns, values)[:cut]
    for other in (
        aligned(bars, time_ns[~is_later], known_ns[~is_later], values[~is_later]),
        aligned(bars, time_ns, moved, noise),
    ):
        np.testing.assert_array_equal(other[:cut].values, found.values)
        np.testing.assert_array_equal(other[:cut].time_ns, found.time_ns)


def test_the_check_keeps_the_columns_that_a_tape_has_and_adds_what_it_lacks() -> None:
    class Rare(Mood):
        """Looks ahead only where its column has values that a synthetic one never has."""

        def features(self) -> tuple[str, ...]:
            return ("mood", "calm")

        def decide(self, bars: Bars) -> Decisions:
            values = feature(self, bars, "mood").values
            later = np.append(values[1:], np.nan)
            target = np.where(np.abs(values) > 1e6, later > 0, values > 0).astype(np.float64)
            return Decisions(np.where(np.isnan(feature(self, bars, "calm").values), 0.0, target))

    assert check_strategy(Rare()) == []
    bars = synthetic(700)
    own = Feature(np.sin(np.arange(700.0)) * 1e7, bars.time_ns)
    (finding,) = check_strategy(Rare(), [replace(bars, symbol="OWN").with_features({"mood": own})])
    assert (finding.check, finding.tape) == ("lookahead", "OWN")


def test_a_strategy_without_its_column_is_told_how_to_get_it() -> None:
    with pytest.raises(StrategyError, match="reads the column mood besides SYNTHETIC") as refused:
        evaluate(Mood(), synthetic(20))
    assert refused.value.code == "FEATURE_MISSING"


def test_a_strategy_cannot_change_its_column() -> None:
    class Writes(Mood):
        def decide(self, bars: Bars) -> Decisions:
            feature(self, bars, "mood").values[0] = 9.0
            return Decisions(np.zeros(len(bars)))

    bars = synthetic(20)
    with pytest.raises(StrategyError, match="read-only"):
        evaluate(Writes(), bars.with_features({"mood": Feature(np.zeros(20), bars.time_ns)}))


def test_a_fingerprint_has_each_value_and_its_time() -> None:
    bars = synthetic(20)
    plain = tape_hash(bars)
    assert "features" not in plain
    one = Feature(np.zeros(20), bars.time_ns)
    hashes = [
        tape_hash(bars.with_features({name: column}))["features"]
        for name, column in (
            ("mood", one),
            ("mode", one),
            ("mood", Feature(np.append(np.zeros(19), 1.0), bars.time_ns)),
            ("mood", Feature(np.zeros(20), bars.time_ns - 1)),
        )
    ]
    assert len({str(found) for found in hashes}) == 4
    assert {
        name: value for name, value in tape_hash(bars.with_features({"mood": one})).items() if name != "features"
    } == plain


@pytest.mark.parametrize("name", ["", "Mood", "1mood", "mood mood", "x" * 65, "mood/values"])
def test_names_of_columns(name: str) -> None:
    assert check_feature_name("mood_1h.v2") == "mood_1h.v2"
    with pytest.raises(InputError) as refused:
        check_feature_name(name)
    assert refused.value.code == "FEATURE_NAME"


def test_an_economic_event_is_near_a_decision_as_it_was_known_then() -> None:
    bars = sample()[:120]  # minutes
    ends = bars.ends_ns
    at = int(ends[60])
    column = EventColumn.parse("events:usd.high.10")

    def near(*revisions: tuple[str, int]) -> list[int]:
        rows = [EventRevision(("USD", "CPI", at), at, importance, known_ns) for importance, known_ns in revisions]
        return np.flatnonzero(near_events(bars, column, rows).values).tolist()

    assert near(("high", 0)) == list(range(50, 71)), "ten minutes before and after, both included"
    assert near(("high", int(ends[55]))) == list(range(55, 71)), "from its publication on"
    assert near(("medium", 0)) == []
    assert near(("medium", 0), ("high", int(ends[58]))) == list(range(58, 71))
    assert near(("high", 0), ("none", int(ends[53]))) == [50, 51, 52], "it was called off"
    found = near_events(bars, column, [EventRevision(("USD", "CPI", at), at, "high", 0)])
    assert (int(found.time_ns[60]), int(found.time_ns[0])) == (at, int(ends[0]))


@pytest.mark.parametrize("name", ["events:high", "events:usd.none.5", "events:USD.high.5", "events:usd.high.99999"])
def test_a_wrong_column_of_economic_events_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no column of economic events"):
        EventColumn.parse(name)
    assert EventColumn.parse("events:low.5") == EventColumn(None, "low", 5)
