"""`fks portfolio`: accounts and strategies that are valued together, through the gateway."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import money_of, price_of, time_of


@click.group()
def portfolio() -> None:
    """Make, change and archive portfolios; show their holdings, in one currency, and their equity over time."""


@portfolio.command("list")
@click.option("--all", "every", is_flag=True, help="Archived ones, too.")
@as_json
@click.pass_context
def list_(ctx: click.Context, every: bool, as_json: bool) -> None:
    """List portfolios with their newest equity."""
    with gateway_of(ctx) as gateway:
        items = gateway.get("/portfolios", all=every)["items"]
    emit(items, as_json=as_json, schema="fks.portfolios/1")
    if not as_json:
        rows = [
            (
                i["id"],
                i["name"],
                i["state"],
                _equity(i["equity"], i["base_currency"], i["is_complete"]),
                time_of(i["equity_time"]),
                " ".join(i["accounts"]),
                " ".join(i["instances"]),
            )
            for i in items
        ]
        heads = ("ID", "NAME", "STATE", "EQUITY", "AT", "ACCOUNTS", "INSTANCES")
        table(rows, heads, empty="no portfolios; make one: fks portfolio create")


@portfolio.command()
@click.argument("name")
@as_json
@click.pass_context
def show(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show one portfolio, by its name or its number."""
    with gateway_of(ctx) as gateway:
        _show(gateway.get(_path(name)), as_json=as_json)


@portfolio.command()
@click.argument("name")
@click.option("--currency", "base_currency", required=True, help="In which it is valued; it cannot change.")
@click.option("--account", "accounts", multiple=True, help="Account that is a member; repeat it for more.")
@click.option("--instance", "instances", multiple=True, help="Strategy instance that is a member, without its account.")
@click.option("--benchmark", help="Symbol that it is compared with.")
@as_json
@click.pass_context
def create(
    ctx: click.Context,
    /,
    name: str,
    base_currency: str,
    accounts: tuple[str, ...],
    instances: tuple[str, ...],
    benchmark: str | None,
    as_json: bool,
) -> None:
    """Make a portfolio. A holding belongs to at most one."""
    body = {
        "name": name,
        "base_currency": base_currency.upper(),
        "accounts": list(accounts),
        "instances": list(instances),
        "benchmark": benchmark,
    }
    with gateway_of(ctx) as gateway:
        _show(gateway.post("/portfolios", body), as_json=as_json)


@portfolio.command()
@click.argument("name")
@click.option("--rename", metavar="NAME", help="New name.")
@click.option("--account", "accounts", multiple=True, help="The accounts that are members from now on.")
@click.option("--instance", "instances", multiple=True, help="The instances that are members from now on.")
@click.option("--no-accounts", is_flag=True, help="No account is a member any more.")
@click.option("--no-instances", is_flag=True, help="No instance is a member any more.")
@click.option("--benchmark", help='Symbol that it is compared with; "" for none.')
@click.option("--version", type=int, help="Change it only if it is still at this version; default the present one.")
@as_json
@click.pass_context
def change(
    ctx: click.Context,
    /,
    name: str,
    rename: str | None,
    accounts: tuple[str, ...],
    instances: tuple[str, ...],
    no_accounts: bool,
    no_instances: bool,
    benchmark: str | None,
    version: int | None,
    as_json: bool,
) -> None:
    """Change the name, the benchmark, or the members: a list replaces that of its kind."""
    if (accounts and no_accounts) or (instances and no_instances):
        raise click.UsageError("members are named, or there are to be none: give one of the two")
    with gateway_of(ctx) as gateway:
        body = {
            "version": version if version is not None else gateway.get(_path(name))["version"],
            "name": rename,
            "accounts": list(accounts) if accounts or no_accounts else None,
            "instances": list(instances) if instances or no_instances else None,
            "benchmark": benchmark,
        }
        _show(gateway.patch(_path(name), body), as_json=as_json)


@portfolio.command()
@click.argument("name")
@as_json
@click.pass_context
def archive(ctx: click.Context, name: str, as_json: bool) -> None:
    """Archive a portfolio: its equity stays, its members may join another one. Nothing is sold."""
    with gateway_of(ctx) as gateway:
        _show(gateway.delete(_path(name)), as_json=as_json)


