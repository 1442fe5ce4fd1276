"""Splits of shares: raw bars in the shares of their end, decisions in those of their own day, and jumps like unknown splits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.market.bars.splits import SplitDay, adjusted, split_day, split_like, tick_of
from fks.model.bar import Bars, ShareSplit
from fks.model.errors import InputError
from fks.model.timeframe import NS, to_ns
from fks.research.backtest import Backtest, resample, run, setup_for
from fks.strategies.base import Decisions, Strategy, evaluate

FIRST = date(2014, 6, 2)  # a Monday
DAY = 86_400 * NS


def days(*closes: float, opens: dict[int, float] | None = None, timeframe: str = "1d") -> Bars:
    """Bars of weekdays: each opens at the close before, but for `opens`."""
    times: list[int] = []
    day = FIRST
    while len(times) < len(closes):
        if day.weekday() < 5:
            times.append(to_ns(datetime(day.year, day.month, day.day, tzinfo=UTC)))
        day += timedelta(days=1)
    close = np.array(closes)
    open_ = np.concatenate([close[:1], close[:-1]])
    for row, price in (opens or {}).items():
        open_[row] = price
    volume = np.full(len(close), 1000.0)
    low, high = np.minimum(open_, close), np.maximum(open_, close)
    return Bars("AAPL", timeframe, np.array(times), open_, high, low, close, volume, calendar="XNYS")


#: Apple at its split of 7 for 1, 2014-06-09
APPLE = days(628.65, 637.54, 644.82, 647.35, 645.57, 93.70, 94.25, 93.86, 92.29, 91.28, opens={5: 92.69})
SPLIT = SplitDay(date(2014, 6, 9), 7)


class Breakout(Strategy):
    """Long above a price in dollars of the day, with a stop 10 dollars below: a split upsets both."""

    name = "breakout"
    level: float = 640.0

    def warmup(self) -> int:
        return 1

    def decide(self, bars: Bars) -> Decisions:
        return Decisions((bars.close > self.level).astype(float), stop_loss=bars.close - 10.0)


def test_prices_before_a_split_are_in_the_shares_after_it() -> None:
    found = adjusted(APPLE, [SPLIT])
    assert found.close[4] == round(645.57 / 7, 3)
    assert found.close[5:].tolist() == APPLE.close[5:].tolist()
    assert found.volume.tolist() == [7000.0] * 5 + [1000.0] * 5
    assert found.splits == (ShareSplit(int(APPLE.time_ns[5]), 7),)
    assert found.raw is not None
    assert found.as_traded.close.tolist() == APPLE.close.tolist()


def test_a_split_after_the_end_changes_nothing() -> None:
    assert adjusted(APPLE[:5], [SPLIT]) is not None
    assert adjusted(APPLE[:5], [SPLIT]).close.tolist() == APPLE.close[:5].tolist()
    assert adjusted(APPLE[:5], [SPLIT], until_ns=int(APPLE.time_ns[-1])).close[4] == round(645.57 / 7, 3)


def test_a_split_that_all_bars_are_after_changes_nothing() -> None:
    assert adjusted(APPLE[5:], [SPLIT]).close.tolist() == APPLE.close[5:].tolist()


def test_bars_within_a_day_are_split_at_midnight_of_their_market() -> None:
    evening = to_ns(datetime(2014, 6, 9, 1, tzinfo=UTC))  # the Sunday before, in New York
    times = np.array([evening, evening + 3 * 3600 * NS])
    bars = Bars("AAPL", "1h", times, *(np.array([645.0, 92.0]) for _ in range(4)), np.ones(2), calendar="XNYS")
    assert adjusted(bars, [SPLIT]).volume.tolist() == [7.0, 1.0]


def test_a_split_inside_a_week_is_refused() -> None:
    weeks = replace(APPLE[::5], timeframe="1w", time_ns=APPLE.time_ns[::5])
    assert adjusted(weeks, [SPLIT]).volume.tolist() == [7000.0, 1000.0]  # on a Monday, where a week begins
    for day in (date(2014, 6, 4), date(2014, 6, 11)):  # the last week, too
        with pytest.raises(InputError) as found:
            adjusted(weeks, [replace(SPLIT, day=day)])
        assert found.value.code == "SPLIT_IN_BAR"
        adjusted(weeks, [replace(SPLIT, day=day, new=1)])
    assert resample(adjusted(APPLE, [SPLIT]), "1w").close.tolist() == [round(645.57 / 7, 3), 91.28]
    with pytest.raises(InputError) as found:
        resample(adjusted(APPLE, [replace(SPLIT, day=date(2014, 6, 11))]), "1w")
    assert found.value.code == "SPLIT_IN_BAR"


@given(
    prices=st.lists(st.integers(1, 10**7), min_size=2, max_size=30),
    splits=st.dictionaries(st.integers(1, 29), st.sampled_from(["2", "3:2", "7", "20", "1:10", "1:1"]), max_size=4),
)
def test_the_bars_known_at_each_split_are_the_raw_ones(prices: list[int], splits: dict[int, str]) -> None:
    raw = days(*(price / 100 for price in prices))
    told = [
        split_day(str(np.datetime64(int(raw.time_ns[row]), "ns").astype("datetime64[D]")), ratio)
        for row, ratio in splits.items()
        if row < len(raw)
    ]
    bars = adjusted(raw, told)
    bounds = [*bars.split_rows, len(bars)]
    for start, end in zip([0, *bounds], bounds, strict=False):
        known = bars.known(end)
        for name in ("open", "high", "low", "close", "volume"):
            assert getattr(known, name)[start:].tolist() == getattr(raw, name)[start:end].tolist()
        assert (known.splits, known.raw) == ((), None)


def test_a_decision_sees_the_prices_of_its_day() -> None:
    """The strategy of dollars is long before the split, and not after it; its stop is 10 dollars of its own day."""
    found = evaluate(Breakout(), adjusted(APPLE, [SPLIT]))
    assert found.target.tolist() == [0, 0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert found.stop_loss is not None
    assert found.stop_loss[2] == round((644.82 - 10) / 7, 3)
    assert found.stop_loss[5] == pytest.approx(93.70 - 10)


def test_an_input_has_the_prices_of_its_day() -> None:
    """A pair's other share was split: the decisions before that see its price as it was."""

    class Other(Strategy):
        name = "other"

        def warmup(self) -> int:
            return 0

        def inputs(self) -> tuple[str, ...]:
            return ("AAPL",)

        def decide(self, bars: Bars) -> Decisions:
            return Decisions((bars.inputs["AAPL"].close > 600.0).astype(float))

    own = replace(days(*range(10, 20)), symbol="MSFT")
    assert evaluate(Other(), own.joined({"AAPL": adjusted(APPLE, [SPLIT])})).target.tolist() == [1] * 5 + [0] * 5


