"""`fks portfolio`: accounts and strategies that are valued together, through the gateway."""

from __future__ import annotations

from typing import Any

import click

from fks.cli.base import Columns, named, table
from fks.cli.client import GatewaySession, gateway_result, path_of
from fks.cli.shown import at, money_of, price_of, time_of


@click.group()
def portfolio() -> None:
    """Make, change and archive portfolios; show their holdings, in one currency, and their equity over time."""


def _equity(amount: str | None, currency: str, is_complete: bool | None) -> str:
    if amount is None:
        return f"not known yet, {currency}"
    return f"{money_of(amount)} {currency}" + ("" if is_complete else " (a rate is missing)")


@portfolio.command("list")
@click.option("--all", "every", is_flag=True, help="Archived ones, too.")
@gateway_result(
    "fks.portfolios/1",
    {
        **named("id", "name", "state"),
        "EQUITY": lambda i: _equity(i["equity"], i["base_currency"], i["is_complete"]),
        "AT": at("equity_time"),
        "ACCOUNTS": lambda i: " ".join(i["accounts"]),
        "INSTANCES": lambda i: " ".join(i["instances"]),
    },
    empty="no portfolios; make one: fks portfolio create",
)
def list_(gateway: GatewaySession, every: bool) -> Any:
    """List portfolios with their newest equity."""
    return gateway.get("/portfolios", all=every)["items"]


def _shown(found: dict[str, Any], **_: Any) -> str:
    members = [*found["accounts"], *found["instances"]]
    return (
        f"portfolio {found['id']} {found['name']}, {found['state']}, version {found['version']}: "
        f"{', '.join(members) or 'no members'}; equity "
        f"{_equity(found['equity'], found['base_currency'], found['is_complete'])}"
    )


@portfolio.command()
@click.argument("name")
@gateway_result("fks.portfolio/1", _shown)
def show(gateway: GatewaySession, name: str) -> Any:
    """Show one portfolio, by its name or its number."""
    return gateway.get(path_of("portfolios", name))


@portfolio.command()
@click.argument("name")
@click.option("--currency", "base_currency", required=True, help="In which it is valued; it cannot change.")
@click.option("--account", "accounts", multiple=True, help="Account that is a member; repeat it for more.")
@click.option("--instance", "instances", multiple=True, help="Strategy instance that is a member, without its account.")
@click.option("--benchmark", help="Symbol that it is compared with.")
@gateway_result("fks.portfolio/1", _shown)
def create(gateway: GatewaySession, base_currency: str, **body: Any) -> Any:
    """Make a portfolio. A holding belongs to at most one."""
    return gateway.post("/portfolios", {**body, "base_currency": base_currency.upper()})


@portfolio.command()
@click.argument("name")
@click.option("--rename", metavar="NAME", help="New name.")
@click.option("--account", "accounts", multiple=True, help="The accounts that are members from now on.")
@click.option("--instance", "instances", multiple=True, help="The instances that are members from now on.")
@click.option("--no-accounts", is_flag=True, help="No account is a member any more.")
@click.option("--no-instances", is_flag=True, help="No instance is a member any more.")
@click.option("--benchmark", help='Symbol that it is compared with; "" for none.')
@click.option("--version", type=int, help="Change it only if it is still at this version; default the present one.")
@gateway_result("fks.portfolio/1", _shown)
def change(gateway: GatewaySession, name: str, **given: Any) -> Any:
    """Change the name, the benchmark, or the members: a list replaces that of its kind."""
    body = {"name": given["rename"], "benchmark": given["benchmark"]}
    for kind in ("accounts", "instances"):
        if given[kind] and given[f"no_{kind}"]:
            raise click.UsageError("members are named, or there are to be none: give one of the two")
        body[kind] = given[kind] if given[kind] or given[f"no_{kind}"] else None
    path, version = path_of("portfolios", name), given["version"]
    return gateway.patch(path, {**body, "version": gateway.get(path)["version"] if version is None else version})


@portfolio.command()
@click.argument("name")
@gateway_result("fks.portfolio/1", _shown)
def archive(gateway: GatewaySession, name: str) -> Any:
    """Archive a portfolio: its equity stays, its members may join another one. Nothing is sold."""
    return gateway.delete(path_of("portfolios", name))


def _show_holdings(answer: dict[str, Any], **_: Any) -> None:
    columns: Columns = {
        "ACCOUNT": "account",
        "INSTANCE": lambda i: i["instance"] or "-",
        "HOLDING": lambda i: i["symbol"] or i["asset"],
        "QUANTITY": "quantity",
        "RATE": lambda i: price_of(i["rate"]),
        "OF": at("rate_time"),
        f"VALUE {answer['currency']}": lambda i: "unknown" if i["value"] is None else money_of(i["value"]),
    }
    table(answer["items"], columns)
    click.echo(f"equity {_equity(answer['equity'], answer['currency'], answer['is_complete'])}")
    for missing in answer["missing"]:
        click.echo(f"not in it: {missing}", err=True)


@portfolio.command()
@click.argument("name")
@gateway_result("fks.portfolio.holdings/1", _show_holdings)
def holdings(gateway: GatewaySession, name: str) -> Any:
    """Show the holdings of a portfolio and their values now; a rate that is missing is named."""
    return gateway.get(path_of("portfolios", name, "holdings"))


@portfolio.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 3660), default=7, show_default=True, help="How far back.")
@gateway_result(
    "fks.portfolio.equity/1",
    {
        "TIME": at("time"),
        "EQUITY": lambda i: money_of(i["equity"]),
        "CASH": lambda i: money_of(i["cash"]),
        "FLOW": lambda i: money_of(i["net_flow"]),
        "": lambda i: "" if i["is_complete"] else "a rate is missing",
    },
    empty="nothing yet: it is written every hour",
)
def equity(gateway: GatewaySession, name: str, days: int) -> Any:
    """Show the equity of a portfolio over time, a row an hour, with the money that flowed in or out."""
    return gateway.get(path_of("portfolios", name, "equity"), days=days)["items"]


def _show_performance(found: dict[str, Any], **_: Any) -> None:
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


@portfolio.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 3660), default=365, show_default=True, help="How far back.")
@gateway_result("fks.portfolio.performance/1", _show_performance)
def performance(gateway: GatewaySession, name: str, days: int) -> Any:
    """Show the profit of a portfolio without deposits and withdrawals, its time-weighted return and its risk."""
    return gateway.get(path_of("portfolios", name, "performance"), days=days)
