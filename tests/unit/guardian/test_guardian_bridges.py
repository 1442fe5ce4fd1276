"""The NinjaTrader groups of the guardian, from the settings and the files of their secrets."""

from __future__ import annotations

from pathlib import Path

from fks.config.settings import Ninja, NinjaAccount, NinjaGroup, Settings
from fks.guardian.bridges import bridge_addresses

SECRET = "correct-horse-battery-staple-0001"


def test_groups_without_a_link_are_not_reached(tmp_path: Path) -> None:
    (tmp_path / "ninja.key").write_text(SECRET)
    assert bridge_addresses(Settings(), tmp_path) == ([], [])


def test_a_wrong_secret_keeps_out_its_own_group_only(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_text(f" {SECRET}\r\n")
    (tmp_path / "b.key").write_text("short")
    groups = {
        "a": NinjaGroup(port=8081, secret_file=str(tmp_path / "a.key"), required=True),
        "b": NinjaGroup(port=8082, secret_file=str(tmp_path / "b.key")),
        "c": NinjaGroup(port=8083, secret_file=str(tmp_path / "c.key")),
    }
    found, wrong = bridge_addresses(Settings(ninja=Ninja(groups=groups)), tmp_path)
    assert [(each.group, each.port, each.secret, each.is_required) for each in found] == [
        ("a", 8081, SECRET.encode(), True)
    ]
    assert [text[:2] for text in wrong] == ["b:", "c:"]
    assert "short" not in wrong[0].replace("too short", "")


def test_account_whose_own_rules_cannot_be_used_has_none_not_those_of_another_firm(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_text(SECRET)
    groups = {"a": NinjaGroup(port=8081, secret_file=str(tmp_path / "a.key"), rules="topstep-50k")}
    accounts = {
        "wrong": NinjaAccount(group="a", account="X-1", rules="nobody-has-these"),
        "own": NinjaAccount(group="a", account="X-2", rules="apex-50k"),
    }
    (found,), wrong = bridge_addresses(Settings(ninja=Ninja(groups=groups, accounts=accounts)), tmp_path)
    assert len(wrong) == 1
    assert "nobody-has-these" in wrong[0]
    assert found.rules_of("X-1") is None, "the group's rules would flatten by the figures of another firm"
    named = {account: rules.group for account in ("X-2", "X-3") if (rules := found.rules_of(account)) is not None}
    assert named == {"X-2": "apex-50k", "X-3": "topstep-50k"}
