"""Symbol normalisation: a file's symbol as its exchange writes it, so that it is one series with the collector's
bars."""

from __future__ import annotations

import re
from collections.abc import Collection

from fks.market.exchanges.registry import EXCHANGES, capabilities_of
from fks.model.errors import invalid
from fks.model.futures import stored_name

#: quotes with which symbols without a separator may end; the longest match is taken
QUOTES = (
    "USDT",
    "USDC",
    "FDUSD",
    "TUSD",
    "BUSD",
    "DAI",
    "USD",
    "EUR",
    "GBP",
    "JPY",
    "AUD",
    "CAD",
    "CHF",
    "TRY",
    "BRL",
    "BTC",
    "ETH",
    "BNB",
)
_EXCHANGE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
_PARTS = re.compile(r"[/_ -]+")


def check_exchange(name: str) -> str:
    """Return an exchange's name in lower case. Errors: InputError EXCHANGE_UNKNOWN for an impossible name."""
    found = name.strip().lower()
    if not _EXCHANGE.fullmatch(found):
        raise invalid(
            "EXCHANGE_UNKNOWN", f"{name!r} is no name of an exchange", "letters, digits, - and _: --exchange bitstamp"
        )
    return found


def alphanumeric(symbol: str) -> str:
    """Return a symbol without separators, in upper case: the part that all spellings share."""
    return "".join(c for c in symbol.upper() if c.isalnum())


def symbol_at(exchange: str, symbol: str) -> str:
    """Return `symbol` (BTCUSDT, btc/usdt, BTC-USDT) as `exchange` writes it; unchanged for an unknown exchange, but
    ESH25 as ES 03-25 for one of futures.

    "" when the exchange separates base and quote and the end of the base is unknown.
    """
    if exchange not in EXCHANGES:
        return stored_name(exchange, symbol)
    capabilities = capabilities_of(exchange)
    separator = capabilities.separator
    if separator is None:
        return symbol.upper()
    if separator == "":
        return alphanumeric(symbol)
    parts = [part for part in _PARTS.split(symbol.upper()) if part]
    if len(parts) < 2:
        parts = _split("".join(parts), capabilities.renamed)
        if not parts:
            return ""
    return separator.join(capabilities.renamed.get(part, part) for part in parts)


def _split(whole: str, renamed: Collection[str]) -> list[str]:
    """Return base and quote of a symbol without a separator; [] when the end of the base is unknown."""
    quotes = (*QUOTES, *renamed)
    old = next((old for old in renamed if whole.startswith(old) and whole.removeprefix(old) in quotes), "")
    if old:  # XBTUSD is of USD, not of TUSD
        return [old, whole.removeprefix(old)]
    quote = max((quote for quote in quotes if whole.endswith(quote) and whole != quote), key=len, default="")
    return [whole.removesuffix(quote), quote] if quote else []
