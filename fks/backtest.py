"""Backtests from Python, under the name that users import: `import fks.backtest as bt`.

Editors and type checkers read this file; importing it gives the package `fks.research.backtest` itself.
"""

import sys

from fks.research import backtest
from fks.research.backtest import *  # noqa: F403
from fks.research.backtest import __all__ as __all__

sys.modules[__name__] = backtest
