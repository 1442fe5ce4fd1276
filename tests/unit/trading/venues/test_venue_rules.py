"""Rules of venues: whether one takes entries, and the route of an instrument."""

from __future__ import annotations

import pytest

from fks.model.venue import VenueRoute, VenueRule, by_priority, is_enabled, route_of

ROUTES = [
    VenueRoute("*", ("paper",)),
    VenueRoute("BTC*", ("ccxt",)),
    VenueRoute("BTCUSDT", ("ccxt", "paper")),
    VenueRoute("kraken:*", ("ninja",)),
]


@pytest.mark.parametrize(
    ("exchange", "symbol", "pattern"),
    [
        ("binance", "BTCUSDT", "BTCUSDT"),
        ("binance", "BTCEUR", "BTC*"),
        ("binance", "ETHUSDT", "*"),
        ("kraken", "ETHUSDT", "kraken:*"),
        ("", "ETHUSDT", "*"),
    ],
)
def test_the_most_exact_pattern_decides(exchange: str, symbol: str, pattern: str) -> None:
    for routes in (ROUTES, ROUTES[::-1]):
        found = route_of(routes, exchange, symbol)
        assert found is not None
        assert found.pattern == pattern


def test_an_instrument_without_a_pattern_has_no_route() -> None:
    assert route_of(ROUTES[1:], "binance", "ETHUSDT") is None


@pytest.mark.parametrize(
    ("row", "named", "takes"),
    [
        (None, (), True),
        (None, ("paper",), False),
        (None, ("ccxt",), True),
        (True, ("paper",), True),
        (False, (), False),
        (False, ("ccxt",), False),
    ],
)
def test_a_row_decides_before_the_settings(row: bool | None, named: tuple[str, ...], takes: bool) -> None:
    assert is_enabled("ccxt", {"ccxt": VenueRule("ccxt", row)}, named) is takes
    if row is None:
        assert is_enabled("ccxt", {}, named) is takes


def test_settings_that_name_a_venue_name_its_further_accounts() -> None:
    assert is_enabled("ninja:Sim102", {}, ["ninja"])
    assert is_enabled("ninja:Sim102", {}, ["ninja:Sim102"])
    assert not is_enabled("ninja:Sim102", {}, ["ninja:Sim103", "paper"])
    assert not is_enabled("ninja:Sim102", {"ninja:Sim102": VenueRule("ninja:Sim102", False)}, ["ninja"])


def test_the_default_comes_first_then_the_lower_number() -> None:
    rules = [VenueRule("a", priority=5), VenueRule("b", is_default=True, priority=900), VenueRule("c", priority=1)]
    assert by_priority(rules) == ["b", "c", "a"]
