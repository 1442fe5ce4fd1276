"""A file's symbol becomes the one that its exchange writes, so that it is one series with the collected bars."""

from __future__ import annotations

from pathlib import Path

import pytest

from fks.market.exchanges.registry import EXCHANGES, capabilities_of
from fks.market.files.bars import FileBars, ImportOptions, read_bars
from fks.market.files.symbols import symbol_at
from fks.model.errors import InputError
from fks.model.timeframe import NS
from tests.support.exchange_cases_hot import ALL

NOW = 1_800_000_000 * NS


def read(path: Path, exchange: str, symbol: str = "") -> FileBars:
    path.write_text(
        "time,open,high,low,close,volume\n" + "".join(f"{1_700_000_040 + 60 * i},10,12,9,11,5\n" for i in range(9))
    )
    return read_bars(path, ImportOptions(exchange, symbol), now_ns=NOW)


@pytest.mark.parametrize(
    ("exchange", "expected"),
    [
        ("binance", "BTCUSDT"),
        ("bybit", "BTCUSDT"),
        ("okx", "BTC-USDT"),
        ("coinbase", "BTC-USDT"),
        ("kraken", "BTC/USDT"),
    ],
)
@pytest.mark.parametrize("given", ["BTCUSDT", "BTC/USDT", "btc-usdt", "BTC_USDT", ""])
def test_symbol_is_written_as_its_exchange_does(tmp_path: Path, exchange: str, expected: str, given: str) -> None:
    found = read(tmp_path / "BTCUSDT-1m-2023-11.csv", exchange, given)
    assert (found.exchange, found.bars.symbol) == (exchange, expected)
    assert not any("no exchange" in note for note in found.notes)


@pytest.mark.parametrize(
    ("exchange", "given", "expected"),
    [
        ("kraken", "SOLBTC", "SOL/BTC"),
        ("kraken", "XBT/USDC", "BTC/USDC"),
        ("kraken", "xbtusd", "BTC/USD"),
        ("kraken", "ETHXBT", "ETH/BTC"),
        ("kraken", "XDG/EUR", "DOGE/EUR"),
        ("coinbase", "BTCUSD", "BTC-USD"),
        ("okx", "BTC-USDT-SWAP", "BTC-USDT-SWAP"),
        ("okx", "ETHUSDC", "ETH-USDC"),
        ("polygon", "brk.b", "BRK.B"),
        ("bitstamp", "btc/USD", "btc/USD"),
        ("okx", "ABCXYZ", ""),
        ("okx", "USDT", ""),
    ],
)
def test_the_longest_quote_tells_where_the_base_ends(exchange: str, given: str, expected: str) -> None:
    assert symbol_at(exchange, given) == expected


def test_symbol_without_a_known_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="'ABCXYZ', and okx writes BTC-USDT; say where the base ends: --symbol BASE-QUOTE"
    ):
        read(tmp_path / "x.csv", "okx", "ABCXYZ")


def test_every_exchange_normalises_its_own_symbols() -> None:
    for case in (case for case in ALL.values() if case.name in EXCHANGES):
        symbol, name, *_ = case.instrument
        if capabilities_of(case.name).separator is not None:
            assert {symbol_at(case.name, name), symbol_at(case.name, name.replace("/", ""))} == {symbol}
        assert symbol_at(case.name, symbol) == symbol


def test_impossible_exchange_is_refused_and_unknown_one_noted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'bad exchange!' is no name of an exchange; letters, digits"):
        read(tmp_path / "x.csv", "bad exchange!", "BTCUSDT")
    found = read(tmp_path / "x.csv", "Bitstamp", "BTC/USD")
    assert (found.exchange, found.bars.symbol) == ("bitstamp", "BTC/USD")
    assert any(note.startswith("bitstamp is no exchange that FKS collects from") for note in found.notes)
