"""The certificate of an exchange or of MetaTrader 5: settings that point at it alone, the person's consent, and the
report."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import paths_of, settings_of
from fks.model.account import Environment
from fks.model.errors import ConfigError, FksError, conflict, invalid, unprocessable
from fks.model.instrument import find_instrument, folded
from fks.model.json_fields import json_fields
from fks.model.timeframe import NS, iso

if TYPE_CHECKING:
    from fks.config.settings import Settings
    from fks.model.ports import Venue
    from fks.trading.venues.certify import SmallestOrder, VenueCertifier
    from fks.trading.venues.conformance import CaseResult
    from fks.trading.venues.listing import VenueListing


def made_certificate(
    ctx: click.Context, row: VenueListing, symbol: str | None, cost_max: Decimal, file: Path | None
) -> dict[str, Any]:
    """Run the cases, write the report and return it.

    Errors: ConfigError, InputError and OutageError before any order is sent.
    """
    from fks.clock import RealClock
    from fks.trading.venues.certify import TEST_NETWORKS, CertifyRig, VenueCertifier

    settings, environment = _target(ctx, row)
    is_asked = row.exchange not in TEST_NETWORKS
    if is_asked:
        _need_a_person(f"{row.exchange} has no test network")
    clock = RealClock()
    started_ns = clock.now_ns()
    sessions = _sessions(settings, environment)
    order = asyncio.run(_smallest(row, settings, sessions, symbol, cost_max))
    rig = CertifyRig(row, clock, sessions, order, environment=environment, started_ns=started_ns)
    certifier = VenueCertifier(rig, _show_case)
    of = order.instrument
    subject = Certified(row.exchange, environment, started_ns, of.symbol, order.quantity, of.base)
    return _certified(ctx, certifier, subject, _question(row.exchange, order, environment) if is_asked else "", file)


def made_mt5_certificate(ctx: click.Context, symbol: str, file: Path | None) -> dict[str, Any]:
    """Run the cases at the agent of MetaTrader 5, write the report and return it.

    Errors: ConfigError, InputError and OutageError before any order is sent.
    """
    from fks.bridge.ninja.session import Identity
    from fks.bridge.ninja_link.check import Address
    from fks.bridge.ninja_link.secret_file import load_secret
    from fks.clock import RealClock
    from fks.interfaces.cli.store import is_running
    from fks.lab.sim.mt5 import COMPANY
    from fks.model.ninja import MT5
    from fks.trading.venues.certify import VenueCertifier
    from fks.trading.venues.ninja.certify import FIRST, OTHERS, Mt5Rig, subject_of

    mt5 = settings_of(ctx).mt5
    if mt5.enabled and is_running(paths_of(ctx)):
        raise conflict("CERTIFY_WHILE_RUNNING", "FKS runs here, with this agent", "end it first: fks down")
    clock = RealClock()
    started_ns = clock.now_ns()
    secret = load_secret(mt5.secret_file, paths_of(ctx).home, mt5.host, MT5)
    identity = Identity(mt5.group, "observe", uuid.uuid4().hex, secret, "fks cli", MT5, mt5.line_mac)
    address = Address(mt5.host, mt5.port, mt5.timeout_s)
    account = None if mt5.account_number is None else str(mt5.account_number)
    found = asyncio.run(subject_of(identity, address, clock, account, symbol))
    if not found.is_demo:
        _need_a_person(f"account {found.account} is no demo account")
    rig = Mt5Rig(identity, address, clock, found, started_ns)
    environment = Environment.TEST if found.is_demo else Environment.LIVE
    if found.platform == f"mt5 {COMPANY}":
        environment = Environment.SIM
    subject = Certified(MT5.name, environment, started_ns, symbol, Decimal(found.lots), "lots")
    question = (
        f"The next cases send orders with REAL MONEY to account {found.account} ({found.platform}): each of "
        f"{subject.quantity} lots of {symbol}, and one that is too large. They are closed again; spread and "
        "commission are paid. Send them?"
    )
    certifier = VenueCertifier(rig, _show_case, FIRST, OTHERS)
    of = {"account": found.account, "platform": found.platform, "agent": found.agent}
    return _certified(ctx, certifier, subject, "" if found.is_demo else question, file, of)


@dataclass(frozen=True, slots=True)
class Certified:
    """The subject of a certificate: where it is made, when, and its orders of a `quantity` in `unit`."""

    exchange: str
    environment: Environment
    started_ns: int
    symbol: str
    quantity: Decimal
    unit: str


def _need_a_person(why: str) -> None:
    if not sys.stdin.isatty():
        detail = f"{why}: a person must confirm orders at a prompt"
        raise invalid("CERTIFY_NEEDS_A_PERSON", detail, "run it in a terminal")


def _certified(
    ctx: click.Context,
    certifier: VenueCertifier,
    subject: Certified,
    question: str,
    file: Path | None,
    of: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run the cases, write the report and return it. `question`: a person confirms it before an order is sent; ""
    where none has to. `of`: further fields of the report."""
    try:
        asyncio.run(certifier.look())
        if question and not certifier.reason and not click.confirm(question, default=False, err=True):
            certifier.reason = "not confirmed"
        asyncio.run(certifier.trade())
    except (KeyboardInterrupt, click.Abort):
        certifier.reason = certifier.reason or "interrupted"
    document = {**_document(subject, certifier), **of}
    at = iso(subject.started_ns // NS * NS).replace(":", "")
    path = file or paths_of(ctx).home / f"certify-{subject.exchange}-{at}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema": "fks.venues.certify/1", **document}, indent=2, default=str) + "\n")
    path.with_suffix(".txt").write_text(document["text"] + "\n")
    return {**document, "file": str(path)}


