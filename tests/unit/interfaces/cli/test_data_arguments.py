"""Arguments and progress output of the data commands."""

from __future__ import annotations

import pytest

from fks.config.settings import Settings
from fks.interfaces.cli.data import store as data_store
from fks.interfaces.cli.data.store import Pace, is_symbol, parse_series, progress
from fks.model.errors import InputError


def test_arguments_are_symbols_and_timeframes_in_any_order() -> None:
    settings = Settings()
    assert parse_series(("BTC/USDT", "1h", "1m", "1h"), settings) == (["BTC/USDT"], ["1h", "1m"])
    assert parse_series(("mains", "1d", "SOLUSDT", "ALTS"), settings) == (
        ["BTCUSDT", "ETHUSDT", "SOLUSDT", "AVAXUSDT", "SUIUSDT"],
        ["1d"],
    )
    assert parse_series(("1INCHUSDT",), settings) == (["1INCHUSDT"], [])
    with pytest.raises(InputError, match="7m"):
        parse_series(("BTCUSDT", "7m"), settings)


@pytest.mark.parametrize("text", ["btc-usdt", "BTC/USDT", "BTCUSDT", "Kraken:BTC/USDT", None])
def test_symbol_is_found_in_every_spelling(text: str | None) -> None:
    assert is_symbol(text, "BTCUSDT", "kraken")
    assert is_symbol(text, "BTC-USDT", "kraken")
    assert text is None or not is_symbol(text, "ETHUSDT", "kraken")
    assert is_symbol(text, "BTCUSDT", "binance") == (text != "Kraken:BTC/USDT")


def test_progress_without_a_terminal_is_printed_as_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(data_store.time, "monotonic", lambda: now[0])
    with progress("BTCUSDT 1m", is_shown=True) as report:
        for done in range(0, 1001, 100):
            report(done, 1000)
            now[0] += 4.0
    assert capsys.readouterr().err.splitlines() == [
        "BTCUSDT 1m: 30 %, 25 bars/s, 28 s left",
        "BTCUSDT 1m: 60 %, 25 bars/s, 16 s left",
        "BTCUSDT 1m: 90 %, 25 bars/s, 4 s left",
    ]
    with progress("BTCUSDT 1m", is_shown=False) as report:
        report(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_rate_is_that_of_the_last_half_minute() -> None:
    pace = Pace(100.0)
    assert pace.rate(0, 100.0) == 0
    assert pace.rate(1000, 110.0) == 100
    assert pace.rate(1000, 200.0) == 0, "what went well at first says nothing of what lies ahead"
    for second in range(201, 261):
        rate = pace.rate(1000 + (second - 200) * 5, float(second))
    assert rate == 5
