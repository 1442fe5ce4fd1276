"""Checks across several settings: each is valid alone, and they are wrong together, or dangerous."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

from pydantic import SecretStr

from fks.config.paths import Paths
from fks.config.problems import ValueSource, WrongSetting, did_you_mean
from fks.config.settings import Settings
from fks.config.urls import (
    database_faults,
    is_loopback,
    is_network,
    is_on_this_host,
    is_test_host,
    plaintext_host,
    redis_faults,
)
from fks.model.account import AT_EXCHANGE, VenueName
from fks.model.copies import is_ninja
from fks.model.errors import InputError
from fks.model.timeframe import TIMEFRAMES, check_together

Sources = Mapping[tuple[str, str], ValueSource]
_SYMBOL = re.compile(r"[A-Z0-9]{2,20}([._:][A-Z0-9]+)?")


def problems_of(settings: Settings, sources: Sources) -> list[WrongSetting]:
    """Return every problem of settings whose keys are fine one by one."""
    return [
        *_network(settings, sources),
        *_plaintext(settings, sources),
        *_ports(settings, sources),
        *_order(settings, sources),
        *_market(settings, sources),
        *_money(settings, sources),
    ]


def _at(sources: Sources, name: str) -> ValueSource | None:
    section, _, key = name.partition(".")
    return sources.get((section, key))


def _network(settings: Settings, sources: Sources) -> Iterator[WrongSetting]:
    http = settings.http
    # behind_proxy without trusted_proxies stops nothing here: the gateway then answers this host alone
    if not is_on_this_host(http.host) and not http.behind_proxy and http.tls_cert is None:
        yield WrongSetting(
            f"http.host = {http.host!r}",
            _at(sources, "http.host"),
            "anyone on the network could read the tokens on their way",
            "use 127.0.0.1, or set http.tls_cert and http.tls_key, or put a TLS proxy in front and set "
            "http.behind_proxy = true and http.trusted_proxies to its address",
        )
    if (http.tls_cert is None) != (http.tls_key is None):
        given = "http.tls_cert" if http.tls_cert else "http.tls_key"
        yield WrongSetting(
            given, _at(sources, given), "comes without its other half", "set http.tls_cert and http.tls_key"
        )
    for name, file in (("http.tls_cert", http.tls_cert), ("http.tls_key", http.tls_key)):
        if settings.node.role == "worker":
            break  # it reports them in its row: without them it works all the same, and the gateway stays on the head
        if file is not None and (fault := file_fault(file, is_private=name == "http.tls_key")):
            yield WrongSetting(f"{name} = {str(file)!r}", _at(sources, name), *fault)
    for network in http.trusted_proxies:
        if not is_network(network):
            yield WrongSetting(
                f"http.trusted_proxies: {network!r}",
                _at(sources, "http.trusted_proxies"),
                "is no address and no network",
                "write 10.0.0.5 or 10.0.0.0/24",
            )
    if "*" in http.cors_origins:
        yield WrongSetting(
            "http.cors_origins = '*'",
            _at(sources, "http.cors_origins"),
            "any page could trade",
            "name the origins: https://HOST",
        )
    for name, secret, faults in (
        ("database.url", settings.database.url, database_faults),
        ("redis.url", settings.redis.url, redis_faults),
    ):
        for text, remedy in faults(secret.get_secret_value()) if secret else []:
            yield WrongSetting(name, _at(sources, name), text, remedy)


def _plaintext(settings: Settings, sources: Sources) -> Iterator[WrongSetting]:
    """Yield addresses at which a key would cross a network in the clear: of data and chat. Those of the venue are
    checked when the database is there (`venue_plaintext`): a position that is open must still be closed."""
    data, chat = settings.data, settings.chat

    def key_of(exchange: str) -> SecretStr | None:
        return getattr(data, f"{exchange}_api_key", None)  # most exchanges give market data without one

    lines = [line.split() for line in data.endpoints]
    for name, secret, urls in (
        ("data.rest_url", key_of(data.exchange), (data.rest_url,)),
        ("data.ws_url", key_of(data.exchange), (data.ws_url,)),
        *(("data.endpoints", key_of(line[0]), tuple(line[1:])) for line in lines if line),
        ("chat.telegram_url", chat.telegram_token, (chat.telegram_url,)),
        ("chat.discord_url", chat.discord_token, (chat.discord_url,)),
    ):
        for url in urls if secret is not None else ():
            if host := plaintext_host(url, settings.node.plain_http_hosts):
                yield _in_the_clear(name, host, sources)


def venue_plaintext(settings: Settings, sources: Sources | None = None) -> list[WrongSetting]:
    """Return the addresses in [venue] at which its key and orders would cross a network in the clear. `settings`: those
    of the venue (`Settings.at`)."""
    venue = settings.venue
    if not venue.api_key and venue.exchange not in settings.venues.names:  # the keys of those are stored
        return []
    named = {"rest_url": venue.rest_url, "ws_url": venue.ws_url, "ws_api_url": venue.ws_api_url}
    hosts = {name: plaintext_host(url, settings.node.plain_http_hosts) for name, url in named.items()}
    is_further = venue.exchange in settings.venues.names
    keys = {name: "venues.exchanges" if is_further else f"venue.{name}" for name in named}
    return [_in_the_clear(keys[name], host, sources or {}) for name, host in hosts.items() if host]


def _in_the_clear(name: str, host: str, sources: Sources) -> WrongSetting:
    return WrongSetting(
        name,
        _at(sources, name),
        f"sends a key to {host} without TLS, where anyone on the way can read it",
        f'use https:// (wss://), or add plain_http_hosts = ["{host}"] to [node] if the way there is private',
    )


def file_fault(file: Path, *, is_private: bool) -> tuple[str, str] | None:
    """Return (what is wrong, remedy) of a certificate's or key's file; None when it can be used."""
    if not os.access(file, os.R_OK) or not file.is_file():  # in this order: a closed folder makes is_file raise
        return "is no file that this user can read", "name a PEM file"
    if is_private and file.stat().st_mode & 0o077:
        return "can be read by others", f"run 'chmod 600 {file}'"
    return None


def _ports(settings: Settings, sources: Sources) -> Iterator[WrongSetting]:
    taken: dict[int, str] = {}
    for section, model in (("http", settings.http), ("ray", settings.ray), ("sim", settings.sim)):
        for key, value in model:
            if not key.endswith("port") or not value:
                continue
            name, other = f"{section}.{key}", taken.setdefault(value, f"{section}.{key}")
            if other != name:
                name, other = (name, other) if _at(sources, name) else (other, name)  # name the setting that was set
                yield WrongSetting(
                    f"{name} = {value}", _at(sources, name), f"{other} has that port", "give each its own, or 0"
                )
    low, high = settings.ray.worker_port_min, settings.ray.worker_port_max
    if (low == 0) != (high == 0) or low > high:
        yield WrongSetting(
            f"ray.worker_port_min..max = {low}..{high}",
            _at(sources, "ray.worker_port_min") or _at(sources, "ray.worker_port_max"),
            "is no range",
            "set both, the lower first, or neither",
        )


#: (smaller, larger): the first must not be over the second
_PAIRS = (
    ("database.pool_min", "database.pool_max"),
    ("data.stale_min_s", "data.stale_max_s"),
    ("supervision.lease_renew_s", "supervision.lease_ttl_s"),
    ("supervision.lease_ttl_s", "risk.guardian_age_max_s"),
    ("supervision.backoff_first_s", "supervision.backoff_max_s"),
    ("venue.absent_first_s", "venue.absent_age_s"),
)


def _order(settings: Settings, sources: Sources) -> Iterator[WrongSetting]:
    for small, large in _PAIRS:
        low, high = (getattr(getattr(settings, name.split(".")[0]), name.split(".")[1]) for name in (small, large))
        if low > high:
            where = _at(sources, small) or _at(sources, large)
            yield WrongSetting(
                f"{small} = {low}", where, f"is over {large} = {high}", "lower the first or raise the second"
            )


def _market(settings: Settings, sources: Sources) -> Iterator[WrongSetting]:
    frames = settings.data.timeframes
    unknown = [name for name in frames if name not in TIMEFRAMES]
    for name in unknown:
        hint = did_you_mean(name, TIMEFRAMES) or f"use {' '.join(TIMEFRAMES)}"
        yield WrongSetting(f"data.timeframes: {name!r}", _at(sources, "data.timeframes"), "no such timeframe", hint)
    try:
        check_together(() if unknown else frames)
    except InputError as error:
        where = _at(sources, "data.timeframes")
        yield WrongSetting(f"data.timeframes = {' '.join(frames)}", where, error.message, error.remedy)
    for symbol in settings.data.symbols:
        if not _SYMBOL.fullmatch(symbol):
            yield WrongSetting(
                f"data.symbols: {symbol!r}", _at(sources, "data.symbols"), "is no symbol", "write BTCUSDT or BTC/USDT"
            )
    venue = settings.venue
    if venue.live and not (venue.api_key and venue.api_secret) and settings.is_wanted(AT_EXCHANGE):
        stored = venue.credentials_key_file or Paths.of(settings.home).credentials_key
        if not stored.exists():  # with it the keys may be in the database, which the order manager reads
            yield WrongSetting(
                "venue.live = true",
                _at(sources, "venue.live"),
                "has no keys",
                "store them with 'fks secrets set' while it is false, or set venue.api_key and venue.api_secret",
            )
    further, known = settings.venues.names, {*get_args(VenueName), venue.exchange, *settings.venues.names}
    if venue.exchange in further:
        yield WrongSetting(
            f"venues.exchanges: {venue.exchange}",
            _at(sources, "venues.exchanges"),
            "is venue.exchange, whose venue is ccxt",
            "take it from venues.exchanges, or name another exchange in venue.exchange",
        )
    if wrong := [name for name in settings.venues.enabled if name not in known and not is_ninja(name)]:
        yield WrongSetting(
            f"venues.enabled: {wrong[0]!r}",
            _at(sources, "venues.enabled"),
            "is no venue",
            f"use {', '.join(sorted(known))} or ninja:NAME",
        )
    if (venue.api_key is None) != (venue.api_secret is None):
        given = "venue.api_key" if venue.api_key else "venue.api_secret"
        yield WrongSetting(
            given, _at(sources, given), "comes without its other half", "set venue.api_key and venue.api_secret"
        )


def _money(settings: Settings, sources: Sources) -> Iterator[WrongSetting]:
    """Yield settings that would send orders for real money on prices that are not the real exchange's."""
    venue, data = settings.venue, settings.data
    if not venue.live:
        return
    where = _at(sources, "venue.live")
    if settings.sim.enabled:
        yield WrongSetting(
            "venue.live = true",
            where,
            "sim.enabled is true: orders for real money on the local exchange's prices",
            "set sim.enabled = false (FKS_SIM_ENABLED=false), or venue.live = false",
        )
    if is_test_host(venue.rest_url):
        yield WrongSetting(
            "venue.live = true",
            where,
            f"venue.rest_url {venue.rest_url} is a test network",
            "set venue.live = false for a test network, or unset venue.rest_url",
        )
    named = dict(line.split()[:2] for line in data.endpoints if len(line.split()) > 1)
    for key, url in (("data.rest_url", data.rest_url), ("data.endpoints", named.get(venue.exchange))):
        if url is not None and (is_test_host(url) or (is_loopback(url) and venue.rest_url is None)):
            yield WrongSetting(
                f"{key} = {url!r}",
                _at(sources, key),
                "is no real market, and venue.live is true",
                "unset it: prices and orders come from the same exchange",
            )