def test_decisions_of_bars_that_end_before_a_split_are_those_of_all() -> None:
    bars = adjusted(APPLE, [SPLIT])
    whole = evaluate(Breakout(), bars)
    for end in range(2, len(bars)):
        part = evaluate(Breakout(), bars[:end])
        assert part.target.tolist() == whole.target[:end].tolist()
        assert part.stop_loss is not None
        assert whole.stop_loss is not None
        assert part.stop_loss.tolist() == whole.stop_loss[:end].tolist()


@pytest.mark.parametrize("engine", ["reference", "compiled"])
def test_a_run_over_a_split_gains_what_the_shares_gained(engine: str) -> None:
    """1,000 dollars in Apple, held over the split; both engines."""

    class Hold(Strategy):
        name = "hold"

        def warmup(self) -> int:
            return 0

        def decide(self, bars: Bars) -> Decisions:
            return Decisions(np.ones(len(bars)))

    bars = adjusted(APPLE, [SPLIT])
    setup = setup_for(bars, cash=100_000, size=90_000, fee_rate=0)
    found: Backtest = run(Hold(), bars, setup, engine=engine, check=False)  # type: ignore[arg-type]
    assert found.engine.name == engine, found.engine.reason
    (fill,) = found.fills
    assert fill.price == Decimal(repr(round(628.65 / 7, 3)))
    assert found.equity[-1] - 100_000 == pytest.approx(float(fill.quantity) * (91.28 - round(628.65 / 7, 3)), abs=0.01)


def test_a_jump_like_an_unknown_split_is_refused_until_it_is_named() -> None:
    assert split_like(APPLE).tolist() == [5]
    with pytest.raises(InputError) as found:
        run(Breakout(), APPLE, check=False)
    assert found.value.code == "SPLIT_UNKNOWN"
    assert "split of 7:1" in found.value.message
    assert "--add 2014-06-09=7:1" in found.value.remedy
    moved = adjusted(APPLE, [replace(SPLIT, new=1)])
    run(Breakout(), moved, check=False)
    assert moved.close.tolist() == APPLE.close.tolist()
    run(Breakout(), APPLE, setup_for(APPLE, allow_gaps=True), check=False)


def test_a_jump_that_a_known_split_does_not_explain_is_refused() -> None:
    """Bars that were adjusted already, and a ratio the wrong way round."""
    already = replace(adjusted(APPLE, [SPLIT]), splits=(), raw=None)
    for bars in (adjusted(already, [SPLIT]), adjusted(APPLE, [replace(SPLIT, new=1, old=7)])):
        with pytest.raises(InputError) as found:
            run(Breakout(), bars, check=False)
        assert (found.value.code, "adjusted already" in found.value.remedy) == ("SPLIT_UNKNOWN", True)


class Limited(Strategy):
    """Buys at a limit of the low to come, for one bar."""

    name = "limited"

    def warmup(self) -> int:
        return 0

    def decide(self, bars: Bars) -> Decisions:
        size = len(bars)
        limit = np.full(size, 637.54)
        return Decisions(np.ones(size), entry_limit=limit, entry_bars=np.ones(size))


