"""Copies of signals: rules as text, contracts, ids, and the orders of a follower."""

from __future__ import annotations

import uuid
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.config.settings import Ninja, Settings
from fks.model.copies import CopyRule, copied_instance, expected, is_ninja, parse_rule
from fks.model.ids import copy_signal_id, intent_id
from fks.model.order import Side
from fks.model.signal import Kind
from fks.store.signals import SignalRecord
from fks.trading.order_manager.copying import copy_of
from tests.support.order_rig import signal_of

D = Decimal
FLAT = (D(0), D(0))
HALF = parse_rule("fund 0.5x")
TWO = parse_rule("fund 2 auto")


def record(kind: Kind = Kind.ENTER, decided_ns: int | None = None, **changes: Any) -> SignalRecord:
    signal = signal_of(kind, venue="ninja", exchange="ninja", symbol="ES 12-26", **changes)
    by = None if decided_ns is None else "ann"
    return SignalRecord(signal, 1, None, None, None, by, decided_ns, None, 5)


def test_a_rule_is_a_name_a_size_and_a_mode() -> None:
    assert parse_rule("fund 0.5x") == CopyRule(name="fund", size=D("0.5"), is_ratio=True, mode="auto")
    assert parse_rule(" fund  2  relay ") == CopyRule(name="fund", size=D(2), is_ratio=False, mode="relay")
    assert parse_rule("fund 1x automated").mode == "auto"
    assert parse_rule("fund 1 off").venue == "ninja:fund"
    assert is_ninja("ninja:fund")
    assert not is_ninja("paper")


@pytest.mark.parametrize("text", ["", "fund", "fund x", "fund 0", "fund 1.5", "fund 0x auto", "fund 1 live", "a:b 1"])
def test_a_rule_of_another_form_is_refused_with_a_valid_one(text: str) -> None:
    with pytest.raises(ValueError, match=r"NAME 0\.5x auto"):
        parse_rule(text)


@given(st.integers(0, 1000), st.decimals("0.01", "20", places=2))
def test_a_ratio_gives_whole_contracts_and_never_more(quantity: int, ratio: Decimal) -> None:
    contracts = CopyRule(name="f", size=ratio, is_ratio=True).contracts(D(quantity))
    assert contracts % 1 == 0
    assert quantity * ratio - 1 < contracts <= quantity * ratio


def test_ids_are_functions_of_intent_and_account() -> None:
    leader = record()
    first = copy_of(leader, TWO, 7, D(3), *FLAT)
    assert first.id == copy_of(leader, HALF, 7, D(9), *FLAT).id == copy_signal_id(intent_id(leader.signal.id), 7)
    assert first.id != copy_of(leader, TWO, 8, D(3), *FLAT).id


def test_an_entry_is_repeated_with_its_levels_for_an_instance_of_its_own() -> None:
    leader = record(stop_loss=D(90), take_profit=D(120))
    copy = copy_of(leader, HALF, 7, D(5), *FLAT)
    assert (copy.account_id, copy.venue, copy.instance, copy.size) == (7, "ninja:fund", "copy:one", D(2))
    assert (copy.stop_loss, copy.take_profit, copy.side, copy.source) == (D(90), D(120), Side.BUY, "strategy:one")
    assert (copy.ts_event_ns, copy.timeframe) == (leader.signal.ts_event_ns, "1m")
    assert copied_instance(copy.instance) == "one"
    assert copied_instance("one") == ""
    assert copy_of(leader, TWO, 7, None, *FLAT).size == 2
    assert copy_of(leader, HALF, 7, None, *FLAT).size == 0  # denied QTY_MIN: the leader's contracts are not known


def test_the_age_of_an_approved_signal_counts_from_the_approval() -> None:
    copy = copy_of(record(decided_ns=99), TWO, 7, D(1), *FLAT)
    assert (copy.ts_event_ns, copy.timeframe) == (99, None)


def test_an_exit_closes_whatever_the_follower_holds_of_the_instance() -> None:
    copy = copy_of(record(Kind.EXIT), TWO, 7, None, D(1), D(5))
    assert (copy.kind, copy.size, copy.instance) == (Kind.EXIT, None, "copy:one")


def order(side: Side, size: int, **changes: Any) -> SignalRecord:
    where = {"instance": "", "source": "principal:ann", "timeframe": None}
    return record(Kind.ORDER, side=side, size=D(size), **(where | changes))


def test_a_persons_order_is_repeated_as_an_order() -> None:
    copy = copy_of(order(Side.BUY, 4), HALF, 7, D(4), *FLAT)
    assert (copy.kind, copy.instance, copy.size, copy.is_reduce_only) == (Kind.ORDER, "", D(2), False)


