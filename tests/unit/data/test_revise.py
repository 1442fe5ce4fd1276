"""In whatever order trades, duplicates, backfill, the exchange's own bars and restarts come: the bars are the same."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fks.data.aggregate import BarBuilder
from fks.data.revise import SETTLED_NS, Cause, Reviser, Revision
from fks.model.bar import Bar, PublicTrade
from fks.model.errors import BugError
from fks.model.market import TradeIds
from fks.model.timeframe import NS, bar_end, bar_start

T0 = 1_767_225_600 * NS
FRAMES = ("1s", "5s", "15s", "1m", "5m")
WINDOW = 60 * NS
Store = dict[tuple[str, int], Bar]


def trade(number: int, second: float, price: str = "10", quantity: str = "1") -> PublicTrade:
    return PublicTrade("okx", "BTCUSDT", number, T0 + round(second * 1e9), Decimal(price), Decimal(quantity), False)


def reviser(frames: tuple[str, ...] = ("1s", "5s"), **options: object) -> Reviser:
    return Reviser("okx", "BTCUSDT", frames, T0, ids=TradeIds.RISING, **{"window_ns": WINDOW, **options})  # type: ignore[arg-type]


def told(made: Iterable[Revision]) -> list[tuple[str, int, int, Cause]]:
    return [(r.bar.timeframe, (r.bar.time_ns - T0) // NS, r.revision, r.cause) for r in made]


def truth(trades: list[PublicTrade], end_ns: int, *, emits_empty: bool = True) -> Store:
    builder = BarBuilder("okx", "BTCUSDT", FRAMES, T0, emits_empty=emits_empty)
    bars = [bar for item in trades for bar in builder.add(item) or []] + builder.seal_through(end_ns)
    return {(bar.timeframe, bar.time_ns): bar for bar in bars}


# ── the property ─────────────────────────────────────────────────────────────────────────────────
class World:
    """An exchange's whole truth, a store that keeps what it is given, and a line that loses, doubles and shuffles."""

    def __init__(self, trades: list[PublicTrade], dice: random.Random, *, emits_empty: bool, ids: TradeIds) -> None:
        self.trades, self.dice, self.emits_empty, self.ids = trades, dice, emits_empty, ids
        self.end_ns = bar_end(bar_start(trades[-1].time_ns, "5m"), "5m")
        self.truth = truth(trades, self.end_ns, emits_empty=emits_empty)
        self.store: Store = {}
        self.heard: list[PublicTrade] = []
        self.said: list[tuple[Bar, int]] = []
        self.reviser = Reviser("okx", "BTCUSDT", FRAMES, T0, ids=ids, window_ns=WINDOW, emits_empty=emits_empty)

    def deliveries(self) -> list[tuple[int, PublicTrade | Bar | str]]:
        """Return (when, what) in order of arrival: each trade at least once or its second's own bar, late words, restarts."""
        found: list[tuple[int, PublicTrade | Bar | str]] = []
        lost = {bar_start(t.time_ns, "1s") for t in self.trades if self.dice.random() < 0.15}
        for item in self.trades:
            if bar_start(item.time_ns, "1s") not in lost or self.dice.random() < 0.5:
                copies = self.dice.choice((1, 1, 2, 3))
                found += [(item.time_ns + self.dice.randrange(WINDOW // 3), item) for _ in range(copies)]
        for (frame, start_ns), bar in self.truth.items():
            end_ns = bar_end(start_ns, frame)
            if frame == "1s" and start_ns in lost:
                found.append((end_ns + self.dice.randrange(WINDOW // 3), bar))
            elif self.dice.random() < 0.1:
                found.append((end_ns + self.dice.randrange(3 * SETTLED_NS), bar))
        found += [(self.dice.randrange(T0, self.end_ns), "restart") for _ in range(self.dice.randrange(4))]
        return sorted(found, key=lambda pair: pair[0])

    def hear(self, when_ns: int, what: PublicTrade | Bar | str) -> None:
        if isinstance(what, str):
            self.restart()
        elif isinstance(what, Bar):
            self.said.append((what, max(when_ns, bar_end(what.time_ns, what.timeframe))))
            self.keep(self.reviser.own(*self.said[-1]))
        else:
            self.heard.append(what)
            self.keep(self.reviser.add([what]))
        if self.dice.random() < 0.7:
            self.keep(self.reviser.seal_through(min(self.end_ns, bar_start(when_ns - self.dice.randrange(2 * NS), "1s"))))

    def keep(self, made: Iterable[Revision]) -> None:
        for revision in made:
            self.store[revision.bar.timeframe, revision.bar.time_ns] = revision.bar

    def restart(self) -> None:
        """Begin anew from the store, from the trades it has of the last minute, and ask for what is not sealed yet."""
        start_ns = self.reviser.open_ns
        replay_ns = max(T0, bar_start(start_ns - WINDOW, "1s"))
        self.reviser = Reviser(
            "okx", "BTCUSDT", FRAMES, start_ns, ids=self.ids, window_ns=WINDOW, emits_empty=self.emits_empty, replay_ns=replay_ns
        )
        needed = [bar for frame, a, b in self.reviser.needs() for (f, at), bar in self.store.items() if f == frame and a <= at < b]
        before = [bar for (frame, at), bar in self.store.items() if frame == "1s" and at < replay_ns]
        self.reviser.resume([*before[-1:], *needed], known_ns=T0)
        self.keep(self.reviser.add([item for item in self.heard if item.time_ns >= replay_ns]))
        for bar, said_ns in self.said:
            if bar_end(bar.time_ns, bar.timeframe) > start_ns:
                self.keep(self.reviser.own(bar, said_ns))


@st.composite
def markets(draw: st.DrawFn) -> list[PublicTrade]:
    rows = draw(st.lists(st.tuples(st.integers(0, 12_000_000_000), st.integers(1, 10**6), st.integers(1, 10**7)), min_size=1, max_size=40))
    now, made = T0, []
    for number, (step, price, lots) in enumerate(rows):
        now += step
        made.append(PublicTrade("okx", "BTCUSDT", number, now, Decimal(price).scaleb(-2), Decimal(lots).scaleb(-5), False))
    return made


@given(markets(), st.integers(0, 2**32), st.booleans(), st.sampled_from([TradeIds.RISING, TradeIds.OPAQUE]))
@settings(max_examples=60, deadline=None)
def test_any_interleaving_makes_the_same_bars(trades: list[PublicTrade], seed: int, emits_empty: bool, ids: TradeIds) -> None:
    world = World(trades, random.Random(seed), emits_empty=emits_empty, ids=ids)
    for when_ns, what in world.deliveries():
        world.hear(when_ns, what)
    world.keep(world.reviser.seal_through(world.end_ns))
    assert world.store == world.truth
    assert world.reviser.take_conflicts() == []


# ── the cases by name ────────────────────────────────────────────────────────────────────────────
def test_a_trade_that_comes_late_gives_the_next_number_to_its_bar_the_silent_ones_after_it_and_the_larger_one() -> None:
    bars = reviser()
    assert bars.add([trade(1, 0.5, "10"), trade(3, 3.5, "12")]) == []
    assert told(bars.seal_through(T0 + 5 * NS)) == [("1s", n, 0, Cause.SEALED) for n in range(5)] + [("5s", 0, 0, Cause.SEALED)]
    made = bars.add([trade(2, 1.5, "99")])
    assert told(made) == [("1s", 1, 1, Cause.LATE_TRADE), ("1s", 2, 1, Cause.LATE_TRADE), ("5s", 0, 1, Cause.LATE_TRADE)]
    assert [revision.bar.close for revision in made] == [99.0, 99.0, 12.0]
    assert made[1].bar.is_empty
    assert (bars.late, bars.corrected) == (0, 3)


def test_a_trade_beyond_the_window_changes_nothing_and_the_exchange_is_asked() -> None:
    bars = reviser()
    bars.add([trade(1, 0.5)])
    bars.seal_through(T0 + 90 * NS)
    assert bars.add([trade(2, 3.5, "99")]) == []
    assert bars.late == 1
    assert bars.take_asks() == [("1s", T0 + 3 * NS)]
    assert bars.take_asks() == []
    own = Bar("okx", "BTCUSDT", "1s", T0 + 3 * NS, 99.0, 99.0, 99.0, 99.0, 1.0, 1)
    assert told(bars.own(own, T0 + 91 * NS)) == [("1s", 3, 0, Cause.EXCHANGE)]
    assert bars.take_asks() == [("5s", T0)]  # no part of it is kept: the exchange knows it as well


def test_a_second_trade_of_one_id_counts_nowhere_and_another_price_is_a_conflict() -> None:
    bars = reviser()
    bars.add([trade(1, 0.5), trade(1, 0.5), trade(1, 0.6, "11")])
    (made, *_) = bars.seal_through(T0 + NS)
    assert (made.bar.trades, made.bar.close, bars.duplicates) == (1, 10.0, 2)
    assert [item.price for item in bars.take_conflicts()] == [Decimal(11)]


def test_the_exchanges_last_word_holds_against_ours_and_a_later_trade_asks_again() -> None:
    bars = reviser()
    bars.add([trade(1, 0.5)])
    bars.seal_through(T0 + NS)
    own = Bar("okx", "BTCUSDT", "1s", T0, 10.0, 11.0, 9.0, 10.5, 3.0, 4)
    assert told(bars.own(own, T0 + NS + SETTLED_NS)) == [("1s", 0, 1, Cause.EXCHANGE)]
    assert bars.own(replace(own, close=9.5), T0 + 2 * NS) == []  # said sooner
    assert bars.add([trade(2, 0.6, "20", "2")]) == []
    assert bars.take_asks() == []
    assert bars.add([trade(3, 0.7, "20", "2")]) == []  # now we have more than it said
    assert bars.take_asks() == [("1s", T0)]


def test_a_bar_over_a_hole_is_incomplete_until_the_hole_is_filled() -> None:
    bars = reviser()
    bars.add([trade(1, 0.5)])
    bars.doubt(T0 + NS, T0 + 3 * NS)
    sealed = bars.seal_through(T0 + 5 * NS)
    assert [r.bar.is_complete for r in sealed] == [True, False, False, True, True, False]
    assert bars.add([trade(2, 1.5, "11")])[0].bar.is_complete is False
    made = bars.filled(T0, T0 + 10 * NS)
    assert told(made) == [("1s", 1, 2, Cause.FILLED), ("1s", 2, 2, Cause.FILLED), ("5s", 0, 2, Cause.FILLED)]
    assert all(r.bar.is_complete for r in made)


def test_an_exchange_without_empty_bars_gets_one_when_a_late_trade_fills_it() -> None:
    bars = reviser(("1s",), emits_empty=False)
    bars.add([trade(1, 0.5)])
    assert told(bars.seal_through(T0 + 4 * NS)) == [("1s", 0, 0, Cause.SEALED)]
    assert told(bars.add([trade(2, 2.5, "11")])) == [("1s", 2, 0, Cause.LATE_TRADE)]


def test_the_forming_bar_is_what_came_so_far_and_never_closed() -> None:
    bars = reviser(("1s", "5s", "1m"))
    assert bars.forming("1m") is None
    bars.add([trade(1, 0.5, "10"), trade(2, 6.2, "12"), trade(3, 7.1, "11")])
    bars.seal_through(T0 + 7 * NS)
    seen = bars.forming("1m")
    assert seen is not None
    assert not seen.is_closed
    assert (seen.bar.open, seen.bar.high, seen.bar.low, seen.bar.close, seen.bar.trades) == (10.0, 12.0, 10.0, 11.0, 3)
    assert seen.bar.time_ns == T0


def test_of_trades_at_one_moment_the_ids_say_which_was_first() -> None:
    bars = reviser(("1s",))
    bars.add([trade(7, 0.5, "12"), trade(5, 0.5, "10"), trade(6, 0.5, "11")])
    (made,) = bars.seal_through(T0 + NS)
    assert (made.bar.open, made.bar.close) == (10.0, 12.0)


def test_a_restart_says_what_it_needs_of_the_store() -> None:
    bars = Reviser("okx", "X", ("1m", "5m", "1h"), T0 + 7 * 60 * NS, ids=TradeIds.RISING, replay_ns=T0 + 6 * 60 * NS)
    minute = 60 * NS
    assert bars.needs() == [("1m", T0 + 5 * minute, T0 + 7 * minute), ("5m", T0, T0 + 5 * minute)]


def test_what_cannot_be_is_a_bug() -> None:
    with pytest.raises(BugError, match="is not where a 1s bar begins"):
        Reviser("okx", "X", ("1s",), T0 + 1, ids=TradeIds.RISING)
    with pytest.raises(BugError, match="was not over"):
        reviser().own(Bar("okx", "X", "5s", T0, 1.0, 1.0, 1.0, 1.0, 1.0), T0 + 4 * NS)
    with pytest.raises(BugError, match="no timeframe given makes 1M"):
        Reviser("okx", "X", ("1w", "1M"), bar_start(T0, "1w"), ids=TradeIds.RISING)