def note_certificate(ctx: click.Context, document: dict[str, Any]) -> dict[str, Any]:
    """Store a certificate; a report of cases that failed is not one. Return the report with `noted`."""
    from fks.interfaces.cli.store import on_database, opened_store
    from fks.store.venues import VenueStore

    reason = "" if document["is_certified"] else "not certified"
    if not reason:
        passed = [item["case"] for item in document["items"] if item["state"] == "passed"]
        try:
            with opened_store(ctx) as (url, settings, _):
                asyncio.run(
                    on_database(
                        url,
                        lambda db: VenueStore(db).note_pass(
                            document["exchange"], document["release"], "", passed, document["environment"]
                        ),
                        settings.database,
                        application="venues",
                    )
                )
        except FksError as error:
            reason = str(error)
    text = f"{document['text']}\nReport: {document['file']}" + (f"\nNot stored: {reason}" if reason else "")
    return {**document, "text": text, "noted": not reason}


def _target(ctx: click.Context, row: VenueListing) -> tuple[Settings, Environment]:
    """Return settings that reach the exchange of a row alone, and where they point. Errors: ConfigError, InputError."""
    from fks.config.urls import is_loopback, is_test_host
    from fks.interfaces.cli.store import is_running
    from fks.trading.venues.certify import TEST_NETWORKS

    settings = settings_of(ctx)
    wanted = settings.venue
    if wanted.exchange != row.exchange:
        raise ConfigError(
            f"venue.exchange is {wanted.exchange}, and its keys are not those of {row.exchange}",
            remedy=f"set FKS_VENUE_EXCHANGE={row.exchange}, FKS_VENUE_API_KEY and FKS_VENUE_API_SECRET",
        )
    if wanted.api_key is None or wanted.api_secret is None:
        raise ConfigError(
            f"no key of {row.exchange} is set: a certificate uses no stored one",
            remedy="set FKS_VENUE_API_KEY and FKS_VENUE_API_SECRET for this command",
        )
    network = TEST_NETWORKS.get(row.exchange)
    if network is not None and wanted.live:
        raise ConfigError(
            f"venue.live is true, and {row.exchange} is certified on its test network",
            remedy="set FKS_VENUE_LIVE=false and the keys of the test network",
        )
    if (wanted.live or wanted.rest_url is not None) and is_running(paths_of(ctx)):
        raise conflict("CERTIFY_WHILE_RUNNING", "FKS runs here, with this account", "end it first: fks down")
    rest_url = wanted.rest_url or network
    test_hosts = row.dialect.test_hosts if row.dialect is not None else frozenset[str]()
    environment = Environment.TEST if is_test_host(rest_url, test_hosts) else Environment.LIVE
    if rest_url is not None and is_loopback(rest_url):
        environment = Environment.SIM
    if network is not None and environment is Environment.LIVE:
        raise ConfigError(f"venue.rest_url {rest_url} is no test network", remedy=f"unset it, or set {network}")
    venue = wanted.model_copy(update={"rest_url": rest_url, "live": environment is Environment.LIVE})
    sim = settings.sim.model_copy(update={"enabled": False})
    data = settings.data
    if rest_url is not None:
        line = f"{row.exchange} {rest_url} {rest_url.replace('http', 'ws', 1)}"
        data = data.model_copy(update={"rest_url": None, "ws_url": None, "endpoints": (line,)})
    return settings.model_copy(update={"venue": venue, "sim": sim, "data": data}), environment


