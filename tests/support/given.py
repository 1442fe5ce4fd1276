"""A strategy whose decisions are given, bar by bar."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import ConfigDict

from fks.model.bar import Bars
from fks.strategies.base import Decisions, Strategy


class Given(Strategy):
    """Decisions as they are given."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)
    name: ClassVar[str] = "given"
    target: tuple[float, ...]
    stop: tuple[float, ...] | None = None
    limit: tuple[float, ...] | None = None
    trail: tuple[float, ...] | None = None
    entry_limit: tuple[float, ...] | None = None
    entry_stop: tuple[float, ...] | None = None
    entry_bars: tuple[float, ...] | None = None
    share: tuple[float, ...] | None = None
    move: tuple[float, ...] | None = None
    target_move: tuple[float, ...] | None = None
    warm: int = 0
    most: int = 1

    def warmup(self) -> int:
        return self.warm

    def entries_max(self) -> int:
        return self.most

    def decide(self, bars: Bars) -> Decisions:
        part = slice(-len(bars), None)
        entry = (self.entry_limit, self.entry_stop, self.entry_bars)
        columns = (self.stop, self.limit, *entry, self.trail, self.share, self.move, self.target_move)
        levels = (None if v is None else np.array(v)[part] for v in columns)
        return Decisions(np.array(self.target)[part], *levels)