@portfolio.command()
@click.argument("name")
@as_json
@click.pass_context
def holdings(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show the holdings of a portfolio and their values now; a rate that is missing is named."""
    with gateway_of(ctx) as gateway:
        answer = gateway.get(f"{_path(name)}/holdings")
    emit(answer, as_json=as_json, schema="fks.portfolio.holdings/1")
    if as_json:
        return
    rows = [
        (
            i["account"],
            i["instance"] or "-",
            i["symbol"] or i["asset"],
            i["quantity"],
            price_of(i["rate"]),
            time_of(i["rate_time"]),
            "unknown" if i["value"] is None else money_of(i["value"]),
        )
        for i in answer["items"]
    ]
    table(rows, ("ACCOUNT", "INSTANCE", "HOLDING", "QUANTITY", "RATE", "OF", f"VALUE {answer['currency']}"))
    click.echo(f"equity {_equity(answer['equity'], answer['currency'], answer['is_complete'])}")
    for missing in answer["missing"]:
        click.echo(f"not in it: {missing}", err=True)


@portfolio.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 3660), default=7, show_default=True, help="How far back.")
@as_json
@click.pass_context
def equity(ctx: click.Context, name: str, days: int, as_json: bool) -> None:
    """Show the equity of a portfolio over time, a row an hour, with the money that flowed in or out."""
    with gateway_of(ctx) as gateway:
        items = gateway.get(f"{_path(name)}/equity", days=days)["items"]
    emit(items, as_json=as_json, schema="fks.portfolio.equity/1")
    if not as_json:
        rows = [
            (
                time_of(i["time"]),
                money_of(i["equity"]),
                money_of(i["cash"]),
                money_of(i["net_flow"]),
                "" if i["is_complete"] else "a rate is missing",
            )
            for i in items
        ]
        table(rows, ("TIME", "EQUITY", "CASH", "FLOW", ""), empty="nothing yet: it is written every hour")


@portfolio.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 3660), default=365, show_default=True, help="How far back.")
@as_json
@click.pass_context
def performance(ctx: click.Context, name: str, days: int, as_json: bool) -> None:
    """Show the profit of a portfolio without deposits and withdrawals, its time-weighted return and its risk."""
    with gateway_of(ctx) as gateway:
        found = gateway.get(f"{_path(name)}/performance", days=days)
    emit(found, as_json=as_json, schema="fks.portfolio.performance/1")
    if as_json:
        return
    rows = [
        ("from", time_of(found["first_at"])),
        ("to", time_of(found["last_at"])),
        ("equity", money_of(found["equity"])),
        ("flows", money_of(found["net_flow"])),
        ("profit", money_of(found["profit"])),
        ("time-weighted return %", f"{found['return_pct']:.2f}"),
        ("max drawdown %", f"{found['max_drawdown_pct']:.2f}"),
    ]
    for label, key in (
        ("yearly return %", "cagr_pct"),
        ("yearly volatility %", "volatility_pct"),
        ("Sharpe ratio", "sharpe"),
        ("Sortino ratio", "sortino"),
        ("Calmar ratio", "calmar"),
    ):
        rows.append((label, "not defined yet" if found[key] is None else f"{found[key]:.2f}"))
    if found["hours_incomplete"]:
        rows.append(("hours without a rate", str(found["hours_incomplete"])))
    table(rows, ("", found["currency"]))


def _path(name: str) -> str:
    return f"/portfolios/{quote(name, safe='')}"


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    emit(found, as_json=as_json, schema="fks.portfolio/1")
    if not as_json:
        members = [*found["accounts"], *found["instances"]]
        click.echo(
            f"portfolio {found['id']} {found['name']}, {found['state']}, version {found['version']}: "
            f"{', '.join(members) or 'no members'}; equity "
            f"{_equity(found['equity'], found['base_currency'], found['is_complete'])}"
        )


def _equity(amount: str | None, currency: str, is_complete: bool | None) -> str:
    if amount is None:
        return f"not known yet, {currency}"
    return f"{money_of(amount)} {currency}" + ("" if is_complete else " (a rate is missing)")
