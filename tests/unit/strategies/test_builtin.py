"""Built-in strategies: their earlier decisions stay, and each decides as a plain loop over bars does."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fks.model.bar import Bars
from fks.model.errors import InputError
from fks.model.timeframe import NS, TIMEFRAMES
from fks.strategies.base import StrategyError, evaluate
from fks.strategies.check import check_strategy, synthetic
from fks.strategies.registry import load_catalogue
from tests.support.strategies import bars_of

CATALOGUE = load_catalogue()
BARS = synthetic(1500)
H, L, C, V = (getattr(BARS, name).tolist() for name in ("high", "low", "close", "volume"))

_PROTECTED = {"sl_pct": None, "tp_pct": None, "trail_pct": None}
#: the parameters that instances in databases hold: a name or a default that changes would change their orders
PARAMS = {
    "bollinger": {"period": 20, "deviations": 2.0, "short": False},
    "buy_and_hold": {},
    "ema_cross": {"fast": 12, "slow": 26, "short": False},
    "macd": {"fast": 12, "slow": 26, "signal": 9, "short": False},
    "rsi": {"period": 14, "low": 30.0, "high": 70.0, "leave": 50.0, "short": False},
    "sma_cross": {"fast": 20, "slow": 50, "short": False},
}
#: SHA-256 of the targets as bytes on the check tape of 4,000 bars, shortened
GOLDEN: list[tuple[str, dict[str, Any], str]] = [
    ("bollinger", {}, "b8da29062c996a11"),
    ("bollinger", {"short": True}, "40df14d56a2958c3"),
    ("buy_and_hold", {}, "0d206c94e5ba5046"),
    ("ema_cross", {}, "4237455612b89814"),
    ("ema_cross", {"short": True}, "362b5b0facfbc8c6"),
    ("macd", {}, "653c01fabff3ef8a"),
    ("macd", {"short": True}, "ec135e6bfae7dfc9"),
    ("rsi", {}, "68e90701954115eb"),
    ("rsi", {"short": True}, "34697f100ab1cc75"),
    ("sma_cross", {}, "61abc5fc55177bab"),
    ("sma_cross", {"short": True}, "8071e7c765a1876f"),
]


@pytest.mark.parametrize("name", PARAMS)
def test_names_and_parameters_are_what_instances_hold(name: str) -> None:
    assert CATALOGUE.make(name).model_dump() == {**_PROTECTED, **PARAMS[name]}


@pytest.mark.parametrize(("name", "params", "digest"), GOLDEN)
def test_decisions_are_those_of_the_first_release(name: str, params: dict[str, Any], digest: str) -> None:
    target = evaluate(CATALOGUE.make(name, params), synthetic(4000)).target
    assert hashlib.sha256(target.astype(np.int8).tobytes()).hexdigest()[:16] == digest


# ── each new one again, as a loop over bars ──────────────────────────────────────────────────────
def wilder(period: int) -> list[float]:
    true = [math.nan] + [max(H[i], C[i - 1]) - min(L[i], C[i - 1]) for i in range(1, len(C))]
    out = [math.nan] * len(C)
    out[period] = sum(true[1 : period + 1]) / period
    for i in range(period + 1, len(C)):
        out[i] = (out[i - 1] * (period - 1) + true[i]) / period
    return out


def donchian(p: Any) -> list[float]:
    out, held = [], 0.0
    for i in range(len(C)):
        if i >= p.entry:
            top, bottom = max(H[i - p.entry : i]), min(L[i - p.entry : i])
            if (held > 0 and C[i] < min(L[i - p.leave : i])) or (held < 0 and C[i] > max(H[i - p.leave : i])):
                held = 0.0
            if C[i] > top:
                held = 1.0
            elif p.short and C[i] < bottom:
                held = -1.0
        out.append(held)
    return out


def atr_trend(p: Any) -> list[float]:
    out, side, atr = [], 0.0, wilder(p.atr_period)
    for i in range(len(C)):
        if i > max(p.period, p.atr_period):
            up = C[i] > min(L[i - p.period : i]) + p.multiple * atr[i - 1]
            down = C[i] < max(H[i - p.period : i]) - p.multiple * atr[i - 1]
            if up != down:
                side = 1.0 if up else -1.0
        out.append(side if p.short else max(side, 0.0))
    return out


def vwap_reversion(p: Any) -> list[float]:
    typical = [(h + low + c) / 3 for h, low, c in zip(H, L, C, strict=True)]
    out, held = [], 0.0
    for i in range(len(C)):
        if i >= p.period - 1:
            rows = range(i - p.period + 1, i + 1)
            away = C[i] / (sum(typical[k] * V[k] for k in rows) / sum(V[k] for k in rows)) - 1
            if (held > 0 and away >= 0) or (held < 0 and away <= 0):
                held = 0.0
            if away < -p.entry_pct / 100:
                held = 1.0
            elif p.short and away > p.entry_pct / 100:
                held = -1.0
        out.append(held)
    return out


def volatility_breakout(p: Any) -> list[float]:
    out, side, left, atr = [], 0.0, 0, wilder(p.period)
    for i in range(len(C)):
        left -= 1
        if i > p.period and abs(C[i] - C[i - 1]) > p.multiple * atr[i - 1]:
            side, left = math.copysign(1.0, C[i] - C[i - 1]), p.bars
        now = side if left > 0 else 0.0
        out.append(now if p.short else max(now, 0.0))
    return out


def pullback(p: Any) -> list[float]:
    from fks.indicators import rsi

    value = rsi(BARS.close, p.period).tolist()
    closes: list[float] = []
    out, held, trend = [], 0.0, 0
    for i in range(len(C)):
        end = int(BARS.time_ns[i]) // NS // 60 + 1
        if end % p.factor == 0:
            closes.append(C[i])
            if len(closes) >= p.slow:
                # compare as whole numbers of ticks: sums times the other period
                ticks = [round(c * 100) for c in closes]
                away = sum(ticks[-p.fast :]) * p.slow - sum(ticks[-p.slow :]) * p.fast
                trend = (away > 0) - (away < 0) or trend
        if (held > 0 and (value[i] > p.leave or trend <= 0)) or (held < 0 and (value[i] < 100 - p.leave or trend >= 0)):
            held = 0.0
        if value[i] < p.low and trend > 0:
            held = 1.0
        elif p.short and value[i] > 100 - p.low and trend < 0:
            held = -1.0
        out.append(held)
    return out


LOOPS: dict[str, Callable[[Any], list[float]]] = {
    made.__name__: made for made in (donchian, atr_trend, vwap_reversion, volatility_breakout, pullback)
}


def drawn(data: st.DataObject, name: str) -> dict[str, Any]:
    """Return parameters small enough that a short tape moves the strategy."""
    n = data.draw(st.integers(3, 30))
    return {
        "donchian": {"entry": n, "leave": data.draw(st.integers(2, n))},
        "atr_trend": {
            "period": n,
            "atr_period": data.draw(st.integers(2, 25)),
            "multiple": data.draw(st.floats(0.5, 4)),
        },
        "vwap_reversion": {"period": n, "entry_pct": data.draw(st.sampled_from([0.05, 0.1, 0.3]))},
        "volatility_breakout": {
            "period": n,
            "multiple": data.draw(st.floats(0.5, 2.5)),
            "bars": data.draw(st.integers(1, 30)),
        },
        "pullback": {"factor": data.draw(st.sampled_from([2, 3, 5])), "fast": 2, "slow": n, "low": 45.0, "leave": 55.0},
        "time_of_day": {
            "start": data.draw(st.sampled_from(["00:00", "09:30", "22:15"])),
            "end": data.draw(st.sampled_from(["03:00", "16:00", "23:59"])),
            "zone": data.draw(st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"])),
            "days": data.draw(st.sampled_from(["thu", "mon tue wed thu fri sat sun"])),
        },
    }[name] | {"short": data.draw(st.booleans())}


@pytest.mark.parametrize("name", LOOPS)
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 3)
def test_a_strategy_decides_as_the_loop_does(name: str, data: st.DataObject) -> None:
    strategy = CATALOGUE.make(name, drawn(data, name))
    found = evaluate(strategy, BARS).target
    wanted = LOOPS[name](strategy)
    assert found[strategy.warmup() :].tolist() == wanted[strategy.warmup() :] or differs_by_warmup(
        found, wanted, strategy.warmup()
    )


def differs_by_warmup(found: Any, wanted: list[float], warmup: int) -> bool:
    """Return whether both agree from some bar on, before which the strategy, which decides later, is flat."""
    equal = found[warmup:] == np.array(wanted[warmup:])
    joined = int(np.argmax(equal)) if equal.any() else len(equal)
    return bool(equal[joined:].all()) and not found[warmup : warmup + joined].any()


@pytest.mark.parametrize("name", [*LOOPS, "time_of_day"])
@given(data=st.data())
@settings(max_examples=settings.default.max_examples // 5)
def test_a_strategy_passes_its_check_with_any_parameters(name: str, data: st.DataObject) -> None:
    params = drawn(data, name) | {
        "sl_pct": data.draw(st.sampled_from([None, 0.5])),
        "tp_pct": data.draw(st.sampled_from([None, 1.0])),
    }
    assert check_strategy(CATALOGUE.make(name, params)) == []


@pytest.mark.parametrize("name", LOOPS)
def test_the_check_tape_moves_the_strategy_both_ways(name: str) -> None:
    assert set(np.unique(evaluate(CATALOGUE.make(name, {"short": True}), synthetic(4000)).target)) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("name", sorted(CATALOGUE.entries))
def test_every_parameter_has_limits_or_a_form_and_a_sentence(name: str) -> None:
    kind = CATALOGUE.kind(name)
    assert (kind.__doc__ or "").strip()
    for field, info in kind.model_fields.items():
        assert info.description, field


# ── time of day ──────────────────────────────────────────────────────────────────────────────────
def week(timeframe: str, start: datetime, days: int = 9) -> Bars:
    """Return bars from `start` on, all at one price."""
    step = TIMEFRAMES[timeframe]
    times = (int(start.timestamp()) + np.arange(days * 86_400 // step, dtype=np.int64) * step) * NS
    column = np.full(len(times), 100.0)
    return Bars("X", timeframe, times, column, column, column, column, column)


@pytest.mark.parametrize("timeframe", ["1m", "15m"])
@pytest.mark.parametrize(("start", "end"), [("09:30", "16:00"), ("22:00", "04:30")])
@pytest.mark.parametrize("days", ["mon tue wed thu fri", "sat", "sun mon"])
def test_a_session_is_that_of_the_clock_of_its_zone(timeframe: str, start: str, end: str, days: str) -> None:
    """Across both changes of the clock in New York, and for sessions that pass midnight."""
    names = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    for month in (3, 11):
        bars = week(timeframe, datetime(2026, month, 2 if month == 3 else 1, tzinfo=UTC))
        strategy = CATALOGUE.make("time_of_day", {"start": start, "end": end, "days": days})
        target = evaluate(strategy, bars).target
        for i in range(0, len(bars), 7):
            over = datetime.fromtimestamp(
                int(bars.time_ns[i]) // NS + TIMEFRAMES[timeframe], ZoneInfo("America/New_York")
            )
            clock = f"{over:%H:%M}"
            day = over
            if start < end:
                is_in = start <= clock < end
            else:
                is_in = clock >= start or clock < end
                day = over - timedelta(days=1) if clock < end else over
            assert (target[i] == 1.0) == (is_in and names[day.weekday()] in days.split()), over


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"start": "9:30"}, "start: string should match pattern"),
        ({"end": "24:00"}, "end: string should match pattern"),
        ({"start": "16:00"}, "start and end are both 16:00"),
        ({"zone": "Mars"}, "zone: unknown time zone 'Mars'"),
        ({"days": "someday"}, "days: days are some of mon tue"),
    ],
)
def test_wrong_sessions_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CATALOGUE.make("time_of_day", params)


def test_bars_longer_than_a_day_have_no_time_of_day() -> None:
    bars = week("1w", datetime(2026, 1, 5, tzinfo=UTC), 70)
    with pytest.raises(StrategyError, match="needs bars of at most a day, not 1w"):
        evaluate(CATALOGUE.make("time_of_day"), bars)


# ── several entries ──────────────────────────────────────────────────────────────────────────────
def changes_of(strategy: Any, bars: Bars) -> list[tuple[int, float]]:
    """Return the rows on which the target changes, and the target there."""
    target = evaluate(strategy, bars).target
    return [(int(row), float(target[row])) for row in np.flatnonzero(np.diff(target, prepend=0.0))]


def test_dca_buys_every_so_many_bars_wherever_the_run_starts() -> None:
    bars = bars_of([100.0] * 30)
    strategy = CATALOGUE.make("dca", {"every": 6, "buys": 3})
    whole = changes_of(strategy, bars)
    assert [wanted for _, wanted in whole] == [1.0, 2.0, 3.0]
    assert np.diff([row for row, _ in whole]).tolist() == [6, 6]
    late = changes_of(strategy, bars[4:])
    assert (late[0][0] + 4 - whole[0][0]) % 6 == 0


def test_dca_buys_once_a_day_on_the_clock_of_its_zone() -> None:
    bars = bars_of([100.0] * 72, timeframe="1h")
    strategy = CATALOGUE.make("dca", {"at": "09:30", "zone": "Europe/Berlin"})
    ends = [int(bars.time_ns[row]) // 10**9 % 86_400 + 3_600 for row, _ in changes_of(strategy, bars)]
    assert ends == [9 * 3_600] * 3  # 10:00 in winter in Berlin: the first hour that ends at or after 09:30
    with pytest.raises(StrategyError, match="needs bars of at most a day"):
        evaluate(strategy, bars_of([100.0] * 5, timeframe="1w"))


def test_dca_takes_its_profit_over_the_average_price_and_begins_again() -> None:
    closes = [100.0, 50.0, 50.0, 50.0, 66.0, 67.0, 68.0, 68.0]  # bought at 100 and 50: 66.67 on average
    strategy = CATALOGUE.make("dca", {"every": 1, "buys": 2, "tp_pct": 0.4})
    assert changes_of(strategy, bars_of(closes)) == [(0, 1.0), (1, 2.0), (5, 0.0), (6, 1.0), (7, 2.0)]


def test_dca_buys_grow_by_its_scale_and_the_last_has_all_of_the_size() -> None:
    strategy = CATALOGUE.make("dca", {"every": 1, "buys": 3, "scale": 2.0})
    decisions = evaluate(strategy, bars_of([100.0] * 5))
    assert [decisions.share_at(row) for row in range(3)] == [Decimal("0.25"), Decimal("0.5"), None]
    with pytest.raises(InputError, match=r"the first of 12 buys would be less than 0\.1%"):
        CATALOGUE.make("dca", {"buys": 12, "scale": 2.0})


def test_grid_buys_each_level_once_and_sells_over_the_average_price() -> None:
    closes = [100.0] * 5 + [98.9, 98.5, 97.5, 90.0, 90.0, 90.0, 99.0, 99.0]
    bars = bars_of(closes)
    strategy = CATALOGUE.make("grid", {"period": 3, "step_pct": 1.0, "levels": 4, "tp_pct": 5.0})
    # the high is 100.5, so that the levels are 99.495, 98.49, 97.485 and 96.48
    assert changes_of(strategy, bars) == [(5, 1.0), (7, 2.0), (8, 3.0), (9, 4.0), (11, 0.0)]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"levels": 50, "step_pct": 2.0}, "50 levels of 2 % are 100 % or more"),
        ({"levels": 5, "step_pct": 1.0, "sl_pct": 5.0}, "must be below the last level"),
    ],
)
def test_grid_refuses_levels_that_cannot_be(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CATALOGUE.make("grid", params)
