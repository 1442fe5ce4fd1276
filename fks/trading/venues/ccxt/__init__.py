"""Orders over ccxt: Binance spot with ccxt as its transport (`session`, `venue`), and other exchanges by their dialects
(`dialect`, `dialects`, `dialect_session`, `dialect_venue`).

At Binance the rules about the meaning of an answer are those of `fks.trading.venues.binance`, elsewhere those of the
dialect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fks.trading.venues.binance.config import SessionConfig as CcxtConfig
    from fks.trading.venues.ccxt.venue import CcxtVenue

__all__ = ["CcxtConfig", "CcxtVenue"]


def __getattr__(name: str) -> Any:
    """Return one of `__all__`. ccxt's Binance is imported when it is used: a session at another exchange does without
    it, and dialects are data that need no ccxt."""
    if name == "CcxtConfig":
        from fks.trading.venues.binance.config import SessionConfig

        return SessionConfig
    if name == "CcxtVenue":
        from fks.trading.venues.ccxt.venue import CcxtVenue

        return CcxtVenue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
