"""`fks why`: the history of one decision, from the bar to the fills."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import click

from fks.interfaces.cli.catalogue import params_text
from fks.interfaces.cli.client import GatewaySession, gateway_result, path_of
from fks.interfaces.cli.portfolio import show_attribution
from fks.interfaces.cli.shown import price_of, time_of

_TONES = {"failed": "red", "passed": "green", "exempt": "yellow", "skipped": "bright_black"}


def _print_stories(stories: Sequence[Mapping[str, Any]], **_: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    # into a pipe a line stays one line, however long
    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    for attribution in (story for story in stories if story["kind"] == "pnl"):
        show_attribution(attribution)
    for line in (line for story in stories if story["kind"] != "pnl" for line in lines_of(story)):
        console.print(Text.from_ansi(line), soft_wrap=not sys.stdout.isatty())


@click.command()
@click.argument("what")
@click.argument("time", required=False)
@click.option("--instance", help="Of a symbol: only this strategy instance.")
@click.option("--exchange", help="Whose symbol is meant.")
@click.option("--portfolio", help="Of pnl: only this portfolio.")
@gateway_result("fks.why/1", _print_stories)
def why(gateway: GatewaySession, what: str, time: str | None, portfolio: str | None, **query: str | None) -> Any:
    """Show why an order was placed, denied, or never made: fks why ORDER, fks why SIGNAL, fks why SYMBOL TIME. Show why
    equity changed: fks why pnl DAY.

    The history is the journal's: the bar, the strategy's values on it, its signal, every check with its limit and
    the actual value, the order's events with the venue's answers, and the fills. Of a symbol at a time (10m ago, or
    ISO) it covers each strategy instance there, also one without a signal.

    Of pnl it is the change of each portfolio's equity over a UTC day, today by default: every holding, execution,
    split and payment with its effect, and the rest that none of them explains.
    """
    from fks.interfaces.cli.events import moment
    from fks.model.errors import InputError

    if what != "pnl":
        return gateway.get("/why", what=what, time=moment(time), **query)["items"]
    try:
        at = moment(time or "0m")
    except InputError as error:
        raise InputError(f"{time!r} is no day", remedy="use 2026-05-01, or 1d for yesterday") from error
    assert at is not None
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    found = []
    for name in [portfolio] if portfolio else [row["name"] for row in gateway.get("/portfolios")["items"]]:
        path = path_of("portfolios", name, "attribution")
        found.append({"kind": "pnl", **gateway.get(path, from_=day, to=day + timedelta(days=1), rows=True)})
    return found


def lines_of(story: Mapping[str, Any]) -> list[str]:
    """Return a story as lines of text with colours."""
    parts = (
        _bar(story["bar"]),
        _decision(story["decision"]),
        _signal(story["signal"]),
        _checks(story["checks"], story["orders"]),
        *(_order(order) for order in story["orders"]),
    )
    return [click.style(story["verdict"], bold=True), *(line for part in parts for line in part), ""]


def _head(text: str) -> str:
    return click.style(text, fg="cyan")


def _bar(bar: Mapping[str, Any] | None) -> list[str]:
    if bar is None:
        return []
    prices = "  ".join(
        f"{name} {bar[name]:g}" for name in ("open", "high", "low", "close", "volume") if bar[name] is not None
    )
    notes = [note for note, is_so in (("not whole", not bar["is_complete"]), ("no trades", bar["is_empty"])) if is_so]
    notes += [f"corrected {bar['revision']} times"] if bar["revision"] else []
    more = f"  ({', '.join(notes)})" if notes else ""
    return [_head(f"bar {bar['timeframe']} {time_of(bar['time'])}"), f"  {prices}{more}"]


def _decision(decision: Mapping[str, Any] | None) -> list[str]:
    if decision is None:
        return []
    params = params_text(decision["params"])
    lines = [_head(f"strategy {decision['strategy']} v{decision['params_version']} {params}".rstrip())]
    if decision["note"]:
        lines.append(f"  {decision['note']}")
    if "target" in decision:
        protections = "".join(
            f", {name.replace('_', ' ')} {decision[name]:g}"
            for name in ("stop_loss", "take_profit")
            if decision[name] is not None
        )
        lines.append(
            f"  target {decision['target_before']:+g} → {decision['target']:+g}{protections}  "
            f"({decision['bars']} bars, {decision['warmup']} to warm up)"
        )
        rows = [
            (f"{value['name']}{_given(value['params'])}", _figure(value["before"]), _figure(value["now"]))
            for value in decision["values"]
        ]
        lines += _aligned([("column", "before", "now"), *rows]) if rows else []
    return lines


def _given(params: Mapping[str, float]) -> str:
    return f"({', '.join(f'{name} {value:g}' for name, value in params.items())})" if params else ""


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.8g}"


def _signal(signal: Mapping[str, Any] | None) -> list[str]:
    if signal is None:
        return []
    size, source = f" {signal['size']}" if signal["size"] else "", signal["source"]
    lines = [
        _head(f"signal {signal['id']}"),
        f"  {time_of(signal['created_at'])}  {signal['kind']} {signal['side']}{size} {signal['symbol']} on "
        f"{signal['account']} "
        f"({signal['venue']}): {signal['state']}{' ' + signal['code'] if signal['code'] else ''}",
    ]
    prices = [
        f"{name.replace('_', ' ')} {price_of(signal[name])}"
        for name in ("reference_price", "limit_price", "stop_price", "stop_loss", "take_profit")
        if signal[name]
    ]
    prices += [f"valid until {time_of(signal['valid_until'])}"] if signal["valid_until"] else []
    prices += [f"proposed by the {source.replace(':', ' ', 1)}"] if source.startswith("agent:") else []
    prices += [f"decided by {signal['decided_by']}"] if signal["decided_by"] else []
    prices += [f"ended by {signal['ended_by']} at {time_of(signal['ended_at'])}"] if signal["ended_by"] else []
    return [*lines, f"  {', '.join(prices)}"] if prices else lines


def _checks(checks: Sequence[Mapping[str, Any]], orders: Sequence[object]) -> list[str]:
    if not checks:
        return [_head("checks"), "  all passed; their figures were not recorded"] if orders else []
    rows = [("check", "", "limit", "seen")]
    rows += [
        (str(c["code"]), click.style(c["outcome"], fg=_TONES.get(c["outcome"])), c["limit"], c["observed"])
        for c in checks
    ]
    return [_head("checks (those without a figure passed)"), *_aligned(rows)]


def _order(order: Mapping[str, Any]) -> list[str]:
    price = order["average_price"] or order["price"] or order["stop_price"]
    lines = [
        _head(f"{order['role']} order {order['client_order_id']}"),
        f"  {order['side']} {order['quantity']} {order['symbol']} "
        f"{order['type']}{f' at {price_of(price)}' if price else ''}: "
        f"{order['state']}, filled {order['filled']}{' ' + (order['code'] or '') if order['code'] else ''}",
    ]
    rows = [
        (
            time_of(e["recv_time"]),
            e["event"],
            f"{e['from_state'] or '–'} → {e['to_state']}",
            e["source"],
            _payload(e["payload"]),
        )
        for e in order["events"]
    ]
    lines += _aligned(rows)
    return lines + [
        f"  fill {time_of(f['time'])}  {f['trade_type'].lower()} {f['quantity']} at {price_of(f['price'])}, fee "
        f"{f['fee']} "
        f"{f['fee_currency']}{', late' if f['is_late'] else ''}  (trade {f['venue_trade_id'] or '–'}, {f['source']})"
        for f in order["fills"]
    ]


def _payload(payload: Mapping[str, Any]) -> str:
    skip = {"row", "checks", "fill_id"}
    return ", ".join(
        f"{name} {value}" for name, value in payload.items() if name not in skip and value not in (None, "")
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns stand under each other, whatever their colours."""
    widths = [max(len(click.unstyle(row[i])) for row in rows) for i in range(len(rows[0]))] if rows else []
    return [
        "  "
        + "  ".join(
            cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
