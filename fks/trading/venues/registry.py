"""The table of venues by name, and where each one's addresses and keys come from."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import SecretStr

from fks.clock import Clock
from fks.config.endpoints import NodeEndpoints
from fks.config.settings import Settings
from fks.config.urls import is_loopback, is_test_host
from fks.model.account import AT_EXCHANGE
from fks.model.errors import ConfigError, OutageError
from fks.model.margin import paper_margin
from fks.model.ninja import MT5, PLATFORMS, platform_of
from fks.model.order import OrderType, TimeInForce
from fks.model.ports import KeyedVenue, Log, Venue, VenueBudget, VenueCapabilities
from fks.trading.matching import CostModel
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.listing import VenueListing, dialect_row
from fks.trading.venues.ninja.rows import VenueRows
from fks.trading.venues.paper import PaperVenue
from fks.trading.venues.plugins import plugin_of, plugin_row

if TYPE_CHECKING:
    from fks.trading.venues.ccxt.dialect import Dialect

#: the exchange that the local exchange of `fks up` plays
SIMULATED = "binance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """Services and options that venues are made from. `node` is None when only settings are known.

    `settings`: those of the venue (`Settings.at`), or of the process. `account_id` goes into fill ids. `role`: the
    process that the session is for. `may_send` is asked right before the bytes of every send and cancel leave (None:
    they always may; the order manager passes its lease, the guardian has none), `may_protect` where they open no
    position (None: as `may_send`). `budget`: the rate limits, shared with other processes (None: only the venue's own
    Retry-After counts). `ninja`: the rows that the venues of platforms share with their link. `is_key_stored`: the keys
    of the settings are stored ones, which are used at the local exchange, too; `is_key_in_use`: orders were sent with
    them before.
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
    is_key_stored: bool = False
    is_key_in_use: bool = False


def make_venue(name: str, making: Making) -> Venue:
    """Make a fresh, unopened venue: one per (venue, account, role), never shared.

    Errors: ConfigError for an unknown name, missing keys, or a real exchange without `venue.live`; OutageError when
    the local exchange is to be used and does not run.
    """
    settings = making.settings
    make = _at_exchange if name in settings.venues.names else MAKERS.get(name.partition(":")[0])
    if make is None:
        known = ", ".join((*MAKERS, *settings.venues.names))
        raise ConfigError(f"unknown venue {name!r}", remedy=f"use one of {known}, or name it in venues.exchanges")
    return make(name, replace(making, settings=settings.at(name)))


def make_venues(
    role: Literal["orders", "guardian"],
    making: Making,
    make: Callable[[str, Making], Venue] = make_venue,
    keyed: Sequence[str] | None = None,
) -> dict[str, Venue]:
    """Make every venue that `role` ("orders" or "guardian") needs under these settings, by name, unopened.

    Paper lives in the order manager's process alone, so the guardian gets none; ccxt is there when the local exchange,
    a venue address or `venue.live` is configured, and each of `venues.exchanges`; ninja, for the order manager alone,
    when `ninja.account` is, and ninja:NAME for each table of `ninja.accounts`; mt5 likewise, when `mt5.account_number`
    is. `keyed`: only these of the venues at exchanges. With `sim.fills = "tape"` paper fills by the bar rule too (G6).
    Errors: as `make_venue`.
    """
    settings = making.settings
    names = [*([] if role == "guardian" else ["paper"]), *(keyed_names(settings) if keyed is None else keyed)]
    if role != "guardian":
        names += [*settings.ninja.sessions(), *settings.mt5.sessions()]
    making = replace(making, role=role, paper_mode="bar" if settings.sim.fills == "tape" else "last")
    return {name: make(name, making) for name in names}


def keyed_names(settings: Settings) -> list[str]:
    """Return the venues at exchanges, which have API keys, in order."""
    is_at_one = settings.sim.enabled or settings.venue.rest_url is not None or settings.venue.live
    return [*([AT_EXCHANGE] if is_at_one else []), *settings.venues.names]