def _sessions(settings: Settings, environment: Environment) -> Callable[[bool], Venue]:
    """Return the maker of sessions, with the guardian's key or not, which keep the exchange's rate limit together; at a
    local exchange they keep none. Errors: ConfigError, before any case."""
    from fks.clock import RealClock
    from fks.market.exchanges.registry import rate_limits_of
    from fks.market.tape.player import discarding_log
    from fks.trading.venues.certify import PACES, PacedBudget
    from fks.trading.venues.conformance import CasePace
    from fks.trading.venues.registry import Making, make_venue

    clock, exchange = RealClock(), settings.venue.exchange
    is_paced = PACES[environment] != CasePace()
    budget = PacedBudget(clock, rate_limits_of(settings, exchange).requests) if is_paced else None
    making = Making(settings=settings, node=None, clock=clock, log=discarding_log(), budget=budget)
    make_venue("ccxt", making)
    own = settings.venue.guardian_api_key is not None
    return lambda is_guardian: make_venue("ccxt", replace(making, role=_role(is_guardian and own)))


def _role(is_guardian: bool) -> Any:
    return "guardian" if is_guardian else "orders"


async def _smallest(
    row: VenueListing,
    settings: Settings,
    sessions: Callable[[bool], Venue],
    symbol: str | None,
    cost_max: Decimal,
) -> SmallestOrder:
    from fks.clock import RealClock
    from fks.market.exchanges.registry import make_exchange
    from fks.market.tape.player import discarding_log
    from fks.trading.venues.certify import smallest_order

    assert row.stand_in is not None, "checked by the command"
    wanted = symbol or row.stand_in.symbol
    exchange = make_exchange(row.exchange, settings=settings, node=None, clock=RealClock(), log=discarding_log())
    venue = sessions(False)
    try:
        await exchange.open()
        listed = [
            item for item in await exchange.instruments() if folded(wanted) in map(folded, (item.symbol, item.name))
        ]
        if not listed:
            raise unprocessable("CERTIFY_NOT_TRADED", f"{row.exchange} lists no {wanted}", "choose another --symbol")
        instrument = find_instrument(wanted, listed)
        await venue.open()
        price = await venue.last_price(instrument.symbol) or Decimal(0)
    finally:
        await venue.close()
        await exchange.close()
    return smallest_order(instrument, price, cost_max, is_fee_received=row.capabilities.fee_in_received_asset)


def _question(exchange: str, order: SmallestOrder, environment: Environment) -> str:
    of = order.instrument
    money = "real money" if environment is Environment.LIVE else "money of a local exchange"
    return (
        f"The next cases send orders at {exchange} with {money}: each of {order.quantity} {of.base}, about "
        f"{order.cost:.2f} {of.quote}, and one that is too large to be paid. What they buy is sold again; fees are "
        "paid. Send them?"
    )


def _show_case(result: CaseResult) -> None:
    click.echo(f"{result.case} {result.state}: {result.rule}" + (f" ({result.detail})" * bool(result.detail)), err=True)


def _document(subject: Certified, certifier: VenueCertifier) -> dict[str, Any]:
    from fks.config.version import installed_version

    items = [json_fields(one, "case", "rule", "state", "detail") for one in certifier.results]
    found = {
        "exchange": subject.exchange,
        "environment": subject.environment.value,
        "release": installed_version(),
        "started_at": iso(subject.started_ns // NS * NS),
        "symbol": subject.symbol,
        "quantity": format(subject.quantity, "f"),
        "is_certified": certifier.is_certified,
        "left": list(certifier.left),
        "dust": format(certifier.dust, "f"),
        "items": items,
    }
    head = "certified" if certifier.is_certified else "NOT certified"
    lines = [
        f"{subject.exchange} ({found['environment']}): {head} by FKS {found['release']}, {found['started_at']}, "
        f"orders of {found['quantity']} {subject.unit} in {subject.symbol}",
        *(f"{item['case']}  {item['state']:<14}  {item['rule']}  {item['detail']}".rstrip() for item in items),
    ]
    lines += [f"LEFT at the exchange: {text}" for text in certifier.left] or ["nothing is left open"]
    if certifier.dust:
        lines.append(f"bought and too little to be sold, before fees: {certifier.dust:f} {subject.unit}")
    return {**found, "text": "\n".join(lines)}
