"""The table of venues by name, and where each one's addresses and keys come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import SecretStr

from fks.clock import Clock
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Settings
from fks.config.urls import is_loopback, is_test_host
from fks.matching import CostModel
from fks.model.errors import ConfigError, OutageError
from fks.model.ports import Log, Venue, VenueBudget
from fks.venues.binance.config import SessionConfig
from fks.venues.ninja.rows import VenueRows
from fks.venues.paper import PaperVenue


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """Services and options that venues are made from. `node` is None when only settings are known.

    `account_id` goes into fill ids. `may_send` is asked right before the bytes of every send and cancel leave (None:
    they always may; the order manager passes its lease, the guardian has none), `may_protect` where they open no
    position (None: as `may_send`). `budget`: the rate limits, shared with other processes (None: only the venue's own
    Retry-After counts). `ninja`: the rows that the venues at NinjaTrader share with their link.
    """

    settings: Settings
    node: NodeEndpoints | None
    clock: Clock
    log: Log
    account_id: int = 0
    paper_mode: Literal["bar", "last"] = "last"
    may_send: Callable[[], bool] | None = None
    may_protect: Callable[[], bool] | None = None
    budget: VenueBudget | None = None
    ninja: VenueRows | None = None


def make_venue(name: str, making: Making) -> Venue:
    """Make a fresh, unopened venue: one per (venue, account, role), never shared.

    Errors: ConfigError for an unknown name, missing keys, or a real exchange without `venue.live`; OutageError when
    the local exchange is to be used and does not run.
    """
    try:
        make = MAKERS[name.partition(":")[0]]
    except KeyError:
        raise ConfigError(f"unknown venue {name!r}", remedy=f"use one of {', '.join(MAKERS)}") from None
    return make(name, making)


def make_venues(role: str, making: Making) -> dict[str, Venue]:
    """Make every venue that `role` ("orders" or "guardian") needs under these settings, by name, unopened.

    Paper lives in the order manager's process alone, so the guardian gets none; ccxt is there when the local exchange,
    a venue address or `venue.live` is configured; ninja, for the order manager alone, when `ninja.account` is, and
    ninja:NAME for each table of `ninja.accounts`. With `sim.fills = "tape"` paper fills by the bar rule too (G6).
    Errors: as `make_venue`.
    """
    settings = making.settings
    names = [] if role == "guardian" else ["paper"]
    if settings.sim.enabled or settings.venue.rest_url is not None or settings.venue.live:
        names.append("ccxt")
    if role != "guardian":
        names += settings.ninja.sessions()
    making = replace(making, paper_mode="bar" if settings.sim.fills == "tape" else "last")
    return {name: make_venue(name, making) for name in names}


def _paper(name: str, making: Making) -> Venue:
    costs = CostModel.of(making.settings.costs)
    return PaperVenue(
        (),
        costs,
        {},
        making.clock,
        account_id=making.account_id,
        mode=making.paper_mode,
        price_age_max_s=making.settings.risk.feed_age_max_s if making.settings.paper.fills != "bars" else None,
    )


def _ccxt(name: str, making: Making) -> Venue:
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
    from fks.venues.ccxt import CcxtVenue

    return CcxtVenue(config, making.clock, making.log, making.may_send, making.budget, making.may_protect)


def _ninja(name: str, making: Making) -> Venue:
    """Make the venue of one account at NinjaTrader: `ninja`, or `ninja:NAME`."""
    wanted = making.settings.ninja
    traded = wanted.sessions().get(name)
    if traded is None or making.ninja is None:
        raise ConfigError(
            f"no account at NinjaTrader is configured for the venue {name}",
            remedy="set ninja.account, and ninja.account_group with several",
        )
    from fks.venues.ninja.venue import NinjaConfig, NinjaVenue

    group, account = traded
    # what is waited for ends before the order manager stops waiting for the venue
    timeout_s = min(wanted.links()[group].timeout_s, making.settings.venue.order_timeout_s)
    is_shown = any(rule.venue == name and rule.mode == "relay" for rule in wanted.copy_rules())
    config = NinjaConfig(group, account, timeout_s, making.account_id, name=name, is_shown=is_shown)
    return NinjaVenue(config, making.ninja, making.clock, making.log, making.may_send)


def limits_of(settings: Settings, node: NodeEndpoints | None) -> tuple[str, str | None, str]:
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


MAKERS: dict[str, Callable[[str, Making], Venue]] = {"paper": _paper, "ccxt": _ccxt, "ninja": _ninja}