def capabilities_of(settings: Settings) -> VenueCapabilities:
    """Return the capabilities of the venue at an exchange with these settings (`Settings.at`); none at an exchange that
    is not known, or whose plug-in cannot be loaded."""
    wanted = settings.venue
    with suppress(ConfigError):
        if (spoken := _dialect_of(wanted.exchange, settings.venues.plugins)) is not None:
            return spoken.capabilities
    sessions = (one for one in listed_venues() if (one.exchange, one.session) == (wanted.exchange, wanted.session))
    found = next(sessions, None)
    return VenueCapabilities(frozenset(), frozenset()) if found is None else found.capabilities


def keyed_venue(making: Making, settings: Settings, name: str = AT_EXCHANGE) -> KeyedVenue:
    """Make an unopened session of a venue that signs with the stored keys in `settings`, to try them. It sends no order
    and shares no rate limit. Errors: as `make_venue`."""
    tried = replace(
        making, settings=settings, budget=None, may_send=lambda: False, is_key_stored=True, is_key_in_use=False
    )
    tried = replace(tried, may_protect=tried.may_send)
    venue = make_venue(name, tried)
    assert isinstance(venue, KeyedVenue)
    return venue


def _paper(name: str, making: Making) -> Venue:
    costs, rules = CostModel.of(making.settings.costs), making.settings.paper
    margin = paper_margin(rules.margin, can_short=rules.can_short)
    if rules.can_short or (margin is not None and margin.fee_rate):
        costs = replace(costs, fee_in="quote")  # as a backtest of such an account has it
    return PaperVenue(
        (),
        costs,
        {},
        making.clock,
        account_id=making.account_id,
        mode=making.paper_mode,
        margin=margin,
        can_short=rules.can_short,
        price_age_max_s=making.settings.risk.feed_age_max_s if making.settings.paper.fills != "bars" else None,
    )


def _at_exchange(name: str, making: Making) -> Venue:
    """Make a venue at an exchange. The session at Binance is a setting; name and ids are the same for each."""
    wanted = making.settings.venue
    if wanted.exchange != "binance":
        return _by_dialect(name, making)
    config = SessionConfig(
        account_id=making.account_id,
        name=name,
        order_timeout_s=wanted.order_timeout_s,
        read_timeout_s=wanted.order_timeout_s,
        recv_window_ms=wanted.recv_window_ms,
        is_key_in_use=making.is_key_in_use,
        **_addresses(making),
    )
    if wanted.session == "binance":
        from fks.trading.venues.binance.session import BinanceVenue

        return BinanceVenue(config, making.clock, making.log, making.may_send, making.budget, making.may_protect)
    from fks.trading.venues.ccxt import CcxtVenue

    return CcxtVenue(config, making.clock, making.log, making.may_send, making.budget, making.may_protect)


def _by_dialect(name: str, making: Making) -> Venue:
    """Make a session at an exchange whose API is a dialect (`fks.trading.venues.ccxt.dialects`), or a plug-in's."""
    from fks.trading.venues.ccxt import dialects

    wanted, plugins = making.settings.venue, making.settings.venues.plugins
    spoken = _dialect_of(wanted.exchange, plugins)
    if spoken is None:
        known = ", ".join(("binance", *dialects.NAMES, *plugins))
        raise ConfigError(
            f"venue.exchange {wanted.exchange!r} is not supported",
            remedy=f"use one of {known}; a plug-in has to be named in venues.plugins",
        )
    if spoken.reads is None:
        raise ConfigError(
            f"venue.exchange {wanted.exchange!r}: its dialect is tested on recorded bodies only, and not traded",
            remedy="set it to an exchange that 'fks venues list' shows as tradable",
        )
    from fks.trading.venues.ccxt.dialect_venue import DialectVenue

    config = SessionConfig(
        account_id=making.account_id,
        name=name,
        exchange=wanted.exchange,
        order_timeout_s=wanted.order_timeout_s,
        read_timeout_s=wanted.order_timeout_s,
        is_key_in_use=making.is_key_in_use,
        **_addresses(making, spoken.test_hosts),
    )
    try:
        return DialectVenue(
            spoken, config, making.clock, making.log, making.may_send, making.budget, making.may_protect
        )
    except Exception as error:
        if wanted.exchange not in plugins:
            raise
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise ConfigError(
            f"the venue plug-in {wanted.exchange}: its session cannot be made: {reason}",
            remedy="its dialect needs a client, or the name of a class of ccxt (docs/add-a-venue.md)",
        ) from error


