"""Report of a UTC day, week or month: its period, and its texts for a chat, a terminal and a browser. Pure.

A document has `period`, `start`, `end`, `is_over`, and rows: `accounts` (equity at both ends, `transfers`, `profit`,
its `curve`), `trades` by instance and symbol, `denials` by code, `alerts` by severity, and the `holdings` of now.
Amounts are Decimal or their text. `profit` leaves deposits and withdrawals out. An execution is won or lost if it
closed some of a position; its realised profit is before fees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from typing import Any, Literal

from fks.model.decimals import plain
from fks.model.timeframe import to_ns

ReportName = Literal["daily", "weekly", "monthly"]
_HOLDINGS_MAX = 10
_CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class ReportPeriod:
    """From `start_ns` up to, without, `end_ns`: a day, a week from Monday on, or a month, UTC."""

    name: ReportName
    start_ns: int
    end_ns: int


def period_of(name: ReportName, day: date) -> ReportPeriod:
    """Return the period that `day` is in."""
    match name:
        case "daily":
            start, end = day, day + timedelta(days=1)
        case "weekly":
            start = day - timedelta(days=day.weekday())
            end = start + timedelta(days=7)
        case "monthly":
            start = day.replace(day=1)
            end = (start + timedelta(days=31)).replace(day=1)
    return ReportPeriod(name, _ns(start), _ns(end))


def last_ended(name: ReportName, today: date) -> ReportPeriod:
    """Return the newest period that is over on `today`."""
    running = period_of(name, today)
    return period_of(name, datetime.fromtimestamp(running.start_ns / 1e9, UTC).date() - timedelta(days=1))


def title_of(report: Mapping[str, Any]) -> str:
    """Return the title: Daily report, 2026-11-26."""
    start, last = _day(report["start"]), _day(report["end"]) - timedelta(days=1)
    dates = {"daily": f"{start}", "weekly": f"{start} to {last}", "monthly": f"{start:%Y-%m}"}[report["period"]]
    return f"{report['period'].capitalize()} report, {dates}" + ("" if report["is_over"] else ", so far")


def text_of(report: Mapping[str, Any]) -> str:
    """Return the report as lines of text, without its title."""
    lines: list[str] = []
    for account in report["accounts"]:
        lines.append(
            f"{account['account']} ({account['mode']}): {_money(account['equity_end'])} {account['currency']}, "
            f"profit {_signed(account['profit'])}{_percent(account)}"
            + (f", transfers {_signed(account['transfers'])}" if Decimal(account["transfers"]) else "")
        )
    if not report["accounts"]:
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
    environment.filters.update(money=_money, signed=_signed, percent=_percent)
    template = environment.from_string(files("fks.portfolio").joinpath("report.html").read_text("utf-8"))
    curves = {row["account"]: points for row in report["accounts"] if (points := _points(row["curve"]))}
    return template.render(report=report, title=title_of(report), curves=curves)


def _ns(day: date) -> int:
    return to_ns(datetime(day.year, day.month, day.day, tzinfo=UTC))


def _day(text: str) -> date:
    return datetime.fromisoformat(text).date()


def _money(amount: Any) -> str:
    return "" if amount is None else f"{Decimal(amount).quantize(_CENT) + 0:,f}"


def _signed(amount: Any) -> str:
    return "" if amount is None else f"{Decimal(amount).quantize(_CENT) + 0:+,f}"


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