def test_a_closing_order_closes_the_same_share_of_the_follower() -> None:
    part = copy_of(order(Side.SELL, 1), HALF, 7, D(1), D(4), D(2))
    assert (part.size, part.is_reduce_only) == (D(0), True)
    whole = copy_of(order(Side.SELL, 4), HALF, 7, D(4), D(4), D(3))
    assert (whole.size, whole.is_reduce_only) == (D(3), True)


def test_a_closing_order_never_opens_a_follower_that_holds_nothing() -> None:
    copy = copy_of(order(Side.SELL, 4), TWO, 7, D(4), D(4), D(0))
    assert copy.is_reduce_only


def test_an_order_that_reverses_the_leader_is_no_closing_order() -> None:
    assert not copy_of(order(Side.SELL, 5), TWO, 7, D(5), D(4), D(2)).is_reduce_only
    with_stop = order(Side.SELL, 2, stop_loss=D(120))
    assert not copy_of(with_stop, TWO, 7, D(2), D(4), D(2)).is_reduce_only


@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from(Side), st.integers(1, 9))
def test_a_closing_copy_never_moves_a_follower_past_flat(leader: int, follower: int, side: Side, size: int) -> None:
    held = D(leader), D(follower)
    copy = copy_of(order(side, size), replace_size(TWO, D(9)), 7, D(size), *held)
    if copy.is_reduce_only and follower * side.sign < 0:
        assert copy.size is not None
        assert copy.size <= abs(follower)


def replace_size(rule: CopyRule, size: Decimal) -> CopyRule:
    return rule.model_copy(update={"size": size})


@pytest.mark.parametrize(
    ("rule", "leader", "held", "wanted"),
    [
        (HALF, 5, 0, 2),
        (HALF, -5, -2, -2),
        (HALF, 0, 1, 0),
        (TWO, 1, 0, 2),
        (TWO, 3, 6, 6),  # three entries of two each
        (TWO, -1, 2, -2),
        (TWO, 0, 2, 0),
    ],
)
def test_what_a_follower_should_hold(rule: CopyRule, leader: int, held: int, wanted: int) -> None:
    assert expected(rule, D(leader), D(held)) == wanted


# ── settings ─────────────────────────────────────────────────────────────────────────────────────
GROUPS: dict[str, Any] = {"a": {"port": 8081}, "b": {"port": 8082}}
ACCOUNTS: dict[str, Any] = {"fund": {"group": "b", "account": "F-1"}, "more": {"group": "a", "account": "A-2"}}
LED: dict[str, Any] = {"groups": GROUPS, "account": "A-1", "account_group": "a", "accounts": ACCOUNTS}


def ninja(**changes: Any) -> Ninja:
    return Settings(ninja={**LED, **changes}).ninja  # type: ignore[arg-type]


def test_each_account_of_the_settings_is_a_venue_session() -> None:
    assert ninja().sessions() == {"ninja": ("a", "A-1"), "ninja:fund": ("b", "F-1"), "ninja:more": ("a", "A-2")}
    one = Settings(ninja={"enabled": True, "accounts": {"x": {"account": "Sim102"}}}).ninja  # type: ignore[arg-type]
    assert one.sessions() == {"ninja:x": ("sim", "Sim102")}
    assert [str(rule) for rule in ninja(copies=("fund 0.5x", "more 1 off")).copy_rules()] == [
        "fund 0.5x auto",
        "more 1 off",
    ]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"accounts": {"fund": {"account": "F-1"}}}, "needs group"),
        ({"accounts": {"a:b": {"account": "F-1", "group": "a"}}}, "letters, digits"),
        ({"accounts": {"twice": {"account": "A-1", "group": "a"}}}, "there twice"),
        ({"copies": ("nobody 1x",)}, "ninja.accounts.nobody"),
        ({"copies": ("fund 1x", "fund 2")}, "twice"),
        ({"copies": ("fund 0x",)}, "NAME 0.5x auto"),
        ({"copies": ("fund 1x",), "account": None}, "needs ninja.account"),
    ],
)
def test_wrong_accounts_and_rules_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ninja(**changes)


def test_a_signal_keeps_everything_else() -> None:
    leader = record(reason="cross").signal
    copy = copy_of(record(reason="cross"), TWO, 7, D(1), *FLAT)
    own = ("id", "account_id", "venue", "instance", "size", "reason", "ts_event_ns")
    assert replace(copy, **{name: getattr(leader, name) for name in own}) == leader
    assert isinstance(copy.id, uuid.UUID)
    assert copy.reason.endswith("(fund 2 auto): cross")
