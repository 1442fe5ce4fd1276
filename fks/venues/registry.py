"""The table of venues by name, and where each one's addresses and keys come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr

from fks.clock import Clock
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Settings
from fks.config.urls import is_loopback, is_test_host
from fks.matching import CostModel
from fks.model.errors import ConfigError, OutageError
from fks.model.ports import Log, Venue, VenueBudget, VenueCapabilities
from fks.venues.binance.config import SessionConfig
from fks.venues.ninja.rows import VenueRows
from fks.venues.paper import PaperVenue

if TYPE_CHECKING:
    from fks.venues.ccxt.dialect import VenueFact

#: the exchange that the local exchange of `fks up` plays
SIMULATED = "binance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """Services and options that venues are made from. `node` is None when only settings are known.

    `account_id` goes into fill ids. `role`: the process that the session is for. `may_send` is asked right before the
    bytes of every send and cancel leave (None: they always may; the order manager passes its lease, the guardian has
    none), `may_protect` where they open no position (None: as `may_send`). `budget`: the rate limits, shared with other
    processes (None: only the venue's own Retry-After counts). `ninja`: the rows that the venues at NinjaTrader share
    with their link.
    """

    settings: Settings
    node: NodeEndpoints | None
    clock: Clock
    log: Log
    account_id: int = 0
    role: Literal["orders", "guardian"] = "orders"
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


def make_venues(role: Literal["orders", "guardian"], making: Making) -> dict[str, Venue]:
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
    making = replace(making, role=role, paper_mode="bar" if settings.sim.fills == "tape" else "last")
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
        return _by_dialect(making)
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


def _by_dialect(making: Making) -> Venue:
    """Make a session at an exchange whose API is a dialect (`fks.venues.ccxt.dialects`)."""
    from fks.venues.ccxt import dialects

    wanted = making.settings.venue
    if wanted.exchange not in dialects.NAMES:
        known = ", ".join(("binance", *dialects.NAMES))
        raise ConfigError(f"venue.exchange {wanted.exchange!r} is not supported", remedy=f"use one of {known}")
    spoken = dialects.dialect(wanted.exchange)
    if spoken.reads is None:
        raise ConfigError(
            f"venue.exchange {wanted.exchange!r}: its dialect is tested on recorded bodies only, and not traded",
            remedy="set it to an exchange that 'fks venues list' shows as tradable",
        )
    from fks.venues.ccxt.dialect_venue import DialectVenue

    config = SessionConfig(
        account_id=making.account_id,
        exchange=wanted.exchange,
        order_timeout_s=wanted.order_timeout_s,
        read_timeout_s=wanted.order_timeout_s,
        **_addresses(making),
    )
    return DialectVenue(spoken, config, making.clock, making.log, making.may_send, making.budget, making.may_protect)


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


@dataclass(frozen=True, slots=True)
class VenueListing:
    """One way to send orders. `name` is the venue's in tables; `exchange` is "" where the venue is no exchange."""

    name: str
    exchange: str
    session: str
    is_tradable: bool
    capabilities: VenueCapabilities
    facts: tuple[VenueFact, ...] = ()


def listed_venues() -> list[VenueListing]:
    """Return every way to send orders that FKS knows, those that are not traded yet included."""
    from fks.venues.binance.session import BinanceVenue
    from fks.venues.ccxt import CcxtVenue, dialects
    from fks.venues.ccxt.dialect import Basis, VenueFact
    from fks.venues.ninja.venue import CAPABILITIES

    run = VenueFact("outcomes", "each row of the table of outcomes is provoked in tests", Basis.STAND_IN)
    found = [
        VenueListing("paper", "", "in the order manager", True, PaperVenue.capabilities),
        VenueListing("ccxt", "binance", "binance", True, BinanceVenue.capabilities, (run,)),
        VenueListing("ccxt", "binance", "ccxt", True, CcxtVenue.capabilities, (run,)),
    ]
    for spoken in map(dialects.dialect, dialects.NAMES):
        is_tradable = spoken.reads is not None
        found.append(VenueListing("ccxt", spoken.name, "ccxt", is_tradable, spoken.capabilities, spoken.facts))
    return [*found, VenueListing("ninja", "ninja", "link", True, CAPABILITIES, (run,))]


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
    key, secret = _keys(making)
    sim = making.node.sim if making.node is not None and wanted.exchange == SIMULATED else None
    if wanted.live and settings.sim.enabled:
        raise ConfigError(
            "venue.live is true while sim.enabled is true: orders for real money on the local exchange's prices",
            remedy="set sim.enabled = false (FKS_SIM_ENABLED=false), or venue.live = false",
        )
    if wanted.rest_url is None and settings.sim.enabled:
        if wanted.exchange != SIMULATED:
            raise ConfigError(
                f"venue.exchange is {wanted.exchange!r}, and the local exchange of 'fks up' plays {SIMULATED}",
                remedy="set venue.rest_url to a local one of its kind, or sim.enabled = false with venue.live = true",
            )
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
        names = "BINANCE_API_KEY and BINANCE_API_SECRET" if wanted.exchange == SIMULATED else "them"
        raise ConfigError("venue.api_key and venue.api_secret are not set", remedy=f"set {names}")
    return {
        "rest_url": wanted.rest_url,
        "ws_url": wanted.ws_url,
        "ws_api_url": wanted.ws_api_url,
        "api_key": key,
        "api_secret": secret,
        "is_live": wanted.live,
    }


def _keys(making: Making) -> tuple[str, str]:
    """Return the key and the secret of the session's role. Errors: ConfigError for a guardian without a key of its own
    at an exchange that refuses a nonce behind a later one: two processes with one key refuse each other's requests."""
    wanted = making.settings.venue
    key, secret = _plain(wanted.api_key), _plain(wanted.api_secret)
    own_key, own_secret = _plain(wanted.guardian_api_key), _plain(wanted.guardian_api_secret)
    if making.role != "guardian":
        return key, secret
    if bool(own_key) != bool(own_secret):
        raise ConfigError(
            "venue.guardian_api_key and venue.guardian_api_secret: one is set without the other", remedy="set both"
        )
    if own_key and own_key == key:
        raise ConfigError(
            "venue.guardian_api_key is venue.api_key", remedy="make a second key at the exchange for the guardian"
        )
    from fks.venues.ccxt import dialects

    if not own_key and wanted.exchange in dialects.NAMES and dialects.dialect(wanted.exchange).is_key_exclusive:
        raise ConfigError(
            f"venue.guardian_api_key is not set: at {wanted.exchange} a key serves one process",
            remedy="make a second key there, and set venue.guardian_api_key and venue.guardian_api_secret",
        )
    return (own_key, own_secret) if own_key else (key, secret)


def _plain(value: SecretStr | None) -> str:
    return "" if value is None else value.get_secret_value()


MAKERS: dict[str, Callable[[str, Making], Venue]] = {"paper": _paper, "ccxt": _ccxt, "ninja": _ninja}
