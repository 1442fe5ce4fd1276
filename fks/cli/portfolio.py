"""`fks portfolio`: accounts and strategies that are valued together and rebalanced, through the gateway."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import click

from fks.cli.base import Columns, named, table
from fks.cli.client import GatewaySession, gateway_result, path_of
from fks.cli.shown import at, money_of, price_of, time_of


@click.group()
def portfolio() -> None:
    """Make, change and archive portfolios; show their holdings, in one currency, and their equity over time; bring them
    to target weights."""


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


# ── targets and rebalancing ──────────────────────────────────────────────────────────────────────
_RULES = ("band", "band_relative", "trade_min", "cash_min", "turnover_max", "price_tolerance", "run_max_age_s")


def _share(weight: str | None) -> str:
    return "unknown" if weight is None else f"{Decimal(weight) * 100:.2f} %"


def _target_of(text: str) -> dict[str, str]:
    """Return SYMBOL=WEIGHT or SYMBOL=WEIGHT,MIN,MAX as the request has it. Errors: UsageError."""
    symbol, sign, numbers = text.rpartition("=")
    parts = [part.strip() for part in numbers.split(",")]
    try:
        values = [str(Decimal(part)) for part in parts]
    except ArithmeticError:
        values = []
    if not symbol or not sign or len(values) not in (1, 3):
        raise click.UsageError(f"{text!r} is no target: give SYMBOL=WEIGHT or SYMBOL=WEIGHT,MIN,MAX, as BTC/USDT=0.5")
    return {"instrument": symbol.strip(), **dict(zip(("weight", "min", "max"), values, strict=False))}


def _rule_of(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or name not in _RULES:
        raise click.UsageError(f"{text!r} is no rule: give NAME=VALUE, with one of {', '.join(_RULES)}")
    return name, value


def _show_targets(found: dict[str, Any], **_: Any) -> None:
    columns: Columns = {
        "INSTRUMENT": "symbol",
        "EXCHANGE": "exchange",
        "WEIGHT": lambda i: _share(i["weight"]),
        "MIN": lambda i: "-" if i["min"] is None else _share(i["min"]),
        "MAX": lambda i: "-" if i["max"] is None else _share(i["max"]),
    }
    table(found["items"], columns, empty="no targets; set them: fks portfolio targets NAME --set BTC/USDT=0.5")
    rules = ", ".join(f"{name} {value}" for name, value in found["rules"].items() if value is not None)
    click.echo(f"version {found['version']}, account {found['account'] or 'none yet'}; {rules}")


@portfolio.command()
@click.argument("name")
@click.option(
    "--set", "targets", multiple=True, metavar="SYMBOL=WEIGHT[,MIN,MAX]", help="All targets; repeat it for more."
)
@click.option("--rule", "rules", multiple=True, metavar="NAME=VALUE", help="A rule of rebalancing; repeat it for more.")
@click.option("--account", help="The member account that trades; default the one before.")
@click.option("--version", type=int, help="Change them only if they are at this version; default the present one.")
@gateway_result("fks.portfolio.targets/1", _show_targets)
def targets(
    gateway: GatewaySession,
    name: str,
    targets: tuple[str, ...],
    rules: tuple[str, ...],
    account: str | None,
    version: int | None,
) -> Any:
    """Show the target weights of a portfolio, or replace them: those given are all. Nothing is traded."""
    path = path_of("portfolios", name, "targets")
    wanted, changed = [_target_of(text) for text in targets], dict(_rule_of(text) for text in rules)
    found = gateway.get(path)
    if not wanted and not changed and account is None:
        return found
    kept = [
        {"instrument": f"{i['exchange']}:{i['symbol']}", "weight": i["weight"], "min": i["min"], "max": i["max"]}
        for i in found["items"]
    ]
    return gateway.put(
        path,
        {
            "version": found["version"] if version is None else version,
            "account": account,
            "targets": wanted or kept,
            "rules": {**found["rules"], **changed},
        },
    )


_DRIFT: Columns = {
    "INSTRUMENT": "symbol",
    "QUANTITY": "quantity",
    "PRICE": lambda i: price_of(i["price"]),
    "WEIGHT": lambda i: _share(i["weight"]),
    "TARGET": lambda i: _share(i["target"]),
    "BAND": lambda i: f"{_share(i['weight_min'])} to {_share(i['weight_max'])}",
    "": lambda i: "outside" if i["is_outside"] else "",
    "AFTER": lambda i: _share(i["weight_after"]),
    "LEFT BY": lambda i: i["reason"] or "-",
}


def _show_drift(found: dict[str, Any], **_: Any) -> None:
    table(found["items"], _DRIFT)
    capital = "unknown" if found["capital"] is None else money_of(found["capital"])
    click.echo(f"capital {capital} {found['currency']}, of it {money_of(found['cash'])} cash of {found['account']}")


@portfolio.command()
@click.argument("name")
@gateway_result("fks.portfolio.drift/1", _show_drift)
def drift(gateway: GatewaySession, name: str) -> Any:
    """Show each weight beside its target, and the distance that a rebalancing would leave."""
    return gateway.get(path_of("portfolios", name, "drift"))


_STEPS: Columns = {
    "STEP": "step",
    "SIDE": "side",
    "INSTRUMENT": "symbol",
    "QUANTITY": "quantity",
    "PRICE": lambda i: price_of(i["price"]),
    "FEE": lambda i: money_of(i["fee"]),
    "SLIPPAGE": lambda i: money_of(i["slippage"]),
}


def _show_preview(found: dict[str, Any], **_: Any) -> None:
    denied: Columns = {"DENIED NOW": lambda i: i["denial"]["code"] if i["denial"] else "-"}
    table(found["trades"], {**_STEPS, **denied}, empty="nothing to trade")
    _show_drift(found)
    if found["plan_hash"] is not None:
        click.echo(
            f"turnover {money_of(found['turnover'])}, fees {money_of(found['fees'])}, cash after it "
            f"{money_of(found['cash_after'])}; start it within a minute: "
            f"fks portfolio rebalance {found['portfolio']} {found['plan_hash']}"
        )


@portfolio.command()
@click.argument("name")
@gateway_result("fks.portfolio.preview/1", _show_preview)
def preview(gateway: GatewaySession, name: str) -> Any:
    """Show the orders of a rebalancing now, with their costs, and the drift that they leave. Nothing is traded."""
    return gateway.post(path_of("portfolios", name, "preview"))


def _show_run(found: dict[str, Any], **_: Any) -> None:
    became: Columns = {
        "STATE": "state",
        "FILLED": "filled",
        "AT": lambda i: price_of(i["average_price"]),
        "CODE": lambda i: i["code"] or "-",
    }
    table(found["steps"], {**_STEPS, **became})
    table(found["items"], _DRIFT)
    click.echo(f"run {found['id']} {found['state']}" + (f": {found['reason']}" if found["reason"] else ""))


@portfolio.command()
@click.argument("name")
@click.argument("plan_hash")
@gateway_result("fks.portfolio.run/1", _show_run)
def rebalance(gateway: GatewaySession, name: str, plan_hash: str) -> Any:
    """Start the rebalancing that 'fks portfolio preview' showed, by its hash."""
    return gateway.post(path_of("portfolios", name, "rebalance"), {"plan_hash": plan_hash})


@portfolio.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Most rows.")
@gateway_result(
    "fks.portfolio.runs/1",
    {
        "RUN": "id",
        "STARTED": at("started_at"),
        "ENDED": at("ended_at"),
        "STATE": "state",
        "CAPITAL": lambda i: f"{money_of(i['capital'])} {i['currency']}",
        "REASON": lambda i: i["reason"] or "-",
    },
    empty="it was never rebalanced; see: fks portfolio preview",
)
def runs(gateway: GatewaySession, name: str, limit: int) -> Any:
    """List the rebalancings of a portfolio, newest first."""
    return gateway.get(path_of("portfolios", name, "runs"), limit=limit)["items"]


@portfolio.command()
@click.argument("name")
@click.argument("run")
@gateway_result("fks.portfolio.run/1", _show_run)
def run(gateway: GatewaySession, name: str, run: str) -> Any:
    """Show a rebalancing: its steps, the order of each, and the drift that is left."""
    return gateway.get(path_of("portfolios", name, "runs", run))


@portfolio.command()
@click.argument("name")
@click.argument("run")
@gateway_result("fks.portfolio.run/1", _show_run)
def cancel(gateway: GatewaySession, name: str, run: str) -> Any:
    """Cancel a rebalancing: it sends no more orders, and open ones are cancelled. What has filled stays."""
    return gateway.post(path_of("portfolios", name, "runs", run, "cancel"))
