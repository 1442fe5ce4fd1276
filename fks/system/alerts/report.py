"""Texts of a report of a day, week or month, for a chat, a terminal and a browser. Pure.

A document has `period`, `start`, `end`, `is_over`, and rows: `accounts` (equity at both ends, `transfers`, `profit`,
its `curve`), `trades` by instance and symbol, `closed` trades of the journal by account, `realized` to the end of the
period, `denials` by code, `alerts` by severity, and the `holdings` of now. That of a portfolio has its name and its
`equity` in its currency, and as they are now `drift` from its targets and `risk`, its limits with what was measured.
Amounts are Decimal or their text. `profit` leaves deposits and withdrawals out. An execution is won or lost if it
closed some of a position; its realised profit is before fees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from typing import Any

from fks.model.decimals import plain

_HOLDINGS_MAX = 10
_CENT = Decimal("0.01")


def title_of(report: Mapping[str, Any]) -> str:
    """Return the title: Daily report, 2026-11-26, or Daily report of main, 2026-11-26."""
    half = timedelta(hours=12)  # a day is named by the date that most of it is in
    start, last = ((datetime.fromisoformat(report[name]) + at).date() for name, at in (("start", half), ("end", -half)))
    dates = {"daily": f"{start}", "weekly": f"{start} to {last}", "monthly": f"{start:%Y-%m}"}[report["period"]]
    of = f" of {report['portfolio']}" if report.get("portfolio") else ""
    return f"{report['period'].capitalize()} report{of}, {dates}" + ("" if report["is_over"] else ", so far")


def text_of(report: Mapping[str, Any]) -> str:
    """Return the report as lines of text, without its title."""
    lines: list[str] = []
    if equity := report.get("equity"):
        whole = "" if equity["is_complete"] else " (a rate is missing)"
        lines.append(
            f"{report['portfolio']}: {_money(equity['equity_end'])} {equity['currency']}{whole}, profit "
            f"{_signed(equity['profit'])}{_percent(equity)}"
            + (f", flows {_signed(equity['transfers'])}" if Decimal(equity["transfers"]) else "")
        )
    for account in report["accounts"]:
        lines.append(
            f"{account['account']} ({account['mode']}): {_money(account['equity_end'])} {account['currency']}, "
            f"profit {_signed(account['profit'])}{_percent(account)}"
            + (f", transfers {_signed(account['transfers'])}" if Decimal(account["transfers"]) else "")
        )
    if not report["accounts"] and not report.get("equity"):
        lines.append("no account has an equity in this period")
    for row in report["trades"]:
        parts = [f"{row['executions']} execution{'' if row['executions'] == 1 else 's'}"]
        if row["won"] or row["lost"]:
            parts.append(f"{row['won']} won, {row['lost']} lost")
        unvalued = f" and {row['fees_unvalued']} without a rate" if row["fees_unvalued"] else ""
        parts += [f"realised {_signed(row['realized'])}", f"fees {_money(row['fees'])}{unvalued}"]
        lines.append(f"{row['instance'] or row['account']} {row['symbol']}: {', '.join(parts)}")
    if not report["trades"]:
        lines.append("no executions")
    for row in report.get("closed", ()):
        lines.append(
            f"{row['account']}: {row['count']} closed trade{'' if row['count'] == 1 else 's'}, {row['won']} won, "
            f"{row['lost']} lost, after fees {_signed(row['profit'])} {row['currency']}{_without_rate(row)}"
        )
    for row in report.get("realized", ()):
        lines.append(
            f"{row['account']}: realised to date {_signed(row['profit'])} {row['currency']}, this year "
            f"{_signed(row['year_profit'])}{_without_rate(row)}"
        )
    if outside := [row["symbol"] for row in report.get("drift", ()) if row["is_outside"]]:
        lines.append(f"outside their bands: {', '.join(outside)}")
    for row in report.get("risk", ()):
        observed = "not known" if row["observed"] is None else plain(Decimal(row["observed"]))
        lines.append(f"limit {row['kind']}: {observed} of {plain(Decimal(row['value']))}")
    lines += _holdings(report["holdings"])
    if report["denials"]:
        lines.append("denied: " + ", ".join(f"{row['code']} {row['count']}" for row in report["denials"]))
    if report["alerts"]:
        lines.append(
            "alerts: "
            + ", ".join(
                f"{row['count']} {row['severity']}" + (f" ({row['open']} open)" if row["open"] else "")
                for row in report["alerts"]
            )
        )
    return "\n".join(lines)


def page_of(report: Mapping[str, Any]) -> str:
    """Return the report as one HTML file that loads nothing from elsewhere."""
    from jinja2 import Environment  # 0.1 s, and a report as text needs none of it

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(money=_money, signed=_signed, percent=_percent, share=_share)
    template = environment.from_string(files("fks.system.alerts").joinpath("report.html").read_text("utf-8"))
    curves = {row["account"]: points for row in report["accounts"] if (points := _points(row["curve"]))}
    if (equity := report.get("equity")) and (points := _points(equity["curve"])):
        curves = {report["portfolio"]: points} | curves
    return template.render(report=report, title=title_of(report), curves=curves)


def _without_rate(row: Mapping[str, Any]) -> str:
    return f" and {row['unvalued']} without a rate" if row["unvalued"] else ""


def _money(amount: Any) -> str:
    return "" if amount is None else f"{Decimal(amount).quantize(_CENT) + 0:,f}"


def _signed(amount: Any) -> str:
    return "" if amount is None else f"{Decimal(amount).quantize(_CENT) + 0:+,f}"


def _share(weight: Any) -> str:
    return "not known" if weight is None else f"{_money(Decimal(weight) * 100)} %"


def _percent(account: Mapping[str, Any]) -> str:
    """Return the profit in percent of the equity at the start; empty for one that was not above zero."""
    start = Decimal(account["equity_start"])
    return f" ({_signed(Decimal(account['profit']) / start * 100)} %)" if start > 0 else ""


def _holdings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    texts = []
    for row in rows[:_HOLDINGS_MAX]:
        profit = row["unrealized_pnl"]
        text = f"{plain(Decimal(row['quantity']))} {row['symbol']}"
        texts.append(text if profit is None else f"{text} ({_signed(profit)})")
    if len(rows) > _HOLDINGS_MAX:
        texts.append(f"{len(rows) - _HOLDINGS_MAX} more")
    return [f"holding now: {', '.join(texts)}"] if texts else ["holding nothing now"]


def _points(curve: Sequence[Mapping[str, Any]]) -> str:
    """Return the points of an SVG polyline in a box of 600 x 120; "" for fewer than two values."""
    if len(curve) < 2:
        return ""
    times = [datetime.fromisoformat(point["time"]).timestamp() for point in curve]
    values = [float(point["equity"]) for point in curve]
    low, high = min(values), max(values)
    width, height = times[-1] - times[0] or 1.0, high - low or 1.0
    return " ".join(
        f"{(time - times[0]) / width * 600:.1f},{115 - (value - low) / height * 110:.1f}"
        for time, value in zip(times, values, strict=True)
    )
