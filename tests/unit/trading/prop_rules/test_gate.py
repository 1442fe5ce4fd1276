"""A prop firm's rules before each entry: values of the link's snapshot, verdicts with the order manager's codes."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fks.config.settings import Ninja, Settings
from fks.model.codes import Code
from fks.model.ninja import LinkRecord, LinkReport
from fks.model.order import OrderType, Role, Side, State, TimeInForce
from fks.model.timeframe import NS, to_ns
from fks.trading.order_manager.prop_rules import GuardedAccount, PropGate, guarded_account, prop_gates
from fks.trading.prop_rules import RuleGroup, shipped_group
from fks.trading.prop_rules.groups import shipped_text
from fks.trading.prop_rules.snapshot import account_in, state_of
from fks.trading.risk.intent import Intent
from tests.support.order_values import an_order

NOW = to_ns(datetime(2026, 11, 18, 15, 0, tzinfo=UTC))  # Wednesday, 09:00 Chicago
D = Decimal
ACCOUNT: dict[str, Any] = {
    "name": "APEX-1",
    "status": "Connected",
    "trade_date": "2026-11-18",
    "values": {
        "NetLiquidation": "50100.00",
        "RealizedProfitLoss": "150",
        "UnrealizedProfitLoss": "-50",
        "FksHighest": "50200",
    },
    "positions": [{"instrument": "MES 12-26", "side": "short", "qty": 2}],
}
INTENT = Intent(
    intent_id=uuid.UUID(int=1),
    signal_id=None,
    account_id=1,
    venue="ninja",
    exchange="ninja",
    symbol="ES 12-26",
    instance="one",
    role=Role.ENTRY,
    side=Side.BUY,
    type=OrderType.LIMIT,
    time_in_force=TimeInForce.GTC,
    quantity=D(1),
    price=D(6000),
    stop_loss=D(5995),
    take_profit=D(6010),
)


def rules(name: str = "topstep-50k") -> RuleGroup:
    data = shipped_group(name).model_dump(exclude_none=True)
    for rule in data["rules"].values():
        rule |= {"verified_on": date(2026, 11, 17), "verified_by": "a person"}
    return RuleGroup.model_validate(data)


class Links:
    """The row of a link, as a test sets it."""

    def __init__(self, **account: Any) -> None:
        self.age_s, self.snapshot_ns = 0.5, NOW - 10 * NS
        self.account = {**ACCOUNT, **account}

    async def link(self, group: str) -> LinkRecord | None:
        assert group == "apex"
        snapshot = {"accounts": [{"name": "other"}, self.account]}
        report = LinkReport("READY", True, False, (), 0, snapshot=snapshot, snapshot_ns=self.snapshot_ns)
        return LinkRecord("apex", 1, "e", 1, report, self.age_s)


async def gate(links: Links, group: RuleGroup | None = None) -> PropGate:
    found = PropGate(GuardedAccount("apex", "APEX-1", "topstep-50k", group or rules()), links)
    await found.refresh()
    return found


async def code_of(links: Links, now_ns: int = NOW, **changes: Any) -> Code | None:
    denial = (await gate(links)).denial(replace(INTENT, **changes), (), {}, now_ns)
    return None if denial is None else denial.code


def test_state_follows_from_the_snapshot() -> None:
    state = state_of(account_in({"accounts": [ACCOUNT]}, "APEX-1"))
    assert (state.equity, state.day_start_balance, state.highest) == (D(50100), D(50000), D(50200))
    assert state.day == date(2026, 11, 18)
    assert [(holding.root, holding.quantity) for holding in state.holdings] == [("MES", -2)]
    unknown = state_of(account_in({"accounts": [ACCOUNT]}, "APEX-2"))
    assert (unknown.equity, unknown.day, unknown.highest, unknown.holdings) == (None, None, None, ())


@pytest.mark.parametrize("value", [None, "", "x", "NaN", True])
def test_values_that_are_no_numbers_are_not_known(value: object) -> None:
    values = {**ACCOUNT["values"], "NetLiquidation": value}
    assert state_of({**ACCOUNT, "values": values}).equity is None


async def test_an_entry_within_the_rules_passes() -> None:
    assert await code_of(Links()) is None


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"quantity": D(4)}, Code.PROP_SIZE),  # with the two micros six lots, five are allowed
        ({"stop_loss": D(5980)}, Code.PROP_DAILY),  # 1000 USD at the stop
        ({"stop_loss": None}, Code.PROP_DAILY),
        ({"symbol": "ESX 12-26"}, Code.PROP_DAILY),
    ],
)
async def test_an_entry_beyond_a_rule_is_denied_with_its_code(changes: dict[str, Any], code: Code) -> None:
    assert await code_of(Links(), **changes) is code


async def test_hours_and_news_follow_the_moment() -> None:
    assert await code_of(Links(), now_ns=NOW + 6 * 3600 * NS) is Code.PROP_HOURS


async def test_a_trailing_limit_counts_from_the_highest_value() -> None:
    values = {**ACCOUNT["values"], "FksHighest": "51700"}
    assert await code_of(Links(values=values)) is Code.PROP_TRAILING
    assert await code_of(Links(values={**ACCOUNT["values"], "FksHighest": None})) is Code.PROP_TRAILING


async def test_values_that_are_old_or_missing_deny() -> None:
    links = Links()
    links.age_s = 6.0
    assert await code_of(links) is Code.PROP_DAILY
    links = Links()
    links.snapshot_ns = NOW - 61 * NS
    assert await code_of(links) is Code.PROP_DAILY
    assert await code_of(Links(trade_date="2026-11-17")) is Code.PROP_DAILY


async def test_working_entries_and_the_journals_positions_count() -> None:
    found = await gate(Links())
    working = an_order(
        client_order_id="w",
        intent_id=uuid.UUID(int=2),
        venue="ninja",
        symbol="ES 12-26",
        quantity=D(3),
        price=D(6000),
        stop_loss=D(5999),
        state=State.WORKING,
    )
    denial = found.denial(INTENT, (working,), {}, NOW)
    assert denial is not None
    assert denial.code is Code.PROP_SIZE
    assert found.denial(INTENT, (replace(working, intent_id=INTENT.intent_id),), {}, NOW) is None, "it is itself"
    newer = found.denial(INTENT, (), {"ES 12-26": D(3)}, NOW)
    assert newer is not None
    assert newer.code is Code.PROP_SIZE
    assert found.denial(replace(INTENT, venue="ccxt"), (working,), {}, NOW) is None


async def test_figures_that_were_never_verified_only_relay_and_incomplete_ones_deny() -> None:
    assert (await gate(Links(), shipped_group("topstep-50k"))).denial(INTENT, (), {}, NOW) is None
    denial = (await gate(Links(), shipped_group("fxify-starter"))).denial(INTENT, (), {}, NOW)
    assert denial is not None
    assert denial.code is Code.PROP_OFF


async def test_the_traded_account_has_a_gate_where_its_group_names_rules(tmp_path: Path) -> None:
    links = Links()
    traded = {"enabled": True, "group": "apex", "account": "APEX-1"}
    assert prop_gates(Settings(), tmp_path, links) == {}
    assert prop_gates(Settings(ninja=Ninja(**traded)), tmp_path, links) == {}
    found = prop_gates(Settings(ninja=Ninja(**traded, rules="topstep-50k")), tmp_path, links)["ninja"]
    assert found.fault == ""
    await found.refresh()
    assert found.denial(replace(INTENT, quantity=D(9)), (), {}, NOW) is not None
    wrong = prop_gates(Settings(ninja=Ninja(**traded, rules="nobody")), tmp_path, links)["ninja"]
    assert "nobody" in wrong.fault


async def test_each_account_has_the_gate_of_its_own_group(tmp_path: Path) -> None:
    groups: dict[str, Any] = {"apex": {"port": 8081, "rules": "topstep-50k"}, "free": {"port": 8082}}
    accounts: dict[str, Any] = {"two": {"group": "apex", "account": "APEX-2"}, "own": {"group": "free", "account": "X"}}
    settings = Settings(ninja=Ninja(groups=groups, account="APEX-1", account_group="apex", accounts=accounts))
    gates = prop_gates(settings, tmp_path, Links())
    assert sorted(gates) == ["ninja", "ninja:two"]
    for gate in gates.values():
        await gate.refresh()
    large = replace(INTENT, quantity=D(9))
    assert gates["ninja"].denial(large, (), {}, NOW) is not None
    assert gates["ninja"].denial(replace(large, venue="ninja:two"), (), {}, NOW) is None  # another gate's to judge
    assert gates["ninja:two"].denial(replace(large, venue="ninja:two"), (), {}, NOW) is not None


async def test_an_account_may_have_rules_of_its_own(tmp_path: Path) -> None:
    groups: dict[str, Any] = {"apex": {"port": 8081, "rules": "topstep-50k"}}
    own = {"group": "apex", "account": "APEX-2", "rules": "nobody-has-these"}
    accounts: dict[str, Any] = {"two": own, "three": {"group": "apex", "account": "APEX-3"}}
    settings = Settings(ninja=Ninja(groups=groups, account="APEX-1", account_group="apex", accounts=accounts))
    assert settings.ninja.account_rules("apex") == {"APEX-2": "nobody-has-these"}
    gates = prop_gates(settings, tmp_path, Links())
    assert "nobody-has-these" in gates["ninja:two"].fault
    assert gates["ninja"].fault == ""
    assert gates["ninja:three"].fault == ""


def test_settings_name_the_rules_and_a_wrong_file_denies(tmp_path: Path) -> None:
    settings = Settings(ninja=Ninja(enabled=True, group="apex", rules="mine"))
    assert guarded_account(Settings(ninja=Ninja(enabled=True)), tmp_path, "sim", "Sim101") is None
    missing = guarded_account(settings, tmp_path, "apex", "APEX-1")
    assert missing is not None
    assert missing.rules is None
    assert "mine" in missing.fault
    (tmp_path / "prop_rules").mkdir()
    text = shipped_text("topstep-50k").replace('group = "topstep-50k"', 'group = "mine"', 1)
    (tmp_path / "prop_rules" / "mine.toml").write_text(text)
    found = guarded_account(settings, tmp_path, "apex", "APEX-1")
    assert found is not None
    assert found.rules is not None
    assert found.rules.max_loss == 2000
    (tmp_path / "prop_rules" / "mine.toml").write_text(text.replace("value = 2000", "value = -1"))
    broken = guarded_account(settings, tmp_path, "apex", "APEX-1")
    assert broken is not None
    assert broken.rules is None
    assert "max_loss" in broken.fault


async def test_changed_rule_file_counts_from_the_next_refresh(tmp_path: Path) -> None:
    settings = Settings(ninja=Ninja(enabled=True, group="apex", account="APEX-1", rules="topstep-50k"))
    (gate,) = prop_gates(settings, tmp_path, Links()).values()
    assert gate.fault == ""
    (tmp_path / "prop_rules").mkdir()
    file = tmp_path / "prop_rules" / "topstep-50k.toml"
    file.write_text(shipped_text("topstep-50k").replace("value = 2000", "value = -1"))
    await gate.refresh()
    assert "max_loss" in gate.fault, "rules that cannot be used deny every entry"
    file.write_text(shipped_text("topstep-50k"))
    await gate.refresh()
    assert gate.fault == ""
