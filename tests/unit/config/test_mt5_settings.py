"""Settings of MetaTrader 5: the agent is off until it is enabled, and the account names the venue session."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fks.clock import RealClock
from fks.config.load import load
from fks.config.settings import Mt5, Settings, Sim
from fks.config.unread import warnings_of
from fks.model.errors import ConfigError
from fks.model.ninja import MT5, NINJA
from fks.trading.venues.registry import Making, make_venue, make_venues
from tests.support.ports import CollectingLog


def test_nothing_connects_until_it_is_enabled() -> None:
    settings = Settings(mt5=Mt5(account_number=12))
    assert (settings.links(MT5), settings.links(NINJA), settings.mt5.sessions()) == ({}, {}, {})
    assert settings.is_demo


def test_enabled_agent_and_account_are_one_session() -> None:
    settings = Settings(mt5=Mt5(enabled=True, account_number=12, group="demo", timeout_s=2.0))
    assert settings.mt5.sessions() == {"mt5": ("demo", "12")}
    assert [(name, group.port, group.timeout_s) for name, group in settings.links(MT5).items()] == [
        ("demo", 47741, 2.0)
    ]
    assert not settings.is_demo, "orders can reach a broker"


def test_owner_variables_set_the_section_without_a_warning(tmp_path: Path) -> None:
    env = {"MT5_TERMINAL_PATH": "C:/mt5", "MT5_ACCOUNT_NUMBER": "12", "MT5_PASSWORD": "p", "MT5_SERVER": "S"}
    loaded = load(tmp_path, env)
    assert loaded.settings.mt5.account_number == 12
    assert list(warnings_of(loaded.settings, loaded.sources)) == []


def test_venue_is_made_for_the_order_manager_alone() -> None:
    settings = Settings(sim=Sim(enabled=False), mt5=Mt5(enabled=True, account_number=12))
    making = Making(settings=settings, node=None, clock=RealClock(), log=CollectingLog())
    with pytest.raises(ConfigError, match=r"mt5\.account_number"):
        make_venue("mt5", Making(settings=Settings(), node=None, clock=RealClock(), log=CollectingLog()))
    with pytest.raises(ConfigError, match="MetaTrader 5"):
        make_venue("mt5", making)  # without rows
    assert "mt5" not in make_venues("guardian", making)


@pytest.mark.parametrize("group", ["", "a b", "x" * 33, "a:b"])
def test_name_of_a_group_that_cannot_be_one_is_refused(group: str) -> None:
    with pytest.raises(ValidationError):
        Mt5(group=group)
