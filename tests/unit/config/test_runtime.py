"""Settings that change while the system runs: the allowed keys, the overridden values, the components to restart."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.config.load import is_secret, sections
from fks.config.runtime import CHANGEABLE, changed, check_key, checked, concerned, difference, overlay, plain
from fks.config.settings import Settings
from fks.model.errors import ConfigError, InputError

FILES = Settings(home=Path("/nowhere"))
CHILDREN = ("guardian", "orders", "collector:binance", "strategy:0", "strategy:solo:a", "scheduler", "monitor")


def test_every_key_exists_and_none_is_a_secret() -> None:
    for key in CHANGEABLE:
        section, _, name = key.partition(".")
        assert name in sections()[section].model_fields, key
        assert not is_secret(section, name), key


def test_what_must_not_change_under_a_running_system_cannot() -> None:
    for key in (
        "venue.live",
        "venue.api_key",
        "venue.exchange",
        "supervision.lease_ttl_s",
        "supervision.lease_renew_s",
        "http.host",
        "http.port",
        "database.url",
        "sim.seed",
        "data.exchange",
        "strategies.workers_per_node",
    ):
        with pytest.raises(InputError) as found:
            check_key(key)
        assert found.value.code == "CONFIG_KEY"
        assert "fks.toml" in found.value.remedy


def test_typo_gets_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"did you mean risk\.notional_max_order"):
        check_key("risk.notional_max_ordr")
    with pytest.raises(InputError, match="fks assets"):
        check_key("data.symbols")


def test_text_of_a_command_line_becomes_what_the_setting_is() -> None:
    kept = checked(
        FILES, {"risk.notional_max_order": "5000", "venue.poll_delays_s": "1, 2.5", "http.replicas": "3"}, []
    )
    assert kept == {"risk.notional_max_order": "5000", "venue.poll_delays_s": [1.0, 2.5], "http.replicas": 3}
    over = overlay(FILES, kept, "version 1")
    assert over.risk.notional_max_order == Decimal(5000)
    assert over.venue.poll_delays_s == (1.0, 2.5)
    assert over.http.replicas == 3
    assert over.risk.orders_open_max == FILES.risk.orders_open_max
    assert FILES.risk.notional_max_order == Decimal(50000), "the files are not touched"


def test_values_that_fit_alone_and_not_together_are_refused() -> None:
    with pytest.raises(InputError) as found:
        checked(FILES, {"data.stale_min_s": 500}, ["data.stale_min_s"])
    assert found.value.code == "CONFIG_WRONG"
    assert "data.stale_max_s" in str(found.value)
    assert checked(FILES, {"data.stale_min_s": 500, "data.stale_max_s": 900}, [])


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as found:
        overlay(FILES, {"risk.orders_open_max": "many", "venue.sweep_s": -1, "log.level": "LOUD"}, "version 4")
    for key in ("risk.orders_open_max", "venue.sweep_s", "log.level", "version 4"):
        assert key in str(found.value)


def test_a_key_that_this_build_does_not_know_is_left_out() -> None:
    """A version made by a newer build must not keep an older one from starting: that is where a rollback leads."""
    assert overlay(FILES, {"risk.of_tomorrow": 1, "venue.sweep_s": 9}, "version 9").venue.sweep_s == 9.0
    assert checked(FILES, {"risk.of_tomorrow": 1}, []) == {}


def test_restart_order_of_concerned_components() -> None:
    assert concerned(["venue.sweep_s"], CHILDREN) == ["guardian", "orders"]
    assert concerned(["data.stale_min_s", "risk.orders_open_max"], CHILDREN) == ["orders", "collector:binance"]
    assert concerned(["log.level"], CHILDREN) == [*CHILDREN, "supervisor", "gateway"]
    assert concerned(["supervision.misses_max"], CHILDREN) == ["supervisor"]
    assert concerned([], CHILDREN) == []


_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "risk.notional_max_order": st.decimals("0.01", "1e9", places=2),
    "risk.orders_open_max": st.integers(1, 10_000),
    "venue.sweep_s": st.floats(0.1, 1e6),
    "http.cors_origins": st.lists(st.sampled_from(["https://a.example", "https://b.example"]), unique=True),
    "log.level": st.sampled_from(["DEBUG", "INFO", "WARNING", "ERROR"]),
}
_CHANGES = st.fixed_dictionaries({}, optional=_VALUES)


@given(_CHANGES, _CHANGES)
def test_what_is_kept_reads_back_as_itself(first: dict[str, Any], second: dict[str, Any]) -> None:
    base = checked(FILES, first, first)
    after = checked(FILES, changed(base, second), second)
    over = overlay(FILES, after, "version 2")
    assert {key: plain(over, key) for key in after} == after
    assert set(difference(base, after)) <= set(second)
    undone = difference(after, base)
    assert {key: change["to"] for key, change in undone.items()} == {key: base.get(key) for key in undone}
    assert changed(after, {}, list(after)) == {}
