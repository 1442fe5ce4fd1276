"""`fks portfolio`: accounts and strategies that are valued together and rebalanced, through the gateway."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from datetime import time
from decimal import Decimal
from typing import Any

import click

from fks.interfaces.cli.base import Columns, named, table
from fks.interfaces.cli.client import GatewaySession, gateway_result, path_of
from fks.interfaces.cli.jobs import wait_for
from fks.interfaces.cli.shown import at, money_of, price_of, time_of
from fks.model.errors import FksError


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
@click.option("--benchmark", help="What it is compared with: a symbol, cash:RATE, or 0.6*BTC/USDT+0.4*cash:0.04.")
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
@click.option("--benchmark", help='What it is compared with; "" for nothing.')
@click.option("--day-end", metavar="HH:MM", help="When its day ends, UTC: its reports are made then.")
@click.option("--version", type=int, help="Change it only if it is still at this version; default the present one.")
@gateway_result("fks.portfolio/1", _shown)
def change(gateway: GatewaySession, name: str, **given: Any) -> Any:
    """Change the name, the benchmark, the end of its day, or the members: a list replaces that of its kind."""
    body = {"name": given["rename"], "benchmark": given["benchmark"], "day_end_min": _minutes_of(given["day_end"])}
    for kind in ("accounts", "instances"):
        if given[kind] and given[f"no_{kind}"]:
            raise click.UsageError("members are named, or there are to be none: give one of the two")
        body[kind] = given[kind] if given[kind] or given[f"no_{kind}"] else None
    path, version = path_of("portfolios", name), given["version"]
    return gateway.patch(path, {**body, "version": gateway.get(path)["version"] if version is None else version})


def _minutes_of(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        moment = time.fromisoformat(text)
    except ValueError:
        raise click.UsageError(f"--day-end {text!r} is no time of day: give HH:MM") from None
    return moment.hour * 60 + moment.minute


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
@click.option("--at", "moment", metavar="TIME", help="The last complete hour up to then, at the rates of that hour.")
@gateway_result("fks.portfolio.holdings/1", _show_holdings)
def holdings(gateway: GatewaySession, name: str, moment: str | None) -> Any:
    """Show the holdings of a portfolio and their values now; a rate that is missing is named."""
    return gateway.get(path_of("portfolios", name, "holdings"), at=moment)


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


_AGAINST = (
    ("benchmark's return %", "benchmark_return_pct"),
    ("alpha %", "alpha_pct"),
    ("beta", "beta"),
    ("tracking error %", "tracking_error_pct"),
    ("information ratio", "information_ratio"),
)


def _show_performance(found: dict[str, Any], **_: Any) -> None:
    if found["first_at"] is None:
        click.echo("nothing yet: it needs the equity of two complete hours; see fks portfolio equity")
        return
    rows = [
        ("from", time_of(found["first_at"])),
        ("to", time_of(found["last_at"])),
        ("equity", money_of(found["equity"])),
        ("flows", money_of(found["net_flow"])),
        ("profit", money_of(found["profit"])),
        ("time-weighted return %", f"{found['return_pct']:.2f}"),
        ("max drawdown %", f"{found['max_drawdown_pct']:.2f}"),
        ("executions", f"{found['executions']}, won {found['won']}, lost {found['lost']}"),
    ]
    for label, key in (
        ("money-weighted return %", "money_weighted_pct"),
        ("yearly return %", "cagr_pct"),
        ("yearly volatility %", "volatility_pct"),
        ("Sharpe ratio", "sharpe"),
        ("Sortino ratio", "sortino"),
        ("Calmar ratio", "calmar"),
        ("hit rate %", "hit_rate_pct"),
        ("payoff", "payoff"),
        ("turnover", "turnover"),
        ("invested %", "invested_pct"),
        *(_AGAINST if found["benchmark"] else ()),
    ):
        rows.append((label, "not defined yet" if found[key] is None else f"{found[key]:.2f}"))
    if found["benchmark"]:
        rows.append(("benchmark", found["benchmark"]))
    if found["hours_incomplete"]:
        rows.append(("hours without a rate", str(found["hours_incomplete"])))
    table(rows, ("", found["currency"]))


@portfolio.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 3660), default=365, show_default=True, help="How far back.")
@click.option("--benchmark", help="What to compare with: a symbol or a blend; default the portfolio's benchmark.")
@click.option("--cash-rate", type=float, help="Compare with cash at this yearly rate instead, as 0.04.")
@gateway_result("fks.portfolio.performance/1", _show_performance)
def performance(gateway: GatewaySession, name: str, **query: Any) -> Any:
    """Show the profit of a portfolio without deposits and withdrawals, its returns, its risk, and a benchmark."""
    return gateway.get(path_of("portfolios", name, "performance"), **query)


# ── risk and attribution ─────────────────────────────────────────────────────────────────────────
_LIMITS: Columns = {
    "LIMIT": "kind",
    "VALUE": "value",
    "MEASURED": lambda i: i["observed"] or f"not known: {i['missing']}".rstrip(": "),
    "AT": at("measured_at"),
    "AGE MAX S": lambda i: f"{i['age_max_s']:g}",
}


def _loss(amount: float | None) -> str:
    return "not defined" if amount is None else f"{amount:,.2f}"


def _show_risk(found: dict[str, Any], **_: Any) -> None:
    currency = found["currency"]
    click.echo(
        f"equity {money_of(found['equity'])} {currency}, gross exposure {money_of(found['gross'])}, "
        f"net {money_of(found['net'])}"
        + ("" if found["largest"] is None else f", largest {found['largest']} {100 * found['largest_share']:.2f} %")
        + ("" if found["herfindahl"] is None else f", Herfindahl index {found['herfindahl']:.3f}")
    )
    shares: Columns = {"BY": "kind", "NAME": lambda i: i["name"] or "-", "GROSS": lambda i: money_of(i["gross"])}
    table(found["exposures"], {**shares, "NET": lambda i: money_of(i["net"])}, empty="nothing that moves is held")
    tails: Columns = {
        "METHOD": "method",
        "CONFIDENCE": lambda i: f"{100 * i['confidence']:g} %",
        "DAYS": "days",
        f"VAR {currency}": lambda i: _loss(i["var"]),
        "SHORTFALL": lambda i: _loss(i["shortfall"]),
    }
    if found["tails"]:
        table(found["tails"], tails)
        parts: Columns = {
            "FACTOR": "factor",
            "VALUE": lambda i: _loss(i["value"]),
            "VAR 95 %": lambda i: _loss(i["var"]),
            "SHORTFALL": lambda i: _loss(i["shortfall"]),
        }
        table(found["components"], parts)
        beta = "not defined" if found["beta"] is None else f"{found['beta']:.2f}"
        click.echo(f"{found['returns']} daily returns; beta to {found['benchmark'] or 'no benchmark'}: {beta}")
    stressed: Columns = {
        "SCENARIO": "name",
        "PROFIT": lambda i: money_of(i["profit"]),
        "WITHOUT A MOVE": lambda i: " ".join(i["unmoved"]) or "-",
    }
    table(found["stress"], stressed)
    margins: Columns = {
        "ACCOUNT": "account",
        "EQUITY": lambda i: money_of(i["equity"]),
        "CONTRACTS": lambda i: money_of(i["contracts"]),
        "LEVERAGE": lambda i: "-" if i["leverage"] is None else f"{i['leverage']:.1f}",
        "NOTHING LEFT AT": lambda i: f"{i['symbol']} {i['zero_price']}" if i["symbol"] else "-",
        "AWAY %": lambda i: "-" if i["distance"] is None else f"{100 * i['distance']:.1f}",
    }
    if found["margins"]:
        table(found["margins"], margins)
    if found["limits"]:
        table(found["limits"], _LIMITS)
    for missing in found["missing"]:
        click.echo(f"not in every figure: {missing}", err=True)


@portfolio.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(60, 3660), default=365, show_default=True, help="Days of prices.")
@click.option("--benchmark", help="Symbol or blend that beta is against; default the portfolio's benchmark.")
@click.option("--scenario", multiple=True, metavar="ASSET=MOVE", help="A move to try, as BTC=-0.3; repeat it for more.")
@gateway_result("fks.portfolio.risk/1", _show_risk)
def risk(gateway: GatewaySession, name: str, scenario: tuple[str, ...], **query: Any) -> Any:
    """Show the risk of a portfolio's holdings: exposure, VaR and expected shortfall, their parts, stress, limits."""
    return gateway.get(path_of("portfolios", name, "risk"), scenario=",".join(scenario) or None, **query)


