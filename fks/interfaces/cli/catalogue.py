"""Strategies of this node, their parameters and sizing as options, and its database, for the commands that trade or
test a strategy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fks.interfaces.cli.base import options, paths_of

if TYPE_CHECKING:
    from fks.store.db import Database
    from fks.system.process.confined_strategies import ConfinedCatalogue

T = TypeVar("T")
SIZING_HELP = (
    "What --size is: notional, quantity, equity_pct, risk_pct (percent of the equity lost at the stop loss), "
    "atr_pct[:BARS] or stdev_pct[:BARS] (percent of the equity that a bar's volatility is worth)."
)
SIZE_HELP = "Quote per entry (notional), base (quantity), or percent of the equity (the others)."
rule_options = options(
    click.option(
        "--lot", metavar="NUMBER", help="Step of quantities and the least one, in base (default: the instrument's)."
    ),
    click.option("--tick", metavar="NUMBER", help="Step of prices (default: the instrument's)."),
    click.option("--largest", metavar="NUMBER", help="Largest order, in base (default: the instrument's)."),
)
"""Rules of a run, or of imported bars, instead of the instrument's own."""


def catalogue_of(ctx: click.Context, files: Sequence[Path] = ()) -> ConfinedCatalogue:
    """Return the strategies of this node: built-in, installed, the files in its strategies folder, and `files`."""
    from fks.system.process.confined_strategies import ConfinedCatalogue

    return ConfinedCatalogue(paths_of(ctx).strategies, files)


def params_of(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return `--set name=value` pairs as parameters; an empty value means none. Errors: click.BadParameter."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{pair!r} is not name=value", param_hint="--set")
        found[name.strip()] = value.strip() or None
    return found


def params_text(params: Mapping[str, Any]) -> str:
    """Return parameters in one line, without those that are none; a fitted state by its fingerprint."""
    from fks.strategies.base.fitted import shown_params

    return " ".join(f"{name}={value}" for name, value in shown_params(params).items())


def in_database(ctx: click.Context, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run `work` on this node's database, whether FKS runs or not. Errors: OutageError, ConfigError."""
    from fks.interfaces.cli.store import on_database, opened_store

    with opened_store(ctx) as (url, settings, _):
        return asyncio.run(on_database(url, work, settings.database, application="strategies"))


class SizingType(click.ParamType[str]):
    """A sizing, as `fks.trading.risk.sizing.Sizing` reads it."""

    name = "sizing"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the sizing's text. Errors: BadParameter."""
        from fks.model.errors import InputError
        from fks.trading.risk.sizing import Sizing

        try:
            return str(Sizing.parse(str(value)))
        except InputError as error:
            self.fail(str(error), param, ctx)
