"""Strategies for tests, as a user's file: entries by orders that rest, and several entries under one trailing stop."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from fks.strategies.base import BarStrategy, Context


class Protecting(BarStrategy):
    """Parameters of protections, in percent of the close, and how long a position is held."""

    sl_pct: float | None = Field(None, gt=0, lt=100)
    tp_pct: float | None = Field(None, gt=0, lt=100)
    trail_pct: float | None = Field(None, gt=0, lt=100)
    hold: int = Field(4, ge=1, description="bars from the entry to the exit")

    def warmup(self) -> int:
        return 1

    def protections(self, price: float) -> dict[str, Any]:
        """Return the arguments of `Context.buy` that protect an entry at about `price`."""
        return {
            "stop_loss": None if self.sl_pct is None else price * (1 - self.sl_pct / 100),
            "take_profit": None if self.tp_pct is None else price * (1 + self.tp_pct / 100),
            "trail": None if self.trail_pct is None else price * self.trail_pct / 100,
        }


class RestingEntries(Protecting):
    """Buys by an order of `kind` that rests `away_pct` from each close while flat, for `rests` bars."""

    name: ClassVar[str] = "resting_entries"
    kind: Literal["limit", "stop", "stop_limit"] = "limit"
    away_pct: float = Field(0.05, gt=0, lt=10)
    rests: int = Field(3, ge=1)

    def on_bar(self, ctx: Context, bar: Any) -> None:
        if ctx.position:
            if ctx.bars_held + 1 >= self.hold:
                ctx.close()
        elif not ctx.is_waiting:
            away = self.away_pct / 100
            price = bar.close * (1 - away if self.kind == "limit" else 1 + away)
            ctx.buy(
                limit=None if self.kind == "stop" else price,
                stop=None if self.kind == "limit" else price,
                bars=self.rests,
                **self.protections(price),
            )


class MovedTarget(Protecting):
    """Buys at the market and moves stop and take profit at the closes: farther at first, then nearer."""

    name: ClassVar[str] = "moved_target"
    tp_pct: float | None = 0.2
    sl_pct: float | None = 0.2

    def on_bar(self, ctx: Context, bar: Any) -> None:
        if not ctx.position:
            ctx.buy(**self.protections(bar.close))
        elif ctx.bars_held + 1 >= self.hold:
            ctx.close()
        else:
            ctx.move_target(bar.close * (1.002, 1.0006, 1.001)[ctx.bars_held % 3])
            ctx.move_stop(bar.close * 0.9985)


class Pyramid(Protecting):
    """Buys at the market and adds on each of the next bars, up to `entries`."""

    name: ClassVar[str] = "pyramid"
    entries: int = Field(3, ge=1, le=10)

    def entries_max(self) -> int:
        return self.entries

    def on_bar(self, ctx: Context, bar: Any) -> None:
        if ctx.position and ctx.bars_held + 1 >= self.hold:
            ctx.close()
        elif ctx.position:
            ctx.add()
        else:
            ctx.buy(**self.protections(bar.close))