@portfolio.command()
@click.argument("name")
@click.option(
    "--set", "given", multiple=True, metavar="KIND=VALUE", help="gross_exposure, var_95_1d or weight_max; repeat it."
)
@click.option("--remove", multiple=True, metavar="KIND", help="Remove a limit.")
@click.option("--age-max-s", type=float, default=900.0, show_default=True, help="Oldest measurement of those set.")
@gateway_result("fks.portfolio.limits/1", _LIMITS, empty="no limits; set one: fks portfolio limits NAME --set ...")
def limits(
    gateway: GatewaySession, name: str, given: tuple[str, ...], remove: tuple[str, ...], age_max_s: float
) -> Any:
    """Show, set or remove the limits beyond which entries are denied (PORTFOLIO_LIMIT)."""
    path = path_of("portfolios", name, "limits")
    found = gateway.get(path)["items"]
    if not given and not remove:
        return found
    kept = {row["kind"]: {key: row[key] for key in ("kind", "value", "age_max_s")} for row in found}
    for text in given:
        kind, sign, value = text.partition("=")
        if not sign:
            raise click.UsageError(f"{text!r} is no limit: give KIND=VALUE, as var_95_1d=500")
        kept[kind] = {"kind": kind, "value": value, "age_max_s": age_max_s}
    for kind in remove:
        if kept.pop(kind, None) is None:
            raise click.UsageError(f"there is no limit {kind!r}; see fks portfolio limits {name}")
    return gateway.put(path, {"limits": list(kept.values())})["items"]


