"""A library is imported in part: the part works, the rest is not loaded and says so when it is called."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, sys
from fks.market.exchanges.bybit.exchange import CcxtBybit
from fks.market.exchanges.coinbase.exchange import CcxtCoinbase
from fks.market.exchanges.kraken.exchange import CcxtKraken
from fks.market.exchanges.okx.exchange import CcxtOkx
from fks.trading.venues.ccxt.library import binance, ccxt
from fks.market.exchanges.binance.exchange import CcxtBinance as again
try:
    refused = bool(ccxt.bitget())
except ImportError as error:
    refused = str(error)
print(json.dumps([
    binance is again, all(kind().id for kind in (CcxtBybit, CcxtCoinbase, CcxtKraken, CcxtOkx)), issubclass(ccxt.RequestTimeout, ccxt.NetworkError), binance().id, refused, "ccxt.bitget" in sys.modules,
    sum(name.startswith("ccxt") for name in sys.modules), "fapi" in str(binance().urls),
]))
"""


def test_ccxt_is_loaded_for_the_exchanges_in_use_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    is_same, are_made, is_error, id, refused, is_loaded, modules, has_urls = json.loads(done.stdout)
    assert (is_same, are_made, is_error, id, is_loaded, has_urls) == (True, True, True, "binance", False, True)
    assert refused == "ccxt.bitget was left out of this process"
    assert modules < 60


LEFT_OUT_FIRST = """
import json
from fks.clock import RealClock
from fks.trading.venues.binance.config import SessionConfig
from fks.trading.venues.ccxt.dialect_session import DialectSession
from fks.trading.venues.ccxt.dialects import dialect
DialectSession(dialect("kraken"), SessionConfig("k", "cw=="), RealClock())
from fks.trading.venues.ccxt.library import binance
from fks.market.exchanges.kraken.exchange import CcxtKraken
print(json.dumps([binance().id, CcxtKraken().id]))
"""


def test_a_module_that_was_left_out_is_imported_when_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, "-c", LEFT_OUT_FIRST], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr[-500:]) == ('["binance", "kraken"]', "")
