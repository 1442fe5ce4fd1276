"""The group of NinjaTrader whose bridge gives prices."""

from __future__ import annotations

import pytest

from fks.config.settings import Ninja, NinjaGroup
from fks.model.errors import ConfigError

A, B = NinjaGroup(port=8081), NinjaGroup(port=8082)


@pytest.mark.parametrize(
    ("ninja", "name", "port"),
    [
        (Ninja(port=9000), "sim", 9000),
        (Ninja(enabled=True, group="mine", port=9000), "mine", 9000),
        (Ninja(groups={"a": A}), "a", 8081),
        (Ninja(groups={"a": A, "b": NinjaGroup(port=8082, enabled=False)}), "a", 8081),
        (Ninja(groups={"a": A, "b": B}, prices="b"), "b", 8082),
        (Ninja(enabled=True, port=9000, groups={"a": A}, prices="sim"), "sim", 9000),
    ],
)
def test_prices_come_from_the_named_or_the_only_group(ninja: Ninja, name: str, port: int) -> None:
    found, group = ninja.prices_group()
    assert (found, group.port) == (name, port)


@pytest.mark.parametrize(
    "ninja",
    [
        Ninja(groups={"a": A, "b": B}),
        Ninja(enabled=True, groups={"a": A}),
        Ninja(groups={"a": A}, prices="sim"),
        Ninja(prices="b"),
    ],
)
def test_several_groups_and_none_named_is_the_operators_fault(ninja: Ninja) -> None:
    with pytest.raises(ConfigError, match=r"ninja\.prices"):
        ninja.prices_group()