_PARTS = ("price", "slippage", "fees", "funding", "dividends", "currency", "flows")


def show_attribution(found: Mapping[str, Any], **_: Any) -> None:
    """Print the change of a portfolio's equity: its causes, its lines, its rows, and the rest."""
    click.echo(
        f"portfolio {found['portfolio']}: {money_of(found['equity_at_start'])} {found['currency']} at "
        f"{time_of(found['first_at'])}, {money_of(found['equity'])} at {time_of(found['last_at'])}: "
        f"change {money_of(found['change'])}"
    )
    used = [part for part in _PARTS if Decimal(found["parts"][part])]
    amounts: Columns = {part.upper(): _amount_of(part) for part in [*used, "total"]}
    lines: Columns = {
        "ACCOUNT": "account",
        "INSTANCE": lambda i: i["instance"] or "-",
        "INSTRUMENT": "instrument",
        **amounts,
    }
    total = {"account": "", "instance": "all", "instrument": "", **found["parts"]}
    total["total"] = str(sum((Decimal(found["parts"][part]) for part in _PARTS), Decimal(0)))
    table([*found["items"], total], lines)
    if found["rows"]:
        table(found["rows"], {"ROW": "kind", "ID": "id", "TIME": at("time"), **lines})
    click.echo(f"rest {money_of(found['rest'])}" + ("" if found["is_explained"] else ": not explained"))
    for row in found["unexplained"]:
        known = "no incident" if row["incident"] is None else f"incident {row['incident']}: see 'fks incidents'"
        click.echo(
            f"no row explains {row['amount']} {row['asset']} of {row['account']}: {money_of(row['value'])} ({known})",
            err=True,
        )
    if found["undecided"]:
        click.echo(f"{found['undecided']} executions without the price of a decision: their slippage is in price")


