"""`fks venues`: the ways to send orders, the sources of the facts that each relies on, and the rules of their use."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from fks.interfaces.cli.base import Columns, NotRunning, as_json, options, result, settings_of, table
from fks.interfaces.cli.client import GatewaySession, gateway_of, gateway_result, path_of
from fks.interfaces.cli.config import set_ as set_settings
from fks.interfaces.cli.config import why
from fks.model.errors import OutageError, not_found
from fks.model.json_fields import json_fields

if TYPE_CHECKING:
    from fks.trading.venues.conformance import CaseResult
    from fks.trading.venues.listing import VenueListing


@click.group()
def venues() -> None:
    """List the ways to send orders; enable, check and route venues."""


def _certified(row: dict[str, Any]) -> str:
    found = row["certificate"]
    return f"{found['at'][:10]} {found['environment']} by {found['release']}" if found else "-"


_USED: Columns = {
    "VENUE": "name",
    "ACCOUNT": lambda row: row["account"] or "-",
    "STATE": "state",
    "ENTRIES": lambda row: "yes" if row["is_enabled"] else "disabled",
    "BY": "enabled_by",
    "DEFAULT": lambda row: "yes" if row["is_default"] else "",
    "PRIORITY": "priority",
    "STAGE": lambda row: row["stage"] or "",
    "VERSION": "version",
    "CERTIFIED": _certified,
    "WHY": "detail",
}
_COLUMNS: Columns = {
    "NAME": "name",
    "EXCHANGE": "exchange",
    "SESSION": "session",
    "PLUG-IN": lambda row: f"{row['plugin']} {row['version']}".strip() or "-",
    "TRADED": lambda row: "yes" if row["is_tradable"] else "no",
    "ORDERS": lambda row: " ".join(row["order_types"]),
    "CAN": lambda row: " ".join(row["can"]),
    "FACTS": lambda row: ", ".join(f"{count} {basis}" for basis, count in row["bases"].items()),
}


def _show(found: dict[str, Any], exchange: str | None) -> None:
    table(found["items"], _COLUMNS)
    if exchange is None:
        if found["venues"] is not None:
            click.echo()
            table(found["venues"], _USED, empty="the order manager has reported no venue yet")
        return
    for row in found["items"]:
        click.echo(f"\n{click.style(row['exchange'] or row['name'], bold=True)} ({row['session']})")
        table(row["facts"], {"FACT": "topic", "SOURCE": "basis", "TEXT": "text"}, empty="no facts of an exchange")


@venues.command("list")
@click.option("--exchange", help="Only one exchange, with its facts: kraken.")
@result("fks.venues/1", _show)
def list_(ctx: click.Context, exchange: str | None) -> Any:
    """List venues with their exchange, session, order types and capabilities; while FKS runs, also those that it has,
    with their state and rules (`venues` of the JSON, null otherwise).

    A venue that is not traded is held to recorded bodies only, and DOWN at a start. The source of a fact is
    documented, recorded, stand-in (tests run it against a server of ours) or live. Plug-ins of venues.plugins are
    loaded; one that cannot be has its reason as a fact (--exchange NAME). CERTIFIED is the last certificate of the
    venue's exchange (fks venues certify): day, network and release of FKS.
    """
    from fks.trading.venues.registry import listed_venues

    plugins = settings_of(ctx).venues.plugins
    rows = [_row(item) for item in listed_venues(plugins) if exchange in (None, item.exchange)]
    used = None
    if exchange is None:
        with suppress(NotRunning, OutageError), gateway_of(ctx) as gateway:
            used = gateway.get("/venues")["items"]
    return {"items": rows, "venues": used}


@venues.command("set")
@click.argument("name")
@options(
    click.option(
        "--enable",
        "is_enabled",
        flag_value=True,
        type=click.UNPROCESSED,
        default=None,
        help="Let it take entries, whatever venues.enabled says.",
    ),
    click.option(
        "--disable",
        "is_enabled",
        flag_value=False,
        type=click.UNPROCESSED,
        help="Deny entries, and cancel those that rest; exits, protection and cancels go on.",
    ),
    click.option(
        "--as-configured",
        "is_enabled",
        flag_value="settings",
        type=click.UNPROCESSED,
        help="Follow the setting venues.enabled again.",
    ),
    click.option("--default/--no-default", "is_default", default=None, help="Take orders that nothing else places."),
    click.option("--priority", type=click.IntRange(0, 1000), help="A lower number goes first; 100 without one."),
    click.option("--version", type=int, help="Change it only if it is still at this version."),
)
@gateway_result("fks.venue/1", lambda row, **_: _said(row))
def set_(gateway: GatewaySession, name: str, version: int | None, **body: Any) -> Any:
    """Enable or disable a venue, make it the default, or change its priority. It counts within a second."""
    path = path_of("venues", name)
    version = gateway.get(path)["version"] if version is None else version
    return gateway.patch(path, {**body, "version": version})


def _said(row: dict[str, Any]) -> str:
    entries = "takes entries" if row["is_enabled"] else "takes no entries"
    default = ", the default" if row["is_default"] else ""
    return f"{row['name']}: {entries} (by {row['enabled_by']}), priority {row['priority']}{default}"


@venues.command()
@click.argument("name")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY VALUE...")
@why
@as_json
@click.pass_context
def configure(ctx: click.Context, name: str, pairs: tuple[str, ...], why: str, as_json: bool) -> None:
    """Change settings of a venue while FKS runs, as 'fks config set' does, which is rolled back where it does not take.

    \b
    fks venues configure kraken sweep_s 30 order_timeout_s 4 --why "a slow venue"

    At an exchange they are those of [venue], which hold for every exchange; keys: 'fks config keys venue'. Keys of an
    account: 'fks secrets'; whether a venue takes entries, the default, the priority: 'fks venues set'.
    """
    from fks.trading.venues.registry import MAKERS

    found = settings_of(ctx)
    section = "venue" if found.venue_named(name) in found.venues_at_exchanges() else name.partition(":")[0]
    if section != "venue" and section not in MAKERS:  # and none of the other sections of the settings
        raise not_found("VENUE_UNKNOWN", f"there is no venue {name}", "use one of 'fks venues list'")
    named = [text if number % 2 else f"{section}.{text}" for number, text in enumerate(pairs)]
    ctx.invoke(set_settings, pairs=tuple(named), why=why, as_json=as_json)


@venues.command()
@click.argument("name", required=False)
@result(
    "fks.venues.check/1",
    _USED,
    empty="the order manager has reported no venue yet",
    failed=lambda found: found["failed"],
)
def check(ctx: click.Context, name: str | None) -> Any:
    """Check that venues are reconciled. Exit code 1 when one that takes entries is not READY."""
    with gateway_of(ctx) as gateway:
        rows = gateway.get("/venues")["items"] if name is None else [gateway.get(path_of("venues", name))]
    return {"items": rows, "failed": [row["name"] for row in rows if row["is_enabled"] and row["state"] != "READY"]}


def _show_cases(found: dict[str, Any], **_: object) -> None:
    table(found["items"], {"CASE": "case", "STATE": "state", "RULE": "rule", "WHY": "detail"})
    if found["noted"]:
        click.echo(f"\n{found['exchange']} {found['version']} may trade with real money (venue.live)")


@venues.command()
@click.argument("name")
@click.option("--case", "cases", multiple=True, help="Only one case, which proves no plug-in: V-02; repeatable.")
@result("fks.venues.conformance/1", _show_cases, failed=lambda found: bool(found["failed"]))
def conformance(ctx: click.Context, name: str, cases: tuple[str, ...]) -> Any:
    """Run the numbered cases of the exchange NAME against a local stand-in. Exit code 1 when one fails.

    They follow from the capabilities that the venue declares. No order leaves this machine. The pass of a plug-in is
    stored with its version and the SHA-256 of its files: from then on it may trade with real money.
    """
    from fks.interfaces.cli.store import on_database, opened_store
    from fks.store.venues import VenueStore
    from fks.trading.venues.conformance import CASES
    from fks.trading.venues.plugins import plugin_row

    if unknown := [case for case in cases if case not in {one.number for one in CASES}]:
        raise click.UsageError(f"there is no case {unknown[0]}; cases: {CASES[0].number} to {CASES[-1].number}")
    plugins = settings_of(ctx).venues.plugins
    row = plugin_row(name, plugins) or _row_with_cases(name)
    if row is None:
        remedy = "use one of 'fks venues list'; a plug-in has to be named in venues.plugins"
        raise not_found("VENUE_UNKNOWN", f"there is no exchange {name}", remedy)
    with TemporaryDirectory(prefix="fks-conformance-") as folder:
        found = asyncio.run(run_against_stand_in(row, Path(folder), cases))
    failed = [one.case for one in found if one.state == "failed"]
    is_noted = bool(row.plugin) and not failed and not cases
    if is_noted:
        passed = [one.case for one in found if one.state == "passed"]
        with opened_store(ctx) as (url, settings, _):
            asyncio.run(
                on_database(
                    url,
                    lambda db: VenueStore(db).note_pass(name, row.version, row.digest, passed),
                    settings.database,
                    application="venues",
                )
            )
    return {
        "exchange": name,
        **json_fields(row, "plugin", "version", "digest"),
        "items": [json_fields(one, "case", "rule", "state", "detail") for one in found],
        "failed": failed,
        "noted": is_noted,
    }


def _show_certificate(found: dict[str, Any], **_: object) -> None:
    click.echo(found["text"])


@venues.command()
@click.argument("name", metavar="binance|kraken|coinbase")
@click.option("--testnet", is_flag=True, help="Required: the test network, or the exchange where there is none.")
@click.option("--symbol", help="Market of the orders; a market of bitcoin without it.")
@click.option(
    "--cost-max",
    type=Decimal,
    default=Decimal(25),
    show_default=True,
    help="The most that one order may cost, in the quote currency.",
)
@click.option(
    "--report",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="JSON file of the report, and .txt beside it. Default: certify-NAME-TIME.json in FKS_HOME.",
)
@result("fks.venues.certify/1", _show_certificate, failed=lambda found: not found["is_certified"])
def certify(
    ctx: click.Context, name: str, testnet: bool, symbol: str | None, cost_max: Decimal, file: Path | None
) -> Any:
    """Certify an exchange with your keys: numbered cases at the exchange itself, with its smallest orders.

    Binance: on its test network, or at venue.rest_url if that is a test network. Kraken and Coinbase have none where
    orders are executed: orders are first only checked there, then a person is asked at a prompt before real money is
    used; the key may not withdraw. Keys are those of the settings (venue.exchange, venue.api_key, venue.api_secret),
    not the stored ones. FKS must not trade with that account meanwhile.

    Open orders of a case are cancelled and the quantity bought is sold, also after Ctrl-C; a rest is named. A
    certificate is stored with the version of FKS. Exit code 1: a case failed or did not run, or something is left.
    """
    from fks.interfaces.cli.certificate import made_certificate, note_certificate

    if not testnet:
        raise click.UsageError("give --testnet: there is no certificate of another kind")
    if (row := _row_with_cases(name)) is None or row.stand_in is None:
        raise not_found("VENUE_UNKNOWN", f"FKS has no certificate of {name}", "name binance, kraken or coinbase")
    return note_certificate(ctx, made_certificate(ctx, row, symbol, cost_max, file))


def _row_with_cases(name: str) -> VenueListing | None:
    """Return the row of an exchange: of several sessions the one that has cases."""
    from fks.trading.venues.registry import listed_venues

    rows = [one for one in listed_venues() if one.exchange == name]
    return next((one for one in rows if one.stand_in is not None), next(iter(rows), None))


@venues.command()
@gateway_result(
    "fks.venues.routes/1",
    {"PATTERN": "pattern", "VENUES": lambda row: " ".join(row["venues"]), "BY": "updated_by", "VERSION": "version"},
    empty="no routes: an order that names neither account nor venue goes to the default",
)
def routes(gateway: GatewaySession) -> Any:
    """List the venues of instruments."""
    return gateway.get("/venue-routes")["items"]


@venues.command()
@click.argument("pattern")
@click.argument("names", metavar="VENUE...", nargs=-1)
@click.option("--remove", is_flag=True, help="Remove the pattern.")
@gateway_result(
    "fks.venues.route/1",
    lambda row, **_: f"{row['pattern']}: {' '.join(row['venues']) if 'venues' in row else 'removed'}",
)
def route(gateway: GatewaySession, pattern: str, names: tuple[str, ...], remove: bool) -> Any:
    """Send orders in instruments of PATTERN to a venue: fks venues route 'BTC*' ccxt paper.

    It counts for orders that name neither account nor venue. The first venue is taken; the next ones are those of an
    entry that may fall back. A pattern with an exchange has a colon: kraken:*.
    """
    if remove == bool(names):
        raise click.UsageError("give venues, or --remove")
    path = path_of("venue-routes", pattern)
    if remove:
        return gateway.delete(path)
    known = {row["pattern"]: row["version"] for row in gateway.get("/venue-routes")["items"]}
    return gateway.put(path, {"venues": list(names), "version": known.get(pattern, 0)})


def _row(item: VenueListing) -> dict[str, Any]:
    can = item.capabilities
    able = {
        "oco": can.has_oco,
        "amend": can.can_amend,
        "replace": can.can_replace,
        "reprice": can.can_reprice,
        "protection with the entry": can.has_entry_lists or can.attaches_exits or can.closes_fills or can.keeps_bracket,
        "short": can.can_short,
        "bracket": can.keeps_bracket,
        "good till date": can.has_good_till_date,
    }
    facts = [json_fields(fact, "topic", "text", "basis") for fact in item.facts]
    return {
        **json_fields(item, "name", "exchange", "session", "is_tradable", "plugin", "version"),
        "has_cases": item.stand_in is not None,
        "order_types": sorted(kind.value for kind in can.types),
        "times_in_force": sorted(kind.value for kind in can.times_in_force),
        "can": [name for name, is_able in able.items() if is_able],
        "bases": dict(Counter(str(fact["basis"]) for fact in facts)),
        "facts": facts,
    }


async def run_against_stand_in(row: VenueListing, folder: Path, only: Collection[str] = ()) -> list[CaseResult]:
    """Run the cases of a row, or only those of some numbers, against a fresh stand-in, whose data go into `folder`.

    Errors: ConfigError.
    """
    from fks.clock import RealClock
    from fks.lab.sim.options import Options, WireProtocol
    from fks.lab.sim.server import start
    from fks.market.tape.player import discarding_log
    from fks.trading.venues.conformance import run_cases, stand_in_of

    front = stand_in_of(row).front
    wire = WireProtocol.BINANCE if front else WireProtocol(row.exchange)
    clock = RealClock()
    server = await start(Options(folder, seed=5, has_rate_limits=False, wire=wire, front=front), clock)
    try:
        return await run_cases(row, server.info(), clock, discarding_log(), only)
    finally:
        await server.stop()
