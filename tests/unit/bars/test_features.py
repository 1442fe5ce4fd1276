"""Own columns beside bars: of each bar what was known at its end, and nothing that came later."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.backtest.fingerprint import tape_hash
from fks.bars.features import aligned, check_feature_name
from fks.bars.splits import adjusted, split_day
from fks.model.bar import Bars, Feature
from fks.model.errors import InputError
from fks.model.timeframe import bar_end
from fks.strategies.base import Decisions, Strategy, StrategyError, decide, evaluate, feature
from fks.strategies.check import check_strategy, ensure_causal, synthetic

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