def _amount_of(part: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: money_of(row[part])


@portfolio.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 3660), default=7, show_default=True, help="How far back.")
@click.option("--rows", is_flag=True, help="With each holding, execution, split and payment.")
@gateway_result("fks.portfolio.attribution/1", show_attribution)
def attribution(gateway: GatewaySession, name: str, days: int, rows: bool) -> Any:
    """Show the change of a portfolio's equity by cause: price, slippage, fees, currency, flows, and the rest."""
    from fks.interfaces.cli.events import moment

    since = moment(f"{days}d")
    return gateway.get(path_of("portfolios", name, "attribution"), from_=since, rows=rows)


def _show_income(found: dict[str, Any], **_: Any) -> None:
    def known(key: str) -> Callable[[dict[str, Any]], str]:
        return lambda row: "unknown" if row[key] is None else money_of(row[key])

    names: Columns = {"ACCOUNT": "account", "KIND": "kind"}
    lines: Columns = {
        **names,
        "CURRENCY": "currency",
        "EXPECTED": known("expected"),
        "BOOKED": known("booked"),
        "DIFFERENCE": known("difference"),
        "EVENTS UNKNOWN": lambda row: str(row["unknown"]),
    }
    table(found["items"], lines, empty="no dividend, split or funding is expected or booked")
    click.echo(f"not expected, as no table has rates of them: {', '.join(found['not_expected'])}", err=True)
    if found["rows"]:
        events: Columns = {
            "TIME": at("time"),
            **names,
            "SYMBOL": "symbol",
            "QUANTITY": "quantity",
            "RATE": lambda row: row["rate"] or "unknown",
            "EXPECTED": known("expected"),
            "CURRENCY": "currency",
            "NOTE": "note",
        }
        table(found["rows"], events)


@portfolio.command()
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 366), default=30, show_default=True, help="How far back.")
@click.option("--rows", is_flag=True, help="With each event.")
@gateway_result("fks.portfolio.income/1", _show_income)
def income(gateway: GatewaySession, name: str, days: int, rows: bool) -> Any:
    """Show dividends, splits and funding: expected by the stored events, and booked."""
    return gateway.get(path_of("portfolios", name, "income"), days=days, rows=rows)


# ── targets and rebalancing ──────────────────────────────────────────────────────────────────────
_RULES = (
    "band",
    "band_relative",
    "trade_min",
    "cash_min",
    "turnover_max",
    "price_tolerance",
    "run_max_age_s",
    "collar",
)


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
    if found["items"] or not found["instances"]:
        table(found["items"], columns, empty="no targets; set them: fks portfolio targets NAME --set BTC/USDT=0.5")
    sized: Columns = {
        "INSTANCE": "instance",
        "WEIGHT": lambda i: _share(i["weight"]),
        "SIZE": lambda i: money_of(i["size"]) or "waits",
        "PARAMETERS": lambda i: "-" if i["params_version"] is None else f"version {i['params_version']}",
        "BECAUSE": lambda i: i["reason"] or "-",
    }
    if found["instances"]:
        table(found["instances"], sized)
    rules = ", ".join(f"{name} {value}" for name, value in found["rules"].items() if value is not None)
    click.echo(f"version {found['version']}, account {found['account'] or 'none yet'}; {rules}")


