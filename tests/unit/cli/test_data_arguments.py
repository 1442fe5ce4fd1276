"""What the data commands read and say."""

from __future__ import annotations

import pytest

from fks.cli.data import store as data_store
from fks.cli.data.store import Pace, is_symbol, progress, read_words
from fks.config.settings import Settings
from fks.model.errors import InputError


def test_words_are_symbols_and_timeframes_in_any_order() -> None:
    settings = Settings()
    assert read_words(("BTC/USDT", "1h", "1m", "1h"), settings) == (["BTC/USDT"], ["1h", "1m"])
    assert read_words(("mains", "1d", "SOLUSDT", "ALTS"), settings) == (
        ["BTCUSDT", "ETHUSDT", "SOLUSDT", "AVAXUSDT", "SUIUSDT"],
        ["1d"],
    )
    assert read_words(("1INCHUSDT",), settings) == (["1INCHUSDT"], [])
    with pytest.raises(InputError, match="7m"):
        read_words(("BTCUSDT", "7m"), settings)


@pytest.mark.parametrize("text", ["btc-usdt", "BTC/USDT", "BTCUSDT", "Kraken:BTC/USDT", None])
def test_a_symbol_is_meant_in_every_spelling(text: str | None) -> None:
    assert is_symbol(text, "BTCUSDT", "kraken")
    assert is_symbol(text, "BTC-USDT", "kraken")
    assert text is None or not is_symbol(text, "ETHUSDT", "kraken")
    assert is_symbol(text, "BTCUSDT", "binance") == (text != "Kraken:BTC/USDT")


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(data_store.time, "monotonic", lambda: now[0])
    with progress("BTCUSDT 1m", is_shown=True) as told:
        for done in range(0, 1001, 100):
            told(done, 1000)
            now[0] += 4.0
    assert capsys.readouterr().err.splitlines() == [
        "BTCUSDT 1m: 30 %, 25 bars/s, 28 s left",
        "BTCUSDT 1m: 60 %, 25 bars/s, 16 s left",
        "BTCUSDT 1m: 90 %, 25 bars/s, 4 s left",
    ]
    with progress("BTCUSDT 1m", is_shown=False) as told:
        told(1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_rate_is_that_of_the_last_half_minute() -> None:
    pace = Pace(100.0)
    assert pace.rate(0, 100.0) == 0
    assert pace.rate(1000, 110.0) == 100
    assert pace.rate(1000, 200.0) == 0, "what went well at first says nothing of what lies ahead"
    for second in range(201, 261):
        rate = pace.rate(1000 + (second - 200) * 5, float(second))
    assert rate == 5
