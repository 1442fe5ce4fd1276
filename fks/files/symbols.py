"""A file's symbol as its exchange writes it, so that it is one series with what the collector brings."""

from __future__ import annotations

import re

from fks.exchanges.registry import EXCHANGES, capabilities_of
from fks.model.errors import InputError

#: what symbols without a separator end in; the longest that fits is the quote
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
    """Return an exchange's name in lower case. Errors: InputError EXCHANGE_UNKNOWN for what is none."""
    found = name.strip().lower()
    if not _EXCHANGE.fullmatch(found):
        raise InputError(
            f"{name!r} is no name of an exchange",
            code="EXCHANGE_UNKNOWN",
            remedy="letters, digits, - and _: --exchange bitstamp",
        )
    return found


def letters(symbol: str) -> str:
    """Return what the spellings of a symbol share."""
    return "".join(c for c in symbol.upper() if c.isalnum())


def spelt_at(exchange: str, symbol: str) -> str:
    """Return `symbol` (BTCUSDT, btc/usdt, BTC-USDT) as `exchange` writes it, as it is where nobody knows how that
    writes.

    "" when nothing tells where the base ends and the exchange's form needs to know.
    """
    if exchange not in EXCHANGES:
        return symbol
    separator = capabilities_of(exchange).separator
    if separator is None:
        return symbol.upper()
    if separator == "":
        return letters(symbol)
    parts = [part for part in _PARTS.split(symbol.upper()) if part]
    if len(parts) > 1:
        return separator.join(parts)
    whole = "".join(parts)
    quote = max((quote for quote in QUOTES if whole.endswith(quote) and whole != quote), key=len, default="")
    return f"{whole.removesuffix(quote)}{separator}{quote}" if quote else ""