@portfolio.command()
@click.argument("name")
@click.option(
    "--set", "targets", multiple=True, metavar="SYMBOL=WEIGHT[,MIN,MAX]", help="All targets; repeat it for more."
)
@click.option(
    "--set-instance",
    "instances",
    multiple=True,
    metavar="INSTANCE=WEIGHT",
    help="All weights of strategy instances, which size their entries; repeat it for more.",
)
@click.option("--no-instances", is_flag=True, help="No strategy instance has a weight any more; its size stays.")
@click.option("--rule", "rules", multiple=True, metavar="NAME=VALUE", help="A rule of rebalancing; repeat it for more.")
@click.option("--account", help="The member account that trades; default the one before.")
@click.option("--version", type=int, help="Change them only if they are at this version; default the present one.")
@gateway_result("fks.portfolio.targets/1", _show_targets)
def targets(
    gateway: GatewaySession,
    name: str,
    targets: tuple[str, ...],
    instances: tuple[str, ...],
    no_instances: bool,
    rules: tuple[str, ...],
    account: str | None,
    version: int | None,
) -> Any:
    """Show the target weights of a portfolio, or replace them: those given are all. Nothing is traded."""
    path = path_of("portfolios", name, "targets")
    wanted, changed = [_target_of(text) for text in targets], dict(_rule_of(text) for text in rules)
    sized = [{"instance": i["instrument"], "weight": i["weight"]} for i in map(_target_of, instances)]
    if sized and no_instances:
        raise click.UsageError("instances have weights, or none has one: give one of the two")
    found = gateway.get(path)
    if not wanted and not changed and account is None and not sized and not no_instances:
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
            "instances": sized or ([] if no_instances else None),
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
    if found.get("instances"):
        sized: Columns = {
            "INSTANCE": "instance",
            "TARGET": lambda i: _share(i["target"]),
            "SIZE": lambda i: "waits" if i["size_weight"] is None else _share(i["size_weight"]),
            "HELD": lambda i: "unknown" if i["weight"] is None else _share(i["weight"]),
            "BECAUSE": lambda i: i["reason"] or "-",
        }
        table(found["instances"], sized)
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
    "LIMIT": lambda i: "-" if i["limit_price"] is None else price_of(i["limit_price"]),
    "FEE": lambda i: money_of(i["fee"]),
    "SLIPPAGE": lambda i: money_of(i["slippage"]),
}


_SOLD: Columns = {
    "STEP": "step",
    "LOT OF": "symbol",
    "ACQUIRED": lambda i: time_of(i["acquired_at"]),
    "QUANTITY": "quantity",
    "COST": lambda i: "-" if i["cost"] is None else money_of(i["cost"]),
    "GAIN": lambda i: i["note"] if i["gain"] is None else money_of(i["gain"]),
}


def _show_preview(found: dict[str, Any], **_: Any) -> None:
    denied: Columns = {"DENIED NOW": lambda i: i["denial"]["code"] if i["denial"] else "-"}
    table(found["trades"], {**_STEPS, **denied}, empty="nothing to trade")
    sold = [{"step": row["step"], "symbol": row["symbol"], **lot} for row in found["trades"] for lot in row["lots"]]
    if sold:
        table(sold, _SOLD)
    _show_drift(found)
    if found["plan_hash"] is not None:
        click.echo(
            f"turnover {money_of(found['turnover'])}, fees {money_of(found['fees'])}, cash after it "
            f"{money_of(found['cash_after'])}; start it within a minute: "
            f"fks portfolio rebalance {found['portfolio']} {found['plan_hash']}"
        )


@portfolio.command()
@click.argument("name")
@click.option("--lots", is_flag=True, help="The gain of each sell by lot, first in first out; no tax advice.")
@gateway_result("fks.portfolio.preview/1", _show_preview)
def preview(gateway: GatewaySession, name: str, lots: bool) -> Any:
    """Show the orders of a rebalancing now, with their costs, and the drift that they leave. Nothing is traded."""
    return gateway.post(path_of("portfolios", name, "preview") + ("?lots=true" if lots else ""))


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
        "TRIGGER": lambda i: i["trigger"] or "person",
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


