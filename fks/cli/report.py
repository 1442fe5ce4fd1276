"""`fks report`: a day, a week or a month, as text, as a page, or as JSON."""

from __future__ import annotations

from pathlib import Path

import click

from fks.cli.base import as_json, emit
from fks.cli.client import gateway_of
from fks.portfolio.report import page_of, text_of, title_of


@click.command()
@click.argument("period", type=click.Choice(["daily", "weekly", "monthly"]), default="daily")
@click.option("--day", metavar="YYYY-MM-DD", help="A day of the period. Default: the newest period that is over.")
@click.option("--account", help="This account alone.")
@click.option("--html", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write it as a page to FILE.")
@as_json
@click.pass_context
def report(
    ctx: click.Context, period: str, day: str | None, account: str | None, file: Path | None, as_json: bool
) -> None:
    """Report a UTC day, a week from Monday on, or a month: equity, profit without deposits and withdrawals, executions,
    denials, alerts, and the holdings of now.

    To get it by chat or e-mail each morning: fks schedule add morning report --cron "5 0 * * *", and
    fks alerts rules set report channels=NAME.
    """
    with gateway_of(ctx) as gateway:
        found = gateway.get(f"/reports/{period}", day=day, account=account)
    if file is not None:
        file.write_text(page_of(found), encoding="utf-8")
    emit(found, as_json=as_json, schema="fks.report/1")
    if not as_json:
        click.echo(title_of(found))
        click.echo(text_of(found))
        if file is not None:
            click.echo(f"written to {file}")
