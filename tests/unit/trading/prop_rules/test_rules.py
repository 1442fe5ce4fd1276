"""Rule files, modes by age, the add-on's form, and properties of the evaluation."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import ConfigError, InputError
from fks.model.futures import trade_date
from fks.model.timeframe import NS, to_ns
from fks.trading.prop_rules import (
    SHIPPED,
    AccountState,
    EntryRequest,
    Holding,
    Mode,
    RuleGroup,
    WorkingEntry,
    check_entry,
    distances,
    drawdown_threshold,
    mode_of,
    parse_group,
    problems_of,
    required_action,
    shipped_group,
)
from fks.trading.prop_rules.groups import addon_document, shipped_text

TODAY = date(2026, 11, 22)
BEGIN = to_ns(datetime(2026, 11, 15, tzinfo=UTC))


def verified(name: str, on: date = TODAY, **rules: Any) -> RuleGroup:
    data = shipped_group(name).model_dump(exclude_none=True)
    data["rules"] |= rules
    for rule in data["rules"].values():
        rule |= {"source": "test", "verified_on": on, "verified_by": "a person"}
    return RuleGroup.model_validate(data)


COMPLETE = {
    "max_lots": {"value": 5},
    "flat_by": {"value": "15:10"},
    "automation": {"value": "allowed"},
}


# ── files ────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_groups_are_read_and_never_automated_as_they_are(name: str) -> None:
    group = shipped_group(name)
    assert group.group == name
    assert all(rule.source for rule in group.rules.present().values())
    assert mode_of(Mode.AUTO, group, TODAY) in (Mode.RELAY, Mode.OFF)
    assert all(rule.verified_on is None for rule in group.rules.present().values())


def test_figures_are_those_of_the_sources() -> None:
    found = {name: (shipped_group(name).max_loss, shipped_group(name).daily_loss(Decimal(50_000))) for name in SHIPPED}
    assert found == {
        "topstep-50k": (2000, 1000),
        "topstep-100k": (3000, 2000),
        "topstep-150k": (4500, 3000),
        "apex-50k": (2500, None),
        "fxify-starter": (2000, 1000),
        "fxify-expert": (2000, 1500),
        "custom": (2000, 1000),
    }
    assert shipped_group("fxify-starter").daily_loss(Decimal(45_000)) == 900, "of the smaller balance"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value = 2000", "value = -1", "rules.max_loss.value"),
        ("value = 2000", "value = true", "must be a number"),
        ("value = 2000", "valeu = 2000", "rules.max_loss.valeu: Extra inputs are not permitted"),
        ('value = "15:10"', 'value = "25:10"', "rules.flat_by.value"),
        ('value = "15:10"', 'value = "3:10"', 'must be a time like "15:05"'),
        ('value = "15:10"', 'value = "15:00"', "in this order"),
        ('trailing = "eod"', 'trailing = "daily"', "rules.max_loss.trailing"),
        ("starting_balance = 50000", "", "starting_balance: Field required"),
        ('value = "allowed_monitored"', 'value = "yes"', "rules.automation.value"),
        ("[rules.max_lots]", "[rules.lots]", "rules.lots: Extra inputs are not permitted"),
        ("starting_balance = 50000", "starting_balance = ", "cannot be read"),
        ("micro_factor = 1", "micro_factor = 1\nverified_on = 2026-11-20", "verified_by must name the person"),
    ],
)
def test_wrong_files_are_refused_with_the_key(old: str, new: str, message: str) -> None:
    text = shipped_text("topstep-50k")
    assert old in text
    with pytest.raises(ConfigError) as refused:
        parse_group(text.replace(old, new, 1), "mine.toml")
    assert message in refused.value.message
    assert refused.value.message.startswith("mine.toml")
    assert "docs/prop-firms.md" in refused.value.remedy


def test_json_is_read_like_toml_and_the_addons_form_is_complete() -> None:
    group = verified("topstep-50k")
    document = addon_document(group)
    assert json.loads(json.dumps(document)) == document
    again = parse_group(json.dumps(document), "rules.json")
    assert again.starting_balance == document["starting_balance"] == 50_000
    assert again.max_loss == group.max_loss
    assert again.rules.flat_by is not None
    assert group.rules.flat_by is not None
    assert again.rules.flat_by.own == group.rules.flat_by.own
    assert document["group"] == "topstep-50k"
    rules = document["rules"]
    assert set(rules) == {"max_loss", "daily_loss", "max_lots", "flat_by", "automation"}
    assert (rules["max_loss"]["value"], rules["max_loss"]["trailing"]) == (2000, "eod")
    assert (rules["flat_by"]["own"], rules["flat_by"]["no_entries_from"]) == ("15:05", "14:55")
    for rule in rules.values():
        assert {"value", "source", "verified_on", "verified_by"} <= set(rule)
        assert "note" not in rule
    assert rules["flat_by"]["before_early_close_min"] == 15
    assert addon_document(verified("apex-50k"))["rules"]["max_loss"]["lock"] == 100


def test_addons_form_has_amounts_windows_and_no_unverified_figure() -> None:
    event = {"at": datetime(2026, 12, 10, 13, 30, tzinfo=UTC), "name": "CPI"}
    news = {"value": [event], "minutes_before": 5, "minutes_after": 1}
    document = addon_document(verified("fxify-starter", **COMPLETE, news=news))
    assert document["rules"]["max_loss"]["value"] == 2000
    written = document["rules"]["news"]
    assert written["value"] == [{"from_ms": 1_796_909_100_000, "to_ms": 1_796_909_460_000}]
    assert (written["action"], written["verified_by"]) == ("refuse", "a person")
    assert "consistency" not in document["rules"]
    none = addon_document(verified("apex-50k"))["rules"]["daily_loss"]
    assert none["value"] == "none", "a rule that is left out would be one that is not known"
    shipped = addon_document(shipped_group("topstep-50k"))
    assert {rule["verified_on"] for rule in shipped["rules"].values()} == {"1970-01-01"}
    with pytest.raises(InputError, match="max_lots, flat_by missing"):
        addon_document(shipped_group("fxify-starter"))


def test_the_addon_knows_every_key_that_is_written_for_it() -> None:
    source = (Path(__file__).resolve().parents[4] / "nt8" / "AddOns" / "FKSRisk.cs").read_text()
    sets = re.findall(r"HashSet<string> (Keys|Inner) = new HashSet<string>\s*\{(.*?)\}", source, flags=re.DOTALL)
    known = {name: set(re.findall(r'"(\w+)"', body)) for name, body in sets}
    assert set(known) == {"Keys", "Inner"}
    event = {"at": datetime(2026, 12, 10, 13, 30, tzinfo=UTC), "name": "CPI"}
    groups = [
        verified("apex-50k"),
        verified("fxify-expert", **COMPLETE, news={"value": [event]}),
        shipped_group("custom"),
    ]
    for rules in (addon_document(group)["rules"] for group in groups):
        assert set(rules) <= known["Keys"]
        assert all(set(rule) <= known["Inner"] for rule in rules.values())


# ── modes ────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("days", "mode"), [(0, Mode.AUTO), (30, Mode.AUTO), (31, Mode.RELAY), (4000, Mode.RELAY), (-1, Mode.OFF)]
)
def test_figures_of_a_month_ago_no_longer_automate(days: int, mode: Mode) -> None:
    group = verified("topstep-50k", TODAY - timedelta(days=days))
    assert mode_of(Mode.AUTO, group, TODAY) is mode
    assert mode_of(Mode.RELAY, group, TODAY) is min(mode, Mode.RELAY, key=[Mode.OFF, Mode.RELAY, Mode.AUTO].index)
    assert mode_of(Mode.OFF, group, TODAY) is Mode.OFF


def test_missing_figures_switch_off_and_forbidden_automation_relays() -> None:
    assert mode_of(Mode.AUTO, None, TODAY) is Mode.OFF
    assert mode_of(Mode.AUTO, verified("fxify-starter"), TODAY) is Mode.OFF
    assert {text for mode, text in problems_of(verified("fxify-starter"), TODAY) if mode is Mode.OFF} == {
        "max_lots is missing",
        "flat_by is missing",
    }
    for value in ("relay_only", "forbidden", "unknown"):
        assert mode_of(Mode.AUTO, verified("topstep-50k", automation={"value": value}), TODAY) is Mode.RELAY
    one = EntryRequest("ES", 1, Decimal(1))
    denial = check_entry(shipped_group("fxify-starter"), AccountState(), one, BEGIN)
    assert denial is not None
    assert denial.code == "automation_forbidden"
    assert "max_lots is missing" in denial.detail
    off = check_entry(verified("topstep-50k"), AccountState(), one, BEGIN, wanted=Mode.OFF)
    assert off is not None
    assert off.code == "automation_forbidden"


# ── properties ───────────────────────────────────────────────────────────────────────────────────
amounts = st.integers(40_000, 60_000).map(Decimal)
losses = st.integers(-500, 3_000).map(Decimal)
quantities = st.integers(-6, 6).filter(bool)
roots = st.sampled_from(["ES", "MES", "NQ"])
moments = st.integers(0, 7 * 24 * 60 - 1).map(lambda minute: BEGIN + minute * 60 * NS)
groups = st.sampled_from(["topstep-50k", "apex-50k", "fxify-expert", "custom"])


@st.composite
def accounts(draw: st.DrawFn) -> tuple[int, AccountState]:
    now_ns = draw(moments)
    state = AccountState(
        draw(amounts),
        draw(amounts),
        trade_date(now_ns),
        draw(amounts),
        tuple(draw(st.lists(st.builds(Holding, roots, quantities), max_size=2))),
        tuple(draw(st.lists(st.builds(WorkingEntry, roots, quantities, losses), max_size=3))),
    )
    return now_ns, state


def usable(name: str) -> RuleGroup:
    return verified(name, date(2026, 11, 14), **COMPLETE)


@given(groups, accounts(), roots, quantities, losses)
def test_an_accepted_entry_cannot_break_the_firms_limits(
    name: str, drawn: tuple[int, AccountState], root: str, quantity: int, loss: Decimal
) -> None:
    now_ns, state = drawn
    group = usable(name)
    entry = EntryRequest(root, quantity, loss)
    if check_entry(group, state, entry, now_ns) is not None:
        return
    worst = sum((max(one.worst_loss or Decimal(0), Decimal(0)) for one in (*state.entries, entry)), Decimal(0))
    assert state.equity is not None
    assert state.day_start_balance is not None
    limit, threshold = group.daily_loss(state.day_start_balance), drawdown_threshold(group, state)
    assert limit is None or state.equity - worst - state.day_start_balance > -limit
    assert threshold is None or state.equity - worst > threshold
    assert required_action(group, state, now_ns) is None


@given(groups, accounts(), roots, quantities, losses, st.integers(1, 2_000))
def test_more_risk_is_never_accepted_where_less_was_refused(
    name: str, drawn: tuple[int, AccountState], root: str, quantity: int, loss: Decimal, more: int
) -> None:
    now_ns, state = drawn
    group = usable(name)
    if check_entry(group, state, EntryRequest(root, quantity, max(loss, Decimal(0))), now_ns) is None:
        return
    riskier = EntryRequest(root, quantity, max(loss, Decimal(0)) + more)
    assert check_entry(group, state, riskier, now_ns) is not None
    assert check_entry(group, state, EntryRequest(root, quantity, None), now_ns) is not None


@given(groups, accounts(), st.sampled_from(["equity", "day_start_balance", "day", "highest"]))
def test_unknown_values_refuse_entries(name: str, drawn: tuple[int, AccountState], field: str) -> None:
    from dataclasses import replace

    now_ns, state = drawn
    group = usable(name)
    needs_day = group.rules.daily_loss is not None and group.rules.daily_loss.has_value
    if field in ("day_start_balance", "day") and not needs_day:
        return
    unknown = replace(state, **{field: None})
    assert check_entry(group, unknown, EntryRequest("ES", 1, Decimal(1)), now_ns) is not None
    required_action(group, unknown, now_ns)
    assert len(distances(group, unknown, now_ns)) == len(group.rules.present())


@given(groups, st.lists(amounts, min_size=1, max_size=8))
def test_the_threshold_never_falls(name: str, balances: list[Decimal]) -> None:
    group, highest, before = usable(name), Decimal(50_000), None
    for balance in balances:
        state = AccountState(balance, balance, date(2026, 11, 18), highest)
        threshold = drawdown_threshold(group, state)
        assert threshold is not None
        assert before is None or threshold >= before
        lock = group.rules.max_loss.lock if group.rules.max_loss is not None else None
        assert lock is None or threshold <= 50_000 + lock
        highest, before = max(highest, balance), threshold
