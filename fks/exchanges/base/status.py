"""The HTTP status says first whose fault an answer is: ccxt asks some exchanges' bodies before, and takes an overload for a refusal."""

from __future__ import annotations

from typing import Any

from fks.config.libraries import CCXT_INNER, CCXT_KEPT, only

with only("ccxt", inner=CCXT_INNER, kept=CCXT_KEPT):
    import ccxt


class StatusFirst:
    """Mixed into a ccxt class that only reads market data."""

    def handle_errors(self, code: int, reason: str, *rest: Any) -> Any:
        """Raise ccxt's error for a status of asking too much or of trouble on their side; else ask the exchange's own tables."""
        if code in (418, 429):
            raise ccxt.DDoSProtection(f"{code} {reason}")  # what `Rest` takes for a wish to be left alone
        if code >= 500:
            raise ccxt.ExchangeNotAvailable(f"{code} {reason}")
        return super().handle_errors(code, reason, *rest)  # type: ignore[misc]
