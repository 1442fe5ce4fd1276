"""The options --sizing and --size of commands that trade or test a strategy."""

from __future__ import annotations

from typing import Any

import click

SIZING_HELP = (
    "What --size is: notional, quantity, equity_pct, risk_pct (percent of the equity lost at the stop loss), "
    "atr_pct[:BARS] or stdev_pct[:BARS] (percent of the equity that a bar's volatility is worth)."
)
SIZE_HELP = "Quote per entry (notional), base (quantity), or percent of the equity (the others)."


class SizingType(click.ParamType[str]):
    """A sizing, as `fks.risk.sizing.Sizing` reads it."""

    name = "sizing"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the sizing's text. Errors: BadParameter."""
        from fks.model.errors import InputError
        from fks.risk.sizing import Sizing

        try:
            return str(Sizing.parse(str(value)))
        except InputError as error:
            self.fail(str(error), param, ctx)