# ── triggers and allocations ─────────────────────────────────────────────────────────────────────
def _show_trigger(found: dict[str, Any], **_: Any) -> None:
    band = "the band of each target" if found["band"] is None else _share(found["band"])
    rows = [
        ("started by", found["trigger"]),
        ("approval", "each plan waits for a person" if found["needs_approval"] else "none"),
        ("bars", found["timeframe"]),
        ("band", band),
        ("cooldown", f"{found['cooldown_s']:g} s"),
        ("largest change by itself", _share(found["change_max"])),
        ("decided at", time_of(found["decided_at"])),
        ("decision", " ".join(filter(None, (found["decision"], found["decision_detail"]))) or "none yet"),
    ]
    table(rows, ("", found["portfolio"]))


@portfolio.command()
@click.argument("name")
@click.option("--by", "trigger", type=click.Choice(["person", "schedule", "drift"]), help="What starts its runs.")
@click.option("--band", help='Distance from a target that starts a run by drift; "" for the band of each target.')
@click.option("--timeframe", help="Of the bars that decide.")
@click.option("--cooldown", "cooldown_s", type=float, metavar="SECONDS", help="After a start, drift starts no run.")
@click.option("--approval/--no-approval", "needs_approval", default=None, help="Whether a person starts each plan.")
@click.option("--change-max", help="Most that a weight changes when an allocation is applied by itself.")
@gateway_result("fks.portfolio.trigger/1", _show_trigger)
def trigger(gateway: GatewaySession, name: str, **given: Any) -> Any:
    """Show or change what starts the rebalancings of a portfolio: options that are left out stay.

    By schedule: add one, too: fks schedule add NAME rebalance --cron '0 8 * * 1' --params '{"portfolio": "main"}'
    """
    path, changed = path_of("portfolios", name, "trigger"), {key: v for key, v in given.items() if v is not None}
    found = gateway.get(path)
    if not changed:
        return found
    if changed.get("band") == "":
        changed["band"] = None
    return gateway.put(path, {key: found[key] for key in given} | changed)


def _number_of(text: str) -> tuple[str, float]:
    """Return SYMBOL=WEIGHT as a pair. Errors: UsageError."""
    symbol, _, value = text.rpartition("=")
    with contextlib.suppress(ValueError):
        return symbol.strip(), float(value if symbol else "")
    raise click.UsageError(f"{text!r} is no weight: give SYMBOL=WEIGHT, as BTC/USDT=0.4")


def _group_of(text: str) -> dict[str, Any]:
    name, _, rest = text.partition("=")
    symbols, _, most = rest.rpartition(":")
    with contextlib.suppress(ValueError):
        return {"name": name, "instruments": [part.strip() for part in symbols.split(",")], "max": float(most)}
    raise click.UsageError(f"{text!r} is no group: give NAME=SYMBOL,SYMBOL:WEIGHT, as layer1=ETH/USDT,SOL/USDT:0.4")


#: as `AllocationMethod`, whose module needs numpy
_METHODS = (
    *("equal", "fixed", "inverse_volatility", "volatility_target", "risk_parity", "minimum_variance"),
    *("mean_variance", "hierarchical_risk_parity", "minimum_cvar"),
)
_ALLOCATED: Columns = {
    "INSTANCE": lambda i: i["instance"] or "-",
    "INSTRUMENT": "symbol",
    "EXCHANGE": "exchange",
    "WEIGHT": lambda i: _share(i["weight"]),
    "TARGET BEFORE": lambda i: "-" if i["before"] is None else _share(i["before"]),
}


def _show_allocation(found: dict[str, Any], **_: Any) -> None:
    table(found["weights"], _ALLOCATED)
    figures = found["diagnostics"]
    click.echo(
        f"{found['method']} as of {time_of(found['as_of'])}, {figures['observations']} returns: volatility a year "
        f"{figures['volatility']:.2%}, turnover {figures['turnover']:.2%}"
    )
    more = f": {found['reason']}" if found["reason"] else ""
    click.echo(f"allocation {found['id']} {found['state']}{more}")
    if found["state"] in ("ready", "refused"):
        click.echo(f"make it the targets: fks portfolio apply {found['portfolio']} {found['id']}")


