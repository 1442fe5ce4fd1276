"""The yardstick: buy at once and keep it."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fks.model.bar import Bars
from fks.strategies.base import Decisions, Protected


class BuyAndHold(Protected):
    """Long from the first bar on."""

    name: ClassVar[str] = "buy_and_hold"

    def warmup(self) -> int:
        return 0

    def decide(self, bars: Bars) -> Decisions:
        return self.protect(bars, np.ones(len(bars)))
