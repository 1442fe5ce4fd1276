"""Several exchanges side by side, by `venues.exchanges`: settings, names and sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from fks.clock import FakeClock
from fks.config.check import problems_of, venue_plaintext
from fks.config.credentials import VenueKey, with_stored_keys
from fks.config.load import load
from fks.config.settings import Mt5, Ninja, Settings, Sim, Venues, VenueSettings
from fks.interfaces.entry.routing import exchange_of
from fks.model.errors import ConfigError
from fks.trading.venues.registry import Making, keyed_names, keyed_venue, limits_of, make_venue
from tests.support.ports import CollectingLog

LOCAL = "http://127.0.0.1:9"
KEY = VenueKey(SecretStr("its-own-key"), SecretStr("its-own-secret"))
OWN = {"api_key": "k", "api_secret": "s", "guardian_api_key": "g", "guardian_api_secret": "t"}


def settings(*lines: str, exchange: str = "binance", **venue: str) -> Settings:
    given = VenueSettings.model_validate({"exchange": exchange, "rest_url": "http://127.0.0.1:1", **OWN, **venue})
    return Settings(sim=Sim(enabled=False), venue=given, venues=Venues(exchanges=lines))


def making(given: Settings) -> Making:
    return Making(settings=given, node=None, clock=FakeClock(), log=CollectingLog())


def test_each_exchange_is_a_venue_with_addresses_of_its_own_and_no_keys_of_another() -> None:
    given = settings(f"kraken {LOCAL}", "coinbase http://127.0.0.1:8 ws://127.0.0.1:8 ws://127.0.0.1:7")
    assert keyed_names(given) == ["ccxt", "kraken", "coinbase"]
    assert given.venues_at_exchanges() == {"ccxt": "binance", "kraken": "kraken", "coinbase": "coinbase"}
    kraken, coinbase = given.at("kraken"), given.at("coinbase")
    assert (kraken.venue.exchange, kraken.venue.rest_url, kraken.venue.ws_url) == ("kraken", LOCAL, None)
    assert (coinbase.venue.ws_url, coinbase.venue.ws_api_url) == ("ws://127.0.0.1:8", "ws://127.0.0.1:7")
    assert all(getattr(of.venue, name) is None for of in (kraken, coinbase) for name in OWN)
    assert [given.at(name) for name in ("ccxt", "paper", "ninja")] == [given] * 3
    assert [exchange_of(name, given) for name in ("ccxt", "kraken", "mt5", "paper", "ninja:a", "bybit")] == [
        "binance", "kraken", "mt5", None, None, "bybit",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="no API key is stored for an account at the venue kraken"):
        make_venue("kraken", making(given))
    keyed = with_stored_keys(kraken, KEY, None)
    made = make_venue("kraken", making(keyed))
    assert (made.name, made.dialect.name, made.config.api_key) == ("kraken", "kraken", "its-own-key")  # type: ignore[attr-defined]
    assert keyed_venue(making(given), keyed, "kraken").name == "kraken"
    assert limits_of(keyed, None) == ("kraken", LOCAL, "its-own-key")


def test_binance_may_be_a_further_exchange() -> None:
    given = settings(f"binance {LOCAL}", exchange="kraken")
    made = make_venue("binance", making(with_stored_keys(given.at("binance"), KEY, None)))
    assert (made.name, made.config.rest_url) == ("binance", LOCAL)  # type: ignore[attr-defined]


def test_the_venue_of_the_configured_exchange_stays_ccxt_by_either_name(tmp_path: Path) -> None:
    given = settings("coinbase", exchange="kraken")
    assert [given.venue_named(name) for name in ("kraken", "ccxt", "coinbase", "paper")] == [
        "ccxt", "ccxt", "coinbase", "paper",
    ]  # fmt: skip
    env = {"FKS_VENUE_EXCHANGE": "kraken", "FKS_VENUES_EXCHANGES": f"coinbase {LOCAL}, binance"}
    found = load(tmp_path, env | {"FKS_VENUES_ENABLED": "kraken,coinbase"}).settings
    assert (found.venues.names, found.enabled_venues) == (("coinbase", "binance"), ("ccxt", "coinbase"))


@pytest.mark.parametrize("line", ["paper", "ccxt", "ninja", "mt5", "Kraken", "", "kraken a b c d"])
def test_a_line_that_names_no_exchange_is_refused(line: str) -> None:
    with pytest.raises(ValidationError):
        Venues(exchanges=(line,))


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"FKS_VENUES_EXCHANGES": "kraken,kraken"}, "twice"),
        ({"FKS_VENUES_EXCHANGES": "kraken", "FKS_VENUE_EXCHANGE": "kraken"}, "whose venue is ccxt"),
        ({"FKS_VENUES_ENABLED": "coinbase"}, "is no venue"),
    ],
)
def test_contradictions_are_refused_at_start(tmp_path: Path, env: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, env)


def test_an_address_without_tls_is_found_though_its_key_is_stored() -> None:
    given = settings("kraken http://far.example")
    assert [wrong.key for wrong in venue_plaintext(given.at("kraken"))] == ["venues.exchanges"]
    assert venue_plaintext(settings(f"kraken {LOCAL}").at("kraken")) == []
    assert venue_plaintext(settings("kraken").at("kraken")) == []


OTHERS: list[dict[str, Any]] = [
    {"venues": Venues(exchanges=("kraken",))},
    {"mt5": Mt5(enabled=True, account_number=12)},
    {"ninja": Ninja(enabled=True, account="Live1")},
]


@pytest.mark.parametrize("other", OTHERS)
def test_real_money_elsewhere_needs_no_key_of_the_first_exchange(other: dict[str, Any], tmp_path: Path) -> None:
    live = {"home": tmp_path, "sim": Sim(enabled=False), "venue": VenueSettings(live=True), **other}

    def faults(given: Settings) -> list[str]:
        return [wrong.text for wrong in problems_of(given, {}) if wrong.key == "venue.live = true"]

    assert not Settings(**live).is_wanted("ccxt")
    assert faults(Settings(**live)) == []
    live["venues"] = Venues(enabled=("binance",), exchanges=live.get("venues", Venues()).exchanges)
    assert Settings(**live).is_wanted("ccxt")
    assert faults(Settings(**live)) == ["has no keys"]


def test_a_venue_that_is_enabled_or_the_only_one_is_wanted_without_keys() -> None:
    live: dict[str, Any] = {"sim": Sim(enabled=False), "venue": VenueSettings(live=True)}
    assert Settings(**live).is_wanted("ccxt")
    listed = Settings(**live, venues=Venues(exchanges=("kraken", "coinbase"), enabled=("kraken",)))
    assert [name for name in keyed_names(listed) if listed.is_wanted(name)] == ["kraken"]
    assert Settings(venues=Venues(exchanges=("kraken",), enabled=("kraken",))).is_wanted("ccxt"), "the local exchange"
