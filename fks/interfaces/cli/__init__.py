"""The fks command: a table of commands, each loaded only when it is used, so that `fks --help` stays under 0.3 s."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from fks import __version__

#: command -> (module with an attribute of the command's name, dashes as underscores; one-line help)
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("fks.interfaces.cli.demo", "Run a backtest on the shipped sample, with its report; starts no server."),
    "up": ("fks.interfaces.cli.up", "Start everything and show what happens; Ctrl-C stops it in order."),
    "down": ("fks.interfaces.cli.up", "Stop a system that runs in the background."),
    "node": ("fks.interfaces.cli.node", "Run this machine as the head or a worker of a cluster."),
    "cluster": ("fks.interfaces.cli.cluster", "Check a cluster before and while it runs."),
    "restart": ("fks.interfaces.cli.restart", "Restart one part, drained, and wait until it is well again."),
    "deploy": ("fks.interfaces.cli.deploy", "Bring every part to the installed build, one at a time; and back."),
    "status": ("fks.interfaces.cli.status", "Show components, feeds, venues and the kill switch."),
    "tree": ("fks.interfaces.cli.tree", "Draw the supervision tree and what happened last; live with --watch."),
    "events": ("fks.interfaces.cli.events", "Show what happened to the parts: starts, ends, restarts, escalations."),
    "alerts": ("fks.interfaces.cli.alerts", "List what wants a person; rules, channels and silences of alerts."),
    "monitor": ("fks.interfaces.cli.monitor", "Show services with uptime; run deep checks; register services."),
    "schedule": ("fks.interfaces.cli.schedule", "List, add, edit, run, pause and remove schedules."),
    "doctor": ("fks.interfaces.cli.doctor", "Check this machine and the running system; name what to fix."),
    "logs": ("fks.interfaces.cli.logs", "Show logs of all or one component."),
    "config": ("fks.interfaces.cli.config", "Show, check, explain and change the settings."),
    "security-setup": ("fks.interfaces.cli.security", "Make strong secrets in a 0600 file."),
    "db": ("fks.interfaces.cli.db", "Migrate and inspect the database."),
    "shell": ("fks.interfaces.cli.shell", "A Python prompt with the store open, read-only unless asked."),
    "chaos": ("fks.interfaces.cli.chaos", "Hurt a demo system on purpose and audit what is left."),
    "reset": ("fks.interfaces.cli.reset", "Clear all data and start again (asks, and backs up first)."),
    "sim": ("fks.interfaces.cli.sim", "The local exchange."),
    "token": ("fks.interfaces.cli.users", "Create, list and revoke API tokens."),
    "users": ("fks.interfaces.cli.users", "Add, change, unlock and disable users, and end their sessions."),
    "audit": ("fks.interfaces.cli.users", "Show what was changed, by whom, from where."),
    "secrets": (
        "fks.interfaces.cli.secrets",
        "Store the keys of venues encrypted; list, rotate, import and remove them.",
    ),
    "webhooks": ("fks.interfaces.cli.webhooks", "Make, rotate, test and list webhooks (TradingView)."),
    "data": ("fks.interfaces.cli.data", "Load, sync and inspect market data."),
    "assets": ("fks.interfaces.cli.assets", "List, enable and disable what is collected."),
    "instruments": (
        "fks.interfaces.cli.instruments",
        "Show futures contracts: specifications, front month, expiry and roll.",
    ),
    "indicators": ("fks.interfaces.cli.indicators", "List and show indicators: inputs, parameters, warm-up."),
    "strategies": ("fks.interfaces.cli.strategies", "List, show, check and make strategies."),
    "signals": ("fks.interfaces.cli.orders", "List signals; approve or reject them."),
    "denials": ("fks.interfaces.cli.orders", "Value the entries that were denied, expired or declined."),
    "orders": ("fks.interfaces.cli.orders", "List, show, place, cancel and settle orders."),
    "why": ("fks.interfaces.cli.why", "Show why an order was placed, denied, or never made."),
    "fills": ("fks.interfaces.cli.orders", "List fills."),
    "lots": ("fks.interfaces.cli.lots", "List lots, and export a year of disposals for a tax return."),
    "journal": ("fks.interfaces.cli.journal", "List closed trades; note, tag and export them."),
    "report": ("fks.interfaces.cli.report", "Report a day, a week or a month: equity, executions, denials."),
    "ninja": ("fks.interfaces.cli.ninja", "Work with NinjaTrader 8 and the rules of its prop accounts."),
    "mt5": (
        "fks.interfaces.cli.mt5",
        "Work with MetaTrader 5: its state in FKS, its agent, and the package for Windows.",
    ),
    "positions": ("fks.interfaces.cli.orders", "Show positions and profit."),
    "reconcile": ("fks.interfaces.cli.incidents", "Compare the journal with the venues now."),
    "incidents": ("fks.interfaces.cli.incidents", "List and close what only a person can explain."),
    "portfolio": ("fks.interfaces.cli.portfolio", "Value accounts and strategies together: list, holdings, equity."),
    "accounts": ("fks.interfaces.cli.accounts", "List, create and change accounts."),
    "venues": ("fks.interfaces.cli.venues", "List the ways to send orders, and the facts that each relies on."),
    "kill": ("fks.interfaces.cli.kill", "Engage the kill switch: cancel, flatten, deny entries."),
    "resume": ("fks.interfaces.cli.kill", "Release the kill switch."),
    "ai": ("fks.interfaces.cli.ai", "Ask and search documents; serve language models."),
    "mcp": ("fks.interfaces.cli.mcp", "Serve tools to an agent by the Model Context Protocol."),
    "forecast": (
        "fks.interfaces.cli.forecast",
        "Train models of returns; evaluate, promote and roll back; fill predictions.",
    ),
    "optimize": ("fks.interfaces.cli.optimize", "Search parameters, judged on held-back bars; promote and roll back."),
    "backtest": ("fks.interfaces.cli.backtest", "Run backtests here, or submit them as durable jobs."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"; did you mean 'fks {close[0]}'?" if close else "; see 'fks --help'"
            raise click.UsageError(f"no such command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="fks")
@click.option("--home", metavar="DIR", envvar="FKS_HOME", help="Where all state lives (default .fks, or FKS_HOME).")
@click.pass_context
def cli(ctx: click.Context, home: str | None) -> None:
    """FKS: a trading runtime that is allowed to crash."""
    if home is None:  # a checkout on a Windows drive under WSL cannot hold a database
        from fks.config.home import default_home

        home = default_home()
    ctx.obj = {"home": home}


def main(argv: list[str] | None = None) -> Any:
    """Run the command line: one clear line and a stable exit code for every error (0 ok, 1 failed, 2 usage,
    3 not running, 4 denied); never a traceback."""
    from fks.interfaces.cli.base import run

    sys.exit(run(cli, argv))
