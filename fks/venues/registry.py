"""The table of venues by name, and where each one's addresses and keys come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from pydantic import SecretStr

from fks.clock import Clock
from fks.config.endpoints import Node
from fks.config.lazy_imports import make_lazy
from fks.config.settings import Settings
from fks.config.urls import is_loopback, is_test_host
from fks.matching import CostModel
from fks.model.errors import ConfigError, OutageError
from fks.model.instrument import Instrument
from fks.model.ports import Log, Venue, VenueBudget
from fks.venues.binance.config import SessionConfig
from fks.venues.ninja.rows import Rows
from fks.venues.paper import PaperVenue


@dataclass(frozen=True, slots=True)
class Making:
    """What a venue may be made from. `node` is None when only settings are known."""

    settings: Settings
    node: Node | None
    clock: Clock
    log: Log
    account_id: int = 0
    instruments: tuple[Instrument, ...] = ()
    balances: Mapping[str, Decimal] = field(default_factory=dict)
    paper_mode: Literal["bar", "last"] = "last"
    paper_timeframe: str | None = None
    may_send: Callable[[], bool] | None = None
    budget: VenueBudget | None = None
    ninja: Rows | None = None
    name: str = ""
    may_protect: Callable[[], bool] | None = None


def make_venue(
    name: str,
    *,
    settings: Settings,
    node: Node | None,
    clock: Clock,
    log: Log,
    account_id: int = 0,
    instruments: Iterable[Instrument] = (),
    balances: Mapping[str, Decimal] | None = None,
    paper_mode: Literal["bar", "last"] = "last",
    paper_timeframe: str | None = None,
    may_send: Callable[[], bool] | None = None,
    budget: VenueBudget | None = None,
    ninja: Rows | None = None,
    may_protect: Callable[[], bool] | None = None,
) -> Venue:
    """Make a fresh, unopened venue: one per (venue, account, role), never shared. `account_id` goes into fill ids;
    `may_send` is asked right before the bytes of every send and cancel leave (None: they always may), `may_protect`
    where they open no position (None: as `may_send`). `budget`: the
    rate limits, shared with other processes (None: only the venue's own Retry-After counts). `ninja`: the rows that the
    venue `ninja` shares with its link.

    Errors: ConfigError for an unknown name, missing keys, or a real exchange without `venue.live`; OutageError when
    the local exchange is to be used and does not run.
    """
    try:
        make = MAKERS[name.partition(":")[0]]
    except KeyError:
        raise ConfigError(f"unknown venue {name!r}", remedy=f"use one of {', '.join(MAKERS)}") from None
    return make(
        Making(
            settings,
            node,
            clock,
            log,
            account_id,
            tuple(instruments),
            dict(balances or {}),
            paper_mode,
            paper_timeframe,
            may_send,
            budget,
            ninja,
            name,
            may_protect,
        )
    )


def make_venues(
    *,
    role: str,
    settings: Settings,
    node: Node | None,
    secrets: object = None,
    clock: Clock,
    log: Log,
    account_ids: Mapping[str, int] | None = None,
    may_send: Callable[[], bool] | None = None,
    budget: VenueBudget | None = None,
    ninja: Rows | None = None,
    may_protect: Callable[[], bool] | None = None,
) -> dict[str, Venue]:
    """Make every venue that `role` ("orders" or "guardian") needs under these settings, by name, unopened.

    Paper lives in the order manager's process alone, so the guardian gets none; ccxt is there when the local exchange,
    a venue address or `venue.live` is configured; ninja, for the order manager alone, when `ninja.account` is, and
    ninja:NAME for each table of `ninja.accounts`. With `sim.fills = "tape"` paper fills by the bar rule too (G6).
    `secrets` is taken and not needed: venue keys are settings. `may_send` is the order manager's lease; the guardian
    has none. Errors: as `make_venue`.
    """
    ids = account_ids or {}
    names = [] if role == "guardian" else ["paper"]
    if settings.sim.enabled or settings.venue.rest_url is not None or settings.venue.live:
        names.append("ccxt")
    if role != "guardian":
        names += settings.ninja.sessions()
    mode: Literal["bar", "last"] = "bar" if settings.sim.fills == "tape" else "last"
    return {
        name: make_venue(
            name,
            settings=settings,
            node=node,
            clock=clock,
            log=log,
            account_id=ids.get(name, 0),
            paper_mode=mode,
            may_send=may_send,
            budget=budget,
            ninja=ninja,
            may_protect=may_protect,
        )
        for name in names
    }


def _paper(making: Making) -> Venue:
    costs = CostModel.of(making.settings.costs)
    return PaperVenue(
        making.instruments,
        costs,
        making.balances,
        making.clock,
        account_id=making.account_id,
        mode=making.paper_mode,
        timeframe=making.paper_timeframe,
        price_age_max_s=making.settings.risk.feed_age_max_s if making.settings.paper.fills != "bars" else None,
    )


def _ccxt(making: Making) -> Venue:
    """Make the venue whose name in tables is ccxt. The session is a setting; name and ids are the same for each."""
    wanted = making.settings.venue
    if wanted.exchange != "binance":
        raise ConfigError(f"venue.exchange {wanted.exchange!r} is not supported yet", remedy="set it to binance")
    config = SessionConfig(
        account_id=making.account_id,
        order_timeout_s=wanted.order_timeout_s,
        read_timeout_s=wanted.order_timeout_s,
        recv_window_ms=wanted.recv_window_ms,
        **_addresses(making),
    )
    if wanted.session == "binance":
        from fks.venues.binance.session import BinanceVenue

        return BinanceVenue(config, making.clock, making.log, making.may_send, making.budget, making.may_protect)
    make_lazy("ccxt", "ccxt.async_support", "ccxt.pro")  # before its first import: 50 MB less in every process
    from fks.venues.ccxt import CcxtVenue

    return CcxtVenue(config, making.clock, making.log, making.may_send, making.budget, making.may_protect)


def _ninja(making: Making) -> Venue:
    """Make the venue of one account at NinjaTrader: `ninja`, or `ninja:NAME`."""
    wanted = making.settings.ninja
    traded = wanted.sessions().get(making.name)
    if traded is None or making.ninja is None:
        raise ConfigError(
            f"no account at NinjaTrader is configured for the venue {making.name}",
            remedy="set ninja.account, and ninja.account_group with several",
        )
    from fks.venues.ninja.venue import NinjaConfig, NinjaVenue

    group, account = traded
    # what is waited for ends before the order manager stops waiting for the venue
    timeout_s = min(wanted.links()[group].timeout_s, making.settings.venue.order_timeout_s)
    is_shown = any(rule.venue == making.name and rule.mode == "relay" for rule in wanted.copy_rules())
    config = NinjaConfig(group, account, timeout_s, making.account_id, name=making.name, is_shown=is_shown)
    return NinjaVenue(config, making.ninja, making.clock, making.log, making.may_send)


def limits_of(settings: Settings, node: Node | None) -> tuple[str, str | None, str]:
    """Return what the rate limits of the venue's sessions go by: exchange, REST address (None: its own), API key."""
    wanted = settings.venue
    sim = node.sim if node is not None else None
    if wanted.rest_url is None and settings.sim.enabled and not wanted.live:
        return wanted.exchange, None if sim is None else str(sim["rest"]), "" if sim is None else str(sim["api_key"])
    return wanted.exchange, wanted.rest_url, _plain(wanted.api_key)


def _addresses(making: Making) -> dict[str, Any]:
    """Return URLs and keys: the settings' own, else the local exchange's, else (only live) the real exchange's."""
    settings = making.settings
    wanted = settings.venue
    key, secret = _plain(wanted.api_key), _plain(wanted.api_secret)
    sim = making.node.sim if making.node is not None else None
    if wanted.live and settings.sim.enabled:
        raise ConfigError(
            "venue.live is true while sim.enabled is true: orders for real money on the local exchange's prices",
            remedy="set sim.enabled = false (FKS_SIM_ENABLED=false), or venue.live = false",
        )
    if wanted.rest_url is None and settings.sim.enabled:
        if sim is None:
            raise OutageError("the local exchange does not run", remedy="start it with 'fks up'")
        return {
            "rest_url": sim["rest"],
            "ws_url": sim["ws"],
            "ws_api_url": sim["ws_api"],
            "api_key": sim["api_key"],
            "api_secret": sim["api_secret"],
        }
    is_local = wanted.rest_url is not None and is_loopback(wanted.rest_url)
    is_test = is_test_host(wanted.rest_url)
    if is_test and wanted.live:
        raise ConfigError(
            f"venue.live is true and venue.rest_url {wanted.rest_url} is a test network",
            remedy="set venue.live = false for a test network, or unset venue.rest_url for the real exchange",
        )
    if not is_local and not is_test and not wanted.live:
        raise ConfigError(
            "venue.live is false and the venue is a real exchange",
            remedy="set venue.live = true to trade real money, or sim.enabled = true for the local exchange",
        )
    if is_local and sim is not None and not (key and secret):
        key, secret = sim["api_key"], sim["api_secret"]
    if not (key and secret):
        raise ConfigError(
            "venue.api_key and venue.api_secret are not set", remedy="set BINANCE_API_KEY and BINANCE_API_SECRET"
        )
    return {
        "rest_url": wanted.rest_url,
        "ws_url": wanted.ws_url,
        "ws_api_url": wanted.ws_api_url,
        "api_key": key,
        "api_secret": secret,
        "is_live": wanted.live,
    }


def _plain(value: SecretStr | None) -> str:
    return "" if value is None else value.get_secret_value()


MAKERS: dict[str, Callable[[Making], Venue]] = {"paper": _paper, "ccxt": _ccxt, "ninja": _ninja}
