"""A lazy ccxt is ccxt: the same names, one exchange's modules instead of four hundred."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json, sys
from fks.config.lazy_imports import make_lazy
make_lazy("ccxt", "ccxt.async_support", "ccxt.pro")
import ccxt, ccxt.async_support, ccxt.pro
from ccxt.pro.binance import binance
modules = sum(name.startswith("ccxt") for name in sys.modules)
same = [
    ccxt.pro.binance is binance, issubclass(binance, ccxt.async_support.binance), issubclass(binance, ccxt.async_support.Exchange),
    issubclass(ccxt.RequestTimeout, ccxt.NetworkError), ccxt.binance().id == "binance", ccxt.pro.kraken.__name__ == "kraken",
    "binance" in ccxt.exchanges, ccxt.__version__ == ccxt.async_support.__version__, ccxt.errors.BaseError is ccxt.BaseError,
]
print(json.dumps([modules, same, hasattr(ccxt, "nonsense")]))
"""


def test_a_lazy_ccxt_is_ccxt() -> None:
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=30)
    modules, same, has_nonsense = json.loads(found.stdout)
    assert modules < 40
    assert all(same), same
    assert not has_nonsense