@portfolio.command()
@click.argument("name")
@click.option("--method", required=True, type=click.Choice(_METHODS), help="How weights are found.")
@click.option("--window", default="90d", show_default=True, metavar="DAYS", help="Returns of so many days: 90d.")
@click.option("--timeframe", default="1d", show_default=True, help="Of the returns.")
@click.option("--as-of", metavar="TIME", help="Only bars that had closed by then count; default now.")
@click.option("--coverage", "coverage_min", type=float, help="Share of the bars that each has to have, default 0.95.")
@click.option("--instrument", "instruments", multiple=True, help="Default all that have targets; repeat it for more.")
@click.option("--instance", "instances", multiple=True, help="A strategy instance, by its returns; repeat it for more.")
@click.option("--min", "least", multiple=True, metavar="SYMBOL=WEIGHT", help="Least weight; repeat it for more.")
@click.option("--max", "most", multiple=True, metavar="SYMBOL=WEIGHT", help="Largest weight; repeat it for more.")
@click.option("--group", "groups", multiple=True, metavar="NAME=SYMBOL,...:WEIGHT", help="Largest weight together.")
@click.option("--fixed", multiple=True, metavar="SYMBOL=WEIGHT", help="A weight of the method fixed.")
@click.option("--volatility", type=float, help="Of volatility_target, a fraction a year, default 0.2.")
@click.option("--risk-aversion", type=float, help="Of mean_variance, default 1.")
@click.option("--turnover-penalty", type=float, help="Of minimum_variance, mean_variance and minimum_cvar, default 0.")
@click.option("--apply", "is_applied", is_flag=True, help="Make the weights the targets. Nothing is traded.")
@gateway_result("fks.portfolio.allocation/1", _show_allocation)
def allocate(gateway: GatewaySession, name: str, window: str, is_applied: bool, **given: Any) -> Any:
    """Calculate target weights from past returns, and show them.

    The options that take a SYMBOL take the id of an allocated strategy instance, too.
    """
    days = window.removesuffix("d")
    if not days.isdigit():
        raise click.UsageError(f"{window!r} is no window: give days, as 90d")
    body = {
        "window_days": int(days),
        "min": dict(_number_of(text) for text in given.pop("least")),
        "max": dict(_number_of(text) for text in given.pop("most")),
        "fixed": dict(_number_of(text) for text in given.pop("fixed")),
        "groups": [_group_of(text) for text in given.pop("groups")],
        "instruments": [*given.pop("instruments")] or None,
        "instances": [*given.pop("instances")] or None,
    }
    body |= {key: value for key, value in given.items() if value is not None}
    job = gateway.post(path_of("portfolios", name, "allocate"), body)
    path = path_of("portfolios", name, "allocations", job["id"])
    job = wait_for(gateway, path, is_quiet=True)
    if job["state"] != "done":
        raise FksError(f"allocation {job['id']} {job['state']}: {job['error']}")
    if is_applied:
        gateway.post(f"{path}/apply")
        job = gateway.get(path)
    return job["allocation"]


@portfolio.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Most rows.")
@gateway_result(
    "fks.portfolio.allocations/1",
    {
        "ALLOCATION": "id",
        "METHOD": "method",
        "AS OF": at("as_of"),
        "STATE": "state",
        "TARGETS": lambda i: i["applied_version"] or "-",
        "REASON": lambda i: i["reason"] or "-",
    },
    empty="none yet; see: fks portfolio allocate NAME --method equal",
)
def allocations(gateway: GatewaySession, name: str, limit: int) -> Any:
    """List the allocations of a portfolio, newest first."""
    return gateway.get(path_of("portfolios", name, "allocations"), limit=limit)["items"]


@portfolio.command()
@click.argument("name")
@click.argument("allocation")
@gateway_result("fks.portfolio.targets/1", _show_targets)
def apply(gateway: GatewaySession, name: str, allocation: str) -> Any:
    """Make the weights of an allocation the targets. Nothing is traded."""
    return gateway.post(path_of("portfolios", name, "allocations", allocation, "apply"))