@pytest.mark.parametrize("engine", ["reference", "compiled"])
def test_an_order_at_the_price_of_its_day_fills_where_it_did_on_that_day(engine: str) -> None:
    dipped = replace(APPLE, low=np.where(np.arange(len(APPLE)) == 1, 637.54, APPLE.low))
    for bars in (replace(dipped[:5], splits=()), adjusted(dipped, [SPLIT])):
        setup = setup_for(bars, size=900)
        found = run(Limited(), bars, setup, engine=engine, check=False)  # type: ignore[arg-type]
        assert [fill.time_ns for fill in found.fills[:1]] == [int(APPLE.time_ns[1])], found.engine


def test_a_decision_between_two_splits_does_not_know_the_later_one() -> None:
    later = SplitDay(date(2014, 6, 12), 4)
    bars = replace(APPLE, close=APPLE.close + 0.005, high=APPLE.high + 0.005)  # three decimals
    before, after = adjusted(bars[:8], [SPLIT, later]), adjusted(bars, [SPLIT, later])
    assert (len(before.splits), len(after.splits)) == (1, 2)
    for end in range(1, 9):
        for name in ("open", "high", "low", "close", "volume"):
            assert getattr(before.known(end), name).tolist() == getattr(after.known(end), name).tolist()


def test_bars_that_end_before_a_split_are_of_its_shares() -> None:
    """A commission a share would be of seven of them."""
    bars = adjusted(APPLE, [SPLIT])[:5]
    with pytest.raises(InputError) as found:
        run(Breakout(), bars, setup_for(bars, commission="0.005 each"), check=False)
    assert found.value.code == "SPLIT_AMOUNTS"


def test_the_splits_of_an_input_are_its_own() -> None:
    own = replace(days(*range(10, 20)), symbol="MSFT")
    joined = own.joined({"AAPL": adjusted(APPLE, [SPLIT])})
    run(Breakout(), joined, setup_for(joined, commission="0.005 each"), check=False)
    with pytest.raises(InputError) as found:
        run(Breakout(), own.joined({"AAPL": APPLE}), check=False)
    assert (found.value.code, found.value.message.startswith("AAPL")) == ("SPLIT_UNKNOWN", True)


@pytest.mark.parametrize("calendar", ["24/7", "24/5", "CMES"])
def test_markets_without_shares_are_not_asked_for_splits(calendar: str) -> None:
    assert not len(split_like(replace(APPLE, calendar=calendar)))


def test_a_fall_of_47_percent_is_none() -> None:
    """Apple, 2000-09-29."""
    assert not len(split_like(days(53.5, 53.38, 25.75, opens={2: 28.06})))


@pytest.mark.parametrize(
    "more", [{"slippage": "2 ticks"}, {"commission": "0.005 each"}, {"margin": "20 each", "can_short": True}]
)
def test_an_amount_a_share_over_a_split_is_refused(more: dict[str, object]) -> None:
    bars = adjusted(APPLE, [SPLIT])
    with pytest.raises(InputError) as found:
        run(Breakout(), bars, setup_for(bars, **more), check=False)  # type: ignore[arg-type]
    assert found.value.code == "SPLIT_AMOUNTS"


def test_the_fingerprint_has_the_splits() -> None:
    told, raw = adjusted(APPLE, [SPLIT]), adjusted(APPLE, [SPLIT])
    raw = replace(raw, splits=())
    hashes = {run(Breakout(), bars, check=False).inputs_hash for bars in (told, raw)}
    assert len(hashes) == 2


def test_levels_are_rounded_no_further_than_on_their_day() -> None:
    assert tick_of(adjusted(APPLE, [SPLIT]), Decimal("0.01")) == Decimal("0.001")
    assert tick_of(APPLE, Decimal("0.01")) == Decimal("0.01")
    assert tick_of(adjusted(APPLE[5:], [SPLIT]), Decimal("0.01")) == Decimal("0.001"), "as of bars that begin earlier"
    reverse = [SPLIT, SplitDay(date(2014, 6, 5), 1, 10)]
    assert tick_of(adjusted(APPLE, reverse), Decimal("0.01")) == Decimal("0.001")


@pytest.mark.parametrize(
    ("day", "ratio"), [("2014-06-09", "0"), ("2014-06-09", "7/1"), ("9 June", "7"), ("2014-06-09", "")]
)
def test_what_is_no_split_is_refused(day: str, ratio: str) -> None:
    with pytest.raises(InputError) as found:
        split_day(day, ratio)
    assert found.value.code == "SPLIT_WRONG"


@pytest.mark.parametrize(
    ("opens", "looks"), [(66.7, True), (64.2, True), (71, False), (1.96, True), (202, True), (180, False)]
)
def test_jumps_near_a_ratio_look_like_a_split(opens: float, looks: bool) -> None:
    assert len(split_like(days(99.0, 100.0, opens, opens=({2: opens})))) == looks
