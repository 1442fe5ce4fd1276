"""`fks report`: a day, a week or a month, as text, as a page, or as JSON; the stored reports and their delivery."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fks.interfaces.cli.base import Columns, as_json, emit, named
from fks.interfaces.cli.client import GatewaySession, gateway_of, gateway_result, path_of
from fks.interfaces.cli.shown import at
from fks.model.accounting.period import ReportName
from fks.system.alerts.report import page_of

_html = click.option(
    "--html", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write it as a page to FILE."
)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        as_json,
        _html,
        click.option("--portfolio", help="Of this portfolio, whose days end when it says."),
        click.option("--account", help="This account alone."),
        click.option(
            "--day", metavar="YYYY-MM-DD", help="A day of the period. Default: the newest period that is over."
        ),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@_options
@click.pass_context
def report(ctx: click.Context, /, **options: Any) -> None:
    """Report a day, a week from Monday on, or a month: equity, profit without deposits and withdrawals, executions,
    closed trades, realised profit to date, denials, alerts, and the holdings of now. Without a command: of a day.

    Reports of portfolios are made and delivered when their periods end. To get one of all accounts by chat or e-mail
    each morning: fks schedule add morning report --cron "5 0 * * *", and fks alerts rules set report channels=NAME.
    """
    if ctx.invoked_subcommand is None:
        _show(ctx, "daily", **options)


def _show(
    ctx: click.Context,
    period: ReportName,
    *,
    day: str | None,
    account: str | None,
    portfolio: str | None,
    file: Path | None,
    as_json: bool,
) -> None:
    with gateway_of(ctx) as gateway:
        found = gateway.get(f"/reports/{period}", day=day, account=account, portfolio=portfolio)
    _print(found, file, as_json)


def _print(found: dict[str, Any], file: Path | None, as_json: bool) -> None:
    if file is not None:
        file.write_text(page_of(found), encoding="utf-8")
    emit(found, as_json=as_json, schema="fks.report/1")
    if not as_json:
        click.echo(found["title"])
        click.echo(found["text"])
        if file is not None:
            click.echo(f"written to {file}")


@report.command()
@_options
@click.pass_context
def daily(ctx: click.Context, /, **options: Any) -> None:
    """Report a day."""
    _show(ctx, "daily", **options)


@report.command()
@_options
@click.pass_context
def weekly(ctx: click.Context, /, **options: Any) -> None:
    """Report a week, from Monday on."""
    _show(ctx, "weekly", **options)


@report.command()
@_options
@click.pass_context
def monthly(ctx: click.Context, /, **options: Any) -> None:
    """Report a month."""
    _show(ctx, "monthly", **options)


def _messages(i: dict[str, Any]) -> str:
    return ", ".join(f"{row['channel']} {row['state']}{' late' if row['is_late'] else ''}" for row in i["deliveries"])


_STORED: Columns = {
    **named("id", "period"),
    "FROM": at("start"),
    "TO": at("end"),
    "OF": lambda i: i["portfolio"] or "all accounts",
    "": lambda i: "late" if i["is_late"] else "",
    "MESSAGES": _messages,
}


@report.command("list")
@click.option("--portfolio", help="Of this portfolio.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Most rows.")
@gateway_result("fks.reports/1", _STORED, empty="no reports yet; they are made when a period ends")
def list_(gateway: GatewaySession, **query: Any) -> Any:
    """List the stored reports, newest first, and what became of their messages."""
    return gateway.get("/reports", **query)["items"]


@report.command()
@click.argument("id", type=click.UUID)
@_html
@as_json
@click.pass_context
def show(ctx: click.Context, /, id: object, file: Path | None, as_json: bool) -> None:
    """Show a stored report as it was made."""
    with gateway_of(ctx) as gateway:
        found = gateway.get(path_of("reports", str(id)))
    _print(found, file, as_json)


@report.command()
@click.argument("id", type=click.UUID)
@click.option("--channel", required=True, help="Channel of alerts: fks alerts channels.")
@gateway_result("fks.report/1", "{0[title]}: {channel} gets it")
def send(gateway: GatewaySession, id: object, channel: str) -> Any:
    """Send a stored report to a channel, once; one that was given up is tried again."""
    return gateway.post(path_of("reports", str(id), "send"), {"channel": channel})
