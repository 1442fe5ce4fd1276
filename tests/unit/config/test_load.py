"""Settings: precedence of sources, refused values, and the messages about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.config.check import venue_plaintext
from fks.config.load import LoadedSettings, config_hash, env_name, load, sections
from fks.config.urls import database_faults, is_on_this_host, redis_faults
from fks.model.errors import ConfigError
from fks.model.ports import VenueCapabilities
from fks.trading.order_manager.cache import OrderCache, VenueStatus


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / ".fks"
    folder.mkdir()
    return folder


def _load(home: Path, env: Mapping[str, str] | None = None, toml: str = "", dotenv: str = "") -> LoadedSettings:
    if toml:
        (home / "fks.toml").write_text(toml)
    if dotenv:
        (home / ".env").write_text(dotenv)
        (home / ".env").chmod(0o600)
    return load(home, env or {})


def _refused(home: Path, env: Mapping[str, str] | None = None, toml: str = "", dotenv: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        _load(home, env, toml, dotenv)
    return str(caught.value)


def test_without_any_file_everything_is_default(home: Path) -> None:
    loaded = _load(home)
    assert loaded.settings.http.port == 8000
    assert loaded.settings.home == home
    assert loaded.sources == {}


def test_the_environment_beats_the_owners_name_beats_the_file(home: Path) -> None:
    toml = '[venue]\napi_key = "from-toml"\napi_secret = "s"\n[http]\nport = 8100\n'
    assert _key(_load(home, toml=toml)) == "from-toml"
    assert _key(_load(home, {"BINANCE_API_KEY": "from-alias"})) == "from-alias"
    assert _key(_load(home, {"FKS_VENUE_API_KEY": "from-fks"})) == "from-fks"
    assert _load(home, {"FKS_HTTP_PORT": "8200"}).settings.http.port == 8200


def _key(loaded: LoadedSettings) -> str:
    assert loaded.settings.venue.api_key is not None
    return loaded.settings.venue.api_key.get_secret_value()


def test_two_names_with_different_values_are_refused_and_both_named(home: Path) -> None:
    output = _refused(
        home, {"BINANCE_API_KEY": "aaa-value", "FKS_VENUE_API_KEY": "bbb-value", "BINANCE_API_SECRET": "s"}
    )
    assert "BINANCE_API_KEY" in output
    assert "FKS_VENUE_API_KEY" in output
    assert "aaa-value" not in output
    assert "bbb-value" not in output


def test_two_names_with_the_same_value_are_fine(home: Path) -> None:
    env = {"BINANCE_API_KEY": "same", "FKS_VENUE_API_KEY": "same", "BINANCE_API_SECRET": "s"}
    assert _key(_load(home, env)) == "same"


def test_every_wrong_setting_is_named_at_once_with_its_place(home: Path) -> None:
    toml = '[http]\nport = 99999\nprot = 1\n\n[colector]\nx = 1\n\n[risk]\norders_open_max = "many"\n'
    output = _refused(home, {"FKS_DATA_SYMBOL": "BTCUSDT"}, toml)
    assert "4 settings" not in output
    assert "5 settings are wrong" in output
    assert "http.port = 99999 (fks.toml:2)" in output
    assert "http.prot (fks.toml:3): no such key; did you mean port?" in output
    assert "[colector] (fks.toml:5): no such section" in output
    assert "risk.orders_open_max = 'many' (fks.toml:9)" in output
    assert "FKS_DATA_SYMBOL (env FKS_DATA_SYMBOL): no such setting; did you mean FKS_DATA_SYMBOLS?" in output


def test_broken_toml_is_one_line_with_its_place(home: Path) -> None:
    output = _refused(home, toml="[http]\nport = eight\n")
    assert "fks.toml" in output
    assert "line 2" in output


@pytest.mark.parametrize("text", ["inf", "-inf", "nan"])
def test_a_number_is_finite(home: Path, text: str) -> None:
    assert "venue.sweep_s" in _refused(home, {"FKS_VENUE_SWEEP_S": text})


def test_a_secret_never_shows_in_an_error(home: Path) -> None:
    output = _refused(
        home,
        {
            "FKS_DATABASE_URL": "postgresql://u:hunter2hunter2@db.example/x",
            "FKS_REDIS_URL": "redis://:hunter2hunter2@cache/0",
        },
    )
    assert "hunter2" not in output
    assert "database.url" in output
    assert "redis.url" in output


def test_an_empty_value_counts_as_not_set(home: Path) -> None:
    assert _load(home, {"FKS_HTTP_PORT": "", "POSTGRES_HOST": ""}).settings.http.port == 8000


def test_dotenv_is_read_and_the_environment_beats_it(home: Path) -> None:
    dotenv = "# comment\nexport FKS_HTTP_PORT='8300'\nFKS_LOG_LEVEL=DEBUG # noisy\n"
    loaded = _load(home, dotenv=dotenv)
    assert loaded.settings.http.port == 8300
    assert loaded.settings.log.level == "DEBUG"
    assert _load(home, {"FKS_HTTP_PORT": "8400"}).settings.http.port == 8400


def test_the_checkouts_dotenv_is_read_whatever_the_working_directory(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home.parent / ".env").write_text("FKS_HTTP_PORT=8500\n")
    monkeypatch.chdir("/")
    assert load(home, {}).settings.http.port == 8500


def test_a_dotenv_with_secrets_that_others_may_read_is_refused(home: Path) -> None:
    (home / ".env").write_text("BINANCE_API_SECRET=abc\nBINANCE_API_KEY=x\n")
    (home / ".env").chmod(0o644)
    output = _refused(home)
    assert "chmod 600" in output
    assert "BINANCE_API_SECRET" in output
    (home / ".env").write_text("FKS_HTTP_PORT=8001\n")
    assert load(home, {}).settings.http.port == 8001


def test_lists_and_decimals_come_from_text(home: Path) -> None:
    env = {
        "FKS_DATA_SYMBOLS": "BTC/USDT, eth-usdt",
        "FKS_VENUE_POLL_DELAYS_S": "0.1,0.2",
        "FKS_COSTS_FEE_RATE": "0.00075",
    }
    settings = _load(home, env).settings
    assert settings.data.symbols == ("BTCUSDT", "ETHUSDT")
    assert settings.venue.poll_delays_s == (0.1, 0.2)
    assert settings.costs.fee_rate == Decimal("0.00075")


def test_mains_and_alts_expand(home: Path) -> None:
    assert _load(home, {"FKS_DATA_SYMBOLS": "MAINS,XRPUSDT"}).settings.data.symbols == ("BTCUSDT", "ETHUSDT", "XRPUSDT")
    assert _load(home, {"MAINS": "BTCUSDT", "ALTS": "SOLUSDT,BTCUSDT"}).settings.data.symbols == ("BTCUSDT", "SOLUSDT")


def test_the_owners_server_names_become_urls(home: Path) -> None:
    env = {
        "POSTGRES_HOST": "127.0.0.1",
        "POSTGRES_PORT": "5433",
        "POSTGRES_DB": "trading",
        "POSTGRES_USER": "me",
        "POSTGRES_PASSWORD": "p@ss/w",
        "REDIS_HOST": "localhost",
        "REDIS_PASSWORD": "q:x",
    }
    settings = _load(home, env).settings
    assert settings.database.url is not None
    assert settings.redis.url is not None
    assert (
        settings.database.url.get_secret_value() == "postgresql://me:p%40ss%2Fw@127.0.0.1:5433/trading?sslmode=disable"
    )
    assert settings.redis.url.get_secret_value() == "redis://:q%3Ax@localhost:6379/0"


def test_off_the_host_the_owners_names_mean_tls(home: Path) -> None:
    env = {
        "POSTGRES_HOST": "db.example",
        "POSTGRES_PASSWORD": "long enough",
        "REDIS_HOST": "cache.example",
        "REDIS_PASSWORD": "long enough",
    }
    settings = _load(home, env).settings
    assert settings.database.url is not None
    assert settings.redis.url is not None
    assert settings.database.url.get_secret_value().endswith("sslmode=require")
    assert settings.redis.url.get_secret_value().startswith("rediss://")
    assert "TLS is required" in _refused(home, {**env, "POSTGRES_SSL_ENABLED": "false"})


@pytest.mark.parametrize("name", ["POSTGRES_PASSWORD", "POSTGRES_DB", "REDIS_PORT"])
def test_a_server_name_without_a_host_is_no_guess(home: Path, name: str) -> None:
    output = _refused(home, {name: "anything"})
    assert name in output
    assert "_HOST" in output
    assert "anything" not in output


def test_the_other_names_of_the_owner_are_taken(home: Path) -> None:
    env = {
        "NINJATRADER_HOST": "10.0.0.5",
        "NINJATRADER_PORT": "8081",
        "NINJATRADER_TIMEOUT": "7",
        "DISCORD_WEBHOOK_URL": "https://d/x",
        "OPENAI_API_KEY": "sk",
        "MT5_TERMINAL_PATH": "C:/mt5",
        "MT5_ACCOUNT_NUMBER": "12",
        "MT5_PASSWORD": "p",
        "MT5_SERVER": "S",
    }
    settings = _load(home, env).settings
    assert (settings.ninja.host, settings.ninja.port, settings.ninja.timeout_s) == ("10.0.0.5", 8081, 7.0)
    assert (settings.mt5.terminal_path, settings.mt5.account_number, settings.mt5.server) == ("C:/mt5", 12, "S")
    assert settings.alerts.discord_webhook_url is not None
    assert settings.ai.openai_api_key is not None


KEYS = {"BINANCE_API_KEY": "k", "BINANCE_API_SECRET": "s"}
OFF = {"FKS_SIM_ENABLED": "false"}


@pytest.mark.parametrize(
    "env",
    [
        {"FKS_CHAT_TELEGRAM_URL": "http://bot.example"},  # no token, so nothing is sent there
        {"FKS_CHAT_TELEGRAM_TOKEN": "t", "FKS_CHAT_TELEGRAM_URL": "http://127.0.0.1:8081"},
        {"FKS_DATA_ENDPOINTS": "kraken http://a.example ws://b.example", "POLYGON_API_KEY": "k"},  # needs no key
        {"FKS_CHAT_TELEGRAM_TOKEN": "t", "FKS_CHAT_TELEGRAM_URL": "http://bot.example", "FKS_NODE_PLAIN_HTTP_HOSTS": "bot.example"},
        {"FKS_CHAT_TELEGRAM_TOKEN": "t", "FKS_CHAT_TELEGRAM_URL": "http://10.0.0.9", "FKS_NODE_PLAIN_HTTP_HOSTS": "10.0.0.0/24"},
    ],
)  # fmt: skip
def test_plain_http_without_a_key_or_to_a_named_host_is_accepted(home: Path, env: dict[str, str]) -> None:
    _load(home, env)


def test_plain_venue_is_found_only_with_a_key_and_off_this_host(home: Path) -> None:
    for env, names in (
        (KEYS | {"FKS_VENUE_REST_URL": "http://gate.example"}, ["venue.rest_url"]),
        (
            KEYS | {"FKS_VENUE_REST_URL": "https://gate.example", "FKS_VENUE_WS_URL": "ws://gate.example"},
            ["venue.ws_url"],
        ),
        ({"FKS_VENUE_REST_URL": "http://gate.example"}, []),
        (KEYS | {"FKS_VENUE_REST_URL": "http://127.0.0.1:1"}, []),
        (KEYS | {"FKS_VENUE_REST_URL": "http://gate.example", "FKS_NODE_PLAIN_HTTP_HOSTS": "gate.example"}, []),
    ):
        loaded = _load(home, env)
        assert [wrong.key for wrong in venue_plaintext(loaded.settings, loaded.sources)] == names
        status = VenueStatus("ccxt", 1, VenueCapabilities(frozenset(), frozenset()))
        cache = OrderCache(loaded.settings, venues={"ccxt": status, "paper": replace(status, name="paper")})
        assert cache.venue_view("ccxt", 0.0).is_plaintext is bool(names)  # entries: VENUE_PLAINTEXT
        assert not cache.venue_view("paper", 0.0).is_plaintext


@pytest.mark.parametrize(
    ("env", "part"),
    [
        ({"FKS_HTTP_HOST": "0.0.0.0"}, "behind_proxy"),
        ({"FKS_HTTP_TRUSTED_PROXIES": "proxy.example"}, "is no address and no network"),
        ({"FKS_HTTP_TLS_CERT": "/nowhere/cert.pem"}, "other half"),
        ({"FKS_HTTP_TLS_CERT": "/nowhere/cert.pem", "FKS_HTTP_TLS_KEY": "/nowhere/key.pem"}, "is no file"),
        ({"FKS_CORS_ORIGINS": "*"}, "any page could trade"),
        (
            {"FKS_CHAT_TELEGRAM_URL": "http://bot.example", "FKS_CHAT_TELEGRAM_TOKEN": "t"},
            "a key to bot.example without",
        ),
        (
            {"FKS_CHAT_DISCORD_URL": "http://10.0.0.9/api", "FKS_CHAT_DISCORD_TOKEN": "t"},
            "a key to 10.0.0.9 without TLS",
        ),
        (
            {"FKS_DATA_ENDPOINTS": "polygon https://a.example ws://b.example", "POLYGON_API_KEY": "k"},
            "b.example without",
        ),
        ({"FKS_DATABASE_POOL_MIN": "9"}, "database.pool_max"),
        ({"FKS_SUPERVISION_LEASE_RENEW_S": "5"}, "lease_ttl_s"),
        ({"FKS_RAY_GCS_PORT": "8265"}, "has that port"),
        ({"FKS_RAY_WORKER_PORT_MIN": "20000"}, "worker_port"),
        ({"FKS_DATA_TIMEFRAMES": "1m,4m"}, "no such timeframe"),
        ({"FKS_DATA_TIMEFRAMES": "3m,2h,2m"}, "3m bars cannot be built from 2m bars"),
        ({"FKS_DATA_SYMBOLS": "BTC USDT"}, "is no symbol"),
        ({"FKS_VENUE_LIVE": "true"}, "has no keys"),
        (
            {"FKS_VENUE_LIVE": "true", **KEYS},
            "sim.enabled is true: orders for real money on the local exchange's prices",
        ),
        (
            {"FKS_VENUE_LIVE": "true", **OFF, **KEYS, "FKS_VENUE_REST_URL": "https://testnet.binance.vision"},
            "is a test network",
        ),
        ({"FKS_DATA_REST_URL": "http://127.0.0.1:9", "FKS_VENUE_LIVE": "true", **OFF, **KEYS}, "is no real market"),
        ({"BINANCE_API_KEY": "k"}, "other half"),
        ({"FKS_SIM_FILLS": "magic"}, "sim.fills"),
        ({"FKS_HTTP_REPLICAS": "0"}, "http.replicas"),
    ],
)
def test_settings_that_are_wrong_together_or_dangerous_are_refused(home: Path, env: dict[str, str], part: str) -> None:
    output = _refused(home, env)
    assert part in output
    assert next(iter(env)) in output


def test_behind_a_proxy_the_gateway_may_face_the_network(home: Path) -> None:
    assert (
        _load(
            home, {"FKS_HTTP_HOST": "0.0.0.0", "FKS_HTTP_BEHIND_PROXY": "true", "FKS_HTTP_TRUSTED_PROXIES": "10.0.0.5"}
        ).settings.http.host
        == "0.0.0.0"
    )


def test_a_proxy_that_is_not_named_stops_nothing(home: Path) -> None:
    found = _load(home, {"FKS_HTTP_HOST": "0.0.0.0", "FKS_HTTP_BEHIND_PROXY": "true"})
    assert found.settings.http.trusted_proxies == (), "the gateway then answers this host alone"


def test_names_of_other_programs_are_left_alone(home: Path) -> None:
    assert (
        _load(home, {"FKS_HOME": "x", "FKS_REQUIRE_ALL": "1", "FKSOMETHING": "1", "FKS_ZEBRA_QUEUE": "1"}).sources == {}
    )


def test_every_setting_has_a_name_in_the_environment_and_a_meaning() -> None:
    names = [env_name(section, key) for section, model in sections().items() for key in model.model_fields]
    assert len(names) == len(set(names))
    for model in sections().values():
        for key, field in model.model_fields.items():
            assert field.description, key


def test_the_hash_changes_with_any_setting_and_shows_no_secret(home: Path) -> None:
    plain, other = _load(home).settings, _load(home, {"FKS_HTTP_PORT": "8001"}).settings
    secret = _load(home, {"OPENAI_API_KEY": "sk-1"}).settings
    again = _load(home, {"OPENAI_API_KEY": "sk-2"}).settings
    assert len({config_hash(settings) for settings in (plain, other, secret, again)}) == 4
    assert config_hash(plain) == config_hash(_load(home).settings)


@given(st.text(max_size=80))
def test_any_url_text_gets_an_answer_and_no_exception(text: str) -> None:
    assert isinstance(database_faults(text), list)
    assert isinstance(redis_faults(text), list)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("postgresql://u:longenough@127.0.0.1/x", ""),
        ("postgresql://u@/x?host=/run/postgresql", ""),
        ("postgresql://u:longenough@db/x?sslmode=verify-full", ""),
        ("postgresql://u:longenough@db/x?sslmode=prefer", "TLS"),
        ("postgresql://u:postgres@localhost/x", "default"),
        ("postgresql://u@localhost/x", "no password"),
        ("postgresql://u:longenough@localhost/", "no database"),
        ("mysql://u:p@localhost/x", "not PostgreSQL"),
    ],
)
def test_database_urls(url: str, part: str) -> None:
    output = "; ".join(f"{text} ({remedy})" for text, remedy in database_faults(url))
    assert part in output
    assert bool(output) == bool(part)


def test_loopback_is_known_without_asking_anyone() -> None:
    for host in ("", "localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]", "/tmp/socket"):
        assert is_on_this_host(host), host
    for host in ("0.0.0.0", "10.0.0.1", "db", "localhost.example.com"):
        assert not is_on_this_host(host), host
