"""Stop loss and take profit as percentages of the deciding bar's close: parameters every built-in strategy has."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from fks.model.bar import Bars, Floats
from fks.strategies.base.strategy import Decisions, Strategy


class Protected(Strategy):
    """A strategy whose entries may carry a stop loss and a take profit, in percent of the deciding bar's close."""

    sl_pct: Annotated[float, Field(gt=0, lt=100)] | None = Field(None, description="stop loss, percent of the close")
    tp_pct: Annotated[float, Field(gt=0, lt=1000)] | None = Field(None, description="take profit, percent of the close")

    def protect(self, bars: Bars, target: Floats) -> Decisions:
        """Return the target with the protections that the parameters ask for; mirrored where it is short."""
        stop = None if self.sl_pct is None else _away(bars, target, -self.sl_pct)
        profit = None if self.tp_pct is None else _away(bars, target, self.tp_pct)
        return Decisions(target, stop, profit)


def _away(bars: Bars, target: Floats, percent: float) -> Floats:
    price = bars.close * (1.0 + target * percent / 100.0)
    return np.where((target != 0.0) & (price > 0.0), price, np.nan)
