"""Decisions of triggers: what starts a run, and what never does."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.instrument import Instrument
from fks.model.timeframe import NS, bar_start
from fks.trading.portfolio.rebalance import (
    Trigger,
    TriggerCode,
    TriggerFacts,
    TriggerMarket,
    TriggerPolicy,
    WeightDrift,
    decide,
    weights_outside,
)

D = Decimal
H = 3600 * NS
NOW = 1_000_000 * H + 60 * NS  # a minute after the close of an hour
CLOSE = 1_000_000 * H
DRIFT = TriggerPolicy(Trigger.DRIFT)
SCHEDULE = TriggerPolicy(Trigger.SCHEDULE)
FACTS = TriggerFacts(now_ns=NOW, targets_ns=CLOSE - 2 * H, run_max_age_s=3600.0, decided_ns=CLOSE - H)
ASKED = replace(FACTS, requested_ns=NOW - NS)
OPEN = TriggerMarket(bars_ns=CLOSE, hold=None, outside=("BTCUSDT",), trades=1)
C = TriggerCode


@pytest.mark.parametrize(
    ("facts", "market", "drift", "schedule"),
    [
        ({}, {}, C.START, C.START),
        ({"is_running": True}, {}, C.RUNNING, C.RUNNING),
        ({"is_approval_pending": True}, {}, C.APPROVAL_PENDING, C.APPROVAL_PENDING),
        ({"started_ns": NOW - 3599 * NS}, {}, C.COOLDOWN, C.START),
        ({"started_ns": NOW - 3600 * NS}, {}, C.START, C.START),
        ({"is_cancelled": True}, {}, C.CANCELLED, C.START),
        ({"targets_ns": CLOSE - H + 1}, {}, C.TARGETS_NEW, C.TARGETS_NEW),
        ({"targets_ns": CLOSE - H}, {}, C.START, C.START),
        ({}, {"bars_ns": CLOSE - H}, C.BARS_MISSING, C.START),
        ({}, {"bars_ns": None}, C.BARS_MISSING, C.START),
        ({}, {"hold": "KILLED"}, C.HELD, C.HELD),
        ({}, {"outside": ()}, C.IN_BAND, C.START),
        ({}, {"trades": 0}, C.NO_TRADES, C.NO_TRADES),
        ({"decided_ns": CLOSE}, {}, C.IDLE, C.START),
        ({"requested_ns": None}, {}, C.START, C.IDLE),
        ({"requested_ns": NOW - 3601 * NS}, {"hold": "KILLED"}, C.HELD, C.EXPIRED),
        ({"requested_ns": NOW - 3601 * NS}, {}, C.START, C.START),
    ],
)
def test_a_decision_names_its_reason(
    facts: dict[str, object], market: dict[str, object], drift: C, schedule: C
) -> None:
    found, now = replace(ASKED, **facts), replace(OPEN, **market)  # type: ignore[arg-type]
    assert (decide(DRIFT, found, now), decide(SCHEDULE, found, now)) == (drift, schedule)
    assert decide(TriggerPolicy(), found, now) is C.IDLE, "a person starts it"


times = st.integers(CLOSE - 3 * H, NOW)
facts = st.builds(
    TriggerFacts,
    now_ns=st.just(NOW),
    targets_ns=times,
    run_max_age_s=st.floats(1, 7200),
    requested_ns=st.none() | times,
    decided_ns=st.none() | times.map(lambda at: bar_start(at, "1h")),
    started_ns=st.none() | times,
    is_running=st.booleans(),
    is_approval_pending=st.booleans(),
)
markets = st.builds(
    TriggerMarket,
    bars_ns=st.none() | times.map(lambda at: bar_start(at, "1h")),
    hold=st.none() | st.just("KILLED"),
    outside=st.sampled_from([(), ("BTCUSDT",)]),
    trades=st.integers(0, 2),
)
policies = st.builds(
    TriggerPolicy, trigger=st.sampled_from(Trigger), cooldown_s=st.floats(0, 7200), needs_approval=st.booleans()
)


@given(policies, facts, markets)
def test_a_run_starts_only_when_nothing_speaks_against_it(
    policy: TriggerPolicy, found: TriggerFacts, market: TriggerMarket
) -> None:
    first, code = decide(policy, found, None), decide(policy, found, market)
    assert code is not None
    assert first in (None, code), "facts that cost nothing are decided before the market is read"
    if code is not C.START:
        return
    assert first is None
    assert policy.trigger is not Trigger.PERSON
    assert not found.is_running
    assert not found.is_approval_pending
    assert market.hold is None
    assert market.trades > 0
    assert found.targets_ns <= CLOSE - H, "the targets are from before the last bar"
    if policy.trigger is Trigger.DRIFT:
        assert market.bars_ns == CLOSE
        assert market.outside
        assert found.decided_ns is None or found.decided_ns < CLOSE
        assert found.started_ns is None or NOW - found.started_ns >= policy.cooldown_s * NS
        assert decide(policy, replace(found, decided_ns=CLOSE), market) is C.IDLE, "once a bar"
    else:
        assert found.requested_ns is not None
    assert decide(policy, replace(found, is_running=True), market) is not C.START, "one run at a time"


def a_row(symbol: str, quantity: str, target: str, band: str = "0.02") -> WeightDrift:
    rules = {"lot_step": D("0.001"), "qty_min": D("0.001"), "qty_max": D(9000), "notional_min": D(5)}
    item = Instrument("binance", symbol, symbol, "USDT", D("0.01"), **rules)
    return WeightDrift(item, D(quantity), D(1), D(target), (D(band), D(band)), None, None, None)


def test_weights_are_those_at_the_closes() -> None:
    rows = [a_row("AAA", "5", "0.5"), a_row("BBB", "0", "0"), a_row("CCC", "30", "0.3", "0.1")]
    closes = {"AAA": D(10), "CCC": D(1)}
    assert weights_outside(rows, D(20), closes, None) == ()
    assert weights_outside(rows, D(20), closes | {"CCC": D("1.2")}, None) == ("AAA",), "50 of 106: below 0.48"
    assert weights_outside(rows, D(20), closes | {"CCC": D("1.2")}, D("0.05")) == ()
    assert weights_outside(rows, D(20), closes | {"CCC": D("1.2")}, D("0.01")) == ("AAA", "CCC")
    with pytest.raises(KeyError):
        weights_outside(rows, D(20), {"AAA": D(10)}, None)
    assert weights_outside([a_row("AAA", "0", "0.5")], D(0), {}, None) == (), "nothing is to be distributed"