def _ninja(name: str, making: Making) -> Venue:
    """Make the venue of one account at a platform with a bridge: `ninja`, `ninja:NAME`, or `mt5`."""
    wanted = making.settings.ninja
    platform = PLATFORMS[name.partition(":")[0]]
    traded = (making.settings.mt5 if platform is MT5 else wanted).sessions().get(name)
    if traded is None or making.ninja is None:
        raise ConfigError(
            f"no account at {platform.title} is configured for the venue {name}",
            remedy="set mt5.enabled and mt5.account_number"
            if platform is MT5
            else "set ninja.account, and ninja.account_group with several",
        )
    from fks.trading.venues.ninja.venue import NinjaConfig, NinjaVenue

    group, account = traded
    # what is waited for ends before the order manager stops waiting for the venue
    timeout_s = min(making.settings.links(platform)[group].timeout_s, making.settings.venue.order_timeout_s)
    is_shown = any(rule.venue == name and rule.mode == "relay" for rule in wanted.copy_rules())
    config = NinjaConfig(group, account, timeout_s, making.account_id, name=name, is_shown=is_shown, platform=platform)
    return NinjaVenue(config, making.ninja, making.clock, making.log, making.may_send)


def ends_order(
    venue: str,
    exchange: str,
    type_: OrderType,
    time_in_force: TimeInForce,
    from_ns: int,
    until_ns: int,
    plugins: Sequence[str] = (),
) -> bool:
    """Return whether the venue ends an order sent at `from_ns` by itself at `until_ns`; else the order manager cancels
    it."""
    if platform_of(venue) is not None:
        return type_ is not OrderType.MARKET
    spoken = None
    if venue in (AT_EXCHANGE, exchange):
        with suppress(ConfigError):
            spoken = _dialect_of(exchange, plugins)
    ends = spoken.ends_order if spoken is not None else None
    return ends is not None and ends(type_, time_in_force, from_ns, until_ns)


def listed_venues(plugins: Sequence[str] = ()) -> list[VenueListing]:
    """Return every way to send orders that FKS knows, those that are not traded yet included, and the plug-ins. One
    that cannot be loaded has its reason as a fact, and is not traded."""
    from fks.trading.venues.binance.session import BinanceVenue
    from fks.trading.venues.ccxt import CcxtVenue, dialects
    from fks.trading.venues.ccxt.dialect import Basis, StandIn, VenueFact
    from fks.trading.venues.ninja.venue import CAPABILITIES

    run = VenueFact("outcomes", "each row of the table of outcomes is provoked in tests", Basis.STAND_IN)
    stand_in = StandIn(symbol="BTCUSDT", place="/api/v3/order", open_orders="")
    found = [
        VenueListing("paper", "", "in the order manager", True, PaperVenue.capabilities),
        VenueListing("ccxt", "binance", "binance", True, BinanceVenue.capabilities, (run,), stand_in=stand_in),
        VenueListing("ccxt", "binance", "ccxt", True, CcxtVenue.capabilities, (run,)),
    ]
    found += [dialect_row(dialects.dialect(name), dialects.stand_in(name)) for name in dialects.NAMES]
    for name in plugins:
        try:
            row = plugin_row(name, plugins)
        except ConfigError as error:
            reason = VenueFact("plug-in", f"{error.message}; {error.remedy}", Basis.DOCUMENTED)
            row = VenueListing("ccxt", name, "ccxt", False, VenueCapabilities(frozenset(), frozenset()), (reason,))
        assert row is not None
        found.append(row)
    return [*found, *(VenueListing(of, of, "link", True, CAPABILITIES, (run,)) for of in PLATFORMS)]


