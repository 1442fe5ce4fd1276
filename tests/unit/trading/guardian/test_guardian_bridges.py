"""The NinjaTrader groups of the guardian, from the settings and the files of their secrets."""

from __future__ import annotations

from pathlib import Path

from fks.config.settings import Mt5, Ninja, NinjaAccount, NinjaGroup, Settings
from fks.trading.guardian.bridges import BridgeFiles, bridge_addresses
from fks.trading.prop_rules.groups import shipped_text
from tests.support.ports import CollectingLog

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


def test_account_without_usable_rules_has_none_not_those_of_another_firm(tmp_path: Path) -> None:
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


def _one(tmp_path: Path, **group: object) -> tuple[BridgeFiles, CollectingLog]:
    log = CollectingLog()
    groups = {"a": NinjaGroup(port=8081, secret_file=str(tmp_path / "a.key"), **group)}  # type: ignore[arg-type]
    return BridgeFiles(Settings(ninja=Ninja(groups=groups)), tmp_path, log), log


def test_changed_secret_and_rules_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_text(SECRET)
    files, _ = _one(tmp_path, rules="topstep-50k")
    assert files.changed("a") is None
    (tmp_path / "a.key").write_text(f"{SECRET}-another")
    assert (found := files.changed("a")) is not None
    assert found.secret == f"{SECRET}-another".encode()
    assert files.changed("a") is None, "it is reported once"
    own = tmp_path / "prop_rules"
    own.mkdir()
    text = shipped_text("topstep-50k").replace("starting_balance = 50000", "starting_balance = 60000")
    (own / "topstep-50k.toml").write_text(text)
    assert (found := files.changed("a")) is not None
    assert found.rules is not None
    assert found.rules.starting_balance == 60_000


def test_file_that_becomes_wrong_leaves_what_was_read_last(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_text(SECRET)
    files, log = _one(tmp_path, rules="topstep-50k")
    (tmp_path / "a.key").write_text("short")
    (tmp_path / "prop_rules").mkdir()
    (tmp_path / "prop_rules" / "topstep-50k.toml").write_text("group = [")
    assert files.changed("a") is None
    assert files.address("a").secret == SECRET.encode()
    assert files.address("a").rules is not None
    assert [event for _, event, _ in log.lines] == ["guardian.ninja_unusable"]
    assert files.changed("a") is None
    assert len(log.lines) == 1, "a fault is logged once"


def test_secret_that_comes_later_is_taken_over(tmp_path: Path) -> None:
    files, log = _one(tmp_path)
    assert (files.address("a").secret, len(log.lines)) == (b"", 1)
    (tmp_path / "a.key").write_text(SECRET)
    assert (found := files.changed("a")) is not None
    assert found.secret == SECRET.encode()


def test_groups_of_both_platforms_are_reached_under_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "ninja.key").write_text(SECRET)
    (tmp_path / "mt5.key").write_text(SECRET + "-other")
    settings = Settings(ninja=Ninja(enabled=True, group="demo"), mt5=Mt5(enabled=True, group="demo", required=True))
    found, wrong = bridge_addresses(settings, tmp_path)
    assert wrong == []
    assert [(one.key, one.group, one.platform.title, one.is_required) for one in found] == [
        ("demo", "demo", "NinjaTrader", False),
        ("mt5:demo", "demo", "MetaTrader 5", True),
    ]
    files = BridgeFiles(settings, tmp_path, CollectingLog())
    assert files.groups == ("demo", "mt5:demo")
    (tmp_path / "mt5.key").write_text(SECRET + "-newer")
    changed = files.changed("mt5:demo")
    assert changed is not None
    assert changed.secret == f"{SECRET}-newer".encode()
    assert files.changed("demo") is None