def limits_of(settings: Settings, node: NodeEndpoints | None) -> tuple[str, str | None, str]:
    """Return the keys of the rate limits of a venue's sessions: exchange, REST address (None: its own), API key.
    `settings`: those of the venue (`Settings.at`)."""
    wanted = settings.venue
    sim = node.sim if node is not None else None
    if wanted.rest_url is None and settings.sim.enabled and not wanted.live:
        return wanted.exchange, None if sim is None else str(sim["rest"]), "" if sim is None else str(sim["api_key"])
    return wanted.exchange, wanted.rest_url, _plain(wanted.api_key)


def _addresses(making: Making, test_hosts: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return URLs and keys: the settings' own, else the local exchange's, else (only live) the real exchange's.
    `test_hosts`: further test networks."""
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
                remedy="set venue.rest_url (or its address in venues.exchanges) to a local one of its kind, or "
                "sim.enabled = false with venue.live = true",
            )
        if sim is None:
            raise OutageError("the local exchange does not run", remedy="start it with 'fks up'")
        return {
            "rest_url": sim["rest"],
            "ws_url": sim["ws"],
            "ws_api_url": sim["ws_api"],
            "api_key": key if making.is_key_stored else sim["api_key"],
            "api_secret": secret if making.is_key_stored else sim["api_secret"],
        }
    is_local = wanted.rest_url is not None and is_loopback(wanted.rest_url)
    is_test = is_test_host(wanted.rest_url, test_hosts)
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
        if wanted.exchange in settings.venues.names:
            raise ConfigError(
                f"no API key is stored for an account at the venue {wanted.exchange}",
                remedy=f"run 'fks accounts create NAME --venue {wanted.exchange}' and 'fks secrets set NAME'",
            )
        raise ConfigError(
            "venue.api_key and venue.api_secret are not set",
            remedy=f"run 'fks secrets set', or set {names}",
        )
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
    is_exclusive = is_key_exclusive(wanted.exchange, making.settings.venues.plugins)
    if own_key and own_key == key and (own_secret == secret or is_exclusive):  # an account's wallets share its address
        raise ConfigError(
            "venue.guardian_api_key is venue.api_key", remedy="make a second key at the exchange for the guardian"
        )
    if not own_key and is_exclusive:
        raise ConfigError(
            f"venue.guardian_api_key is not set: at {wanted.exchange} a key serves one process",
            remedy="make a second key there, and run 'fks secrets set ACCOUNT --role guardian', or set "
            "venue.guardian_api_key and venue.guardian_api_secret",
        )
    return (own_key, own_secret) if own_key else (key, secret)


def is_key_exclusive(exchange: str, plugins: Sequence[str] = ()) -> bool:
    """Return whether an API key serves one process there; False for a plug-in that cannot be loaded: it is closed."""
    with suppress(ConfigError):
        spoken = _dialect_of(exchange, plugins)
        return spoken is not None and spoken.is_key_exclusive
    return False


def unproven_plugin(settings: Settings, passes: Container[tuple[str, str, str]]) -> str:
    """Return the plug-in that real money is at stake by (`venue.live`) though its cases have not passed, with its
    version; "" for none. `passes`: exchange, version and digest of each that did."""
    wanted = settings.venue
    if not wanted.live:
        return ""
    try:
        found = plugin_of(wanted.exchange, settings.venues.plugins)
    except ConfigError:
        return wanted.exchange
    if found is None or (found.name, found.version, found.digest) in passes:
        return ""
    return f"{found.name} {found.version}"


def _dialect_of(exchange: str, plugins: Sequence[str]) -> Dialect | None:
    """Return the dialect of an exchange, None for one that has none. Errors: ConfigError for a plug-in that cannot be
    loaded."""
    from fks.trading.venues.ccxt import dialects

    if exchange in dialects.NAMES:
        return dialects.dialect(exchange)
    row = plugin_row(exchange, plugins)
    return None if row is None else row.dialect


def _plain(value: SecretStr | None) -> str:
    return "" if value is None else value.get_secret_value()


#: by the name of the venue; each of `venues.exchanges` is made as `ccxt` is
MAKERS: dict[str, Callable[[str, Making], Venue]] = {
    "paper": _paper,
    AT_EXCHANGE: _at_exchange,
    "ninja": _ninja,
    "mt5": _ninja,
}
