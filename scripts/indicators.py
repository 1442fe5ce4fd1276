"""Write fks/indicators/talib_table.py from the installed TA-Lib, and docs/indicators.md from the registry.

`python scripts/indicators.py --check` fails when one of them is out of date.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fks.indicators.functions import talib
from fks.indicators.registry import GROUPS, INDICATORS, Indicator, Param, warmup_text

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "fks" / "indicators" / "talib_table.py"
PAGE = ROOT / "docs" / "indicators.md"


def names_of(text: str) -> frozenset[str]:
    """Return the words of a line."""
    return frozenset(text.split())


#: functions behind rows of their own in fks/indicators/registry.py
OWN_ROWS = names_of("SMA EMA WMA RSI MACD BBANDS STDDEV ATR ADX ROC MAX MIN OBV")
#: names that would be too short, or mean something else to most readers
NAMES = {"KC": "keltner", "HA": "heikin_ashi", "VWAP": "vwap_cumulative", "AC": "accelerator", "AO": "awesome"}
#: two series: the close of the bars and that of the others
TWO_SERIES = dict.fromkeys(("ADD", "SUB", "MULT", "DIV", "BETA", "CORREL"), "close other.close")
PARAMS = {
    "timeperiod": "period",
    "fastperiod": "fast",
    "slowperiod": "slow",
    "signalperiod": "signal",
    "nbdev": "deviations",
    "nbdevup": "deviations_up",
    "nbdevdn": "deviations_down",
    "matype": "ma_type",
    "fastmatype": "fast_ma_type",
    "slowmatype": "slow_ma_type",
    "signalmatype": "signal_ma_type",
    "atrperiod": "atr_period",
    "rocperiod": "roc_period",
    "wmaperiod": "wma_period",
    "roc1period": "roc1_period",
    "roc2period": "roc2_period",
    "firstperiod": "first_period",
    "secondperiod": "second_period",
    "stddevperiod": "stddev_period",
    "minperiod": "period_min",
    "maxperiod": "period_max",
    "timeperiod1": "period1",
    "timeperiod2": "period2",
    "timeperiod3": "period3",
    "leftbars": "left",
    "rightbars": "right",
    "fastlimit": "fast_limit",
    "slowlimit": "slow_limit",
    "vfactor": "volume_factor",
    "startvalue": "start",
    "offsetonreverse": "offset_on_reverse",
    "accelerationinitlong": "acceleration_start_long",
    "accelerationlong": "acceleration_long",
    "accelerationmaxlong": "acceleration_max_long",
    "accelerationinitshort": "acceleration_start_short",
    "accelerationshort": "acceleration_short",
    "accelerationmaxshort": "acceleration_max_short",
}
OUTPUTS = {
    "upperband": "upper",
    "middleband": "middle",
    "lowerband": "lower",
    "macd": "line",
    "macdsignal": "signal",
    "macdhist": "histogram",
    "aroondown": "down",
    "aroonup": "up",
    "bullpower": "bull",
    "bearpower": "bear",
    "swinghigh": "high",
    "swinglow": "low",
    "smisignal": "signal",
    "plusvi": "plus",
    "minusvi": "minus",
    "minidx": "min",
    "maxidx": "max",
    "haopen": "open",
    "hahigh": "high",
    "halow": "low",
    "haclose": "close",
    "leadsine": "lead",
}
#: the value depends on every bar since the first one, and no number of bars bounds how long
PATH = names_of("CUMSUM MAXINDEX MININDEX MINMAXINDEX WAD MAMA SAR SAREXT SUPERTREND AD NVI PVI PVT VWAP")
#: smoothing with weight 1/period: what the first bar weighs falls by e in `period` bars
WILDER = names_of("ADXR CMO DX KC KDJ MINUS_DI MINUS_DM PLUS_DI PLUS_DM STOCHRSI RMA NATR RVI")
#: smoothing with weight 2/(period+1): it falls by e in half a period
EXPONENTIAL = names_of("APO ERI MACDFIX PPO SMI TRIX TSI DEMA TEMA T3 ZLEMA CVI MASSI ADOSC EFI PVO")
#: bars after which the first one weighs less than 1e-7, where it depends on no parameter: the slowest weight of KAMA
#: is (2/31)², that of Heikin-Ashi 1/2; the Hilbert transforms have weights of 0.2 and 0.33 in a chain, measured
FIXED = {"KAMA": 4000, "HA": 32} | {
    f"HT_{name}": 512 for name in ("DCPERIOD", "DCPHASE", "PHASOR", "SINE", "TRENDMODE", "TRENDLINE")
}
#: limits that TA-Lib compares with another parameter, so that trying values alone does not find them
LIMITS = {("MAVP", "minperiod"): (1, 100_000)}
INTEGERS = (-100_000, -1, 0, 1, 2, 3, 4, 5, 8, 13, 14, 20, 100, 1_000, 10_000, 100_000, 100_001, 1_000_000)
REALS = (-3e37, -1e6, -100.0, -1.0, 0.0, 0.01, 0.05, 0.5, 0.99, 1.0, 100.0, 1e6, 3e37)

HEAD = '''"""Metadata of TA-Lib's functions, written by scripts/indicators.py from the installed TA-Lib: do not edit.

A row: our name, TA-Lib's name, group, title, input columns, outputs, parameters (our name, TA-Lib's name, default,
least, most), kind of warm-up, memory. The memory is what `Indicator.memory` is made of: a factor of the lookback for
"wilder" (1) and "exponential" (0.5), or bars.
"""

from __future__ import annotations

Params = tuple[tuple[str, str, float, float, float], ...]
Row = tuple[str, str, str, str, str, str, Params, str, float]

# fmt: off
TALIB: tuple[Row, ...] = (
'''


def limits_of(name: str, info: Mapping[str, Any], param: str, count: int) -> tuple[float, float]:
    """Return the least and the largest value of `param` that TA-Lib accepts, found by calling it."""
    if (name, param) in LIMITS:
        return LIMITS[name, param]
    column = np.arange(1.0, 60.0)

    def is_accepted(value: float) -> bool:
        try:
            getattr(talib(), name)(*[column] * count, **{**info["parameters"], param: value})
        except Exception:
            return False
        return True

    tried: tuple[float, ...] = INTEGERS if isinstance(info["parameters"][param], int) else REALS
    found = [value for value in tried if is_accepted(value)]
    return found[0], found[-1]


def kind_of(name: str) -> tuple[str, float]:
    """Return the kind of warm-up and the memory of a function."""
    if name in PATH:
        return "path", 0.0
    if name in WILDER:
        return "wilder", 1.0
    if name in EXPONENTIAL:
        return "exponential", 0.5
    return ("fixed", float(FIXED[name])) if name in FIXED else ("window", 0.0)


def rows() -> Iterator[str]:
    """Yield the source line of each function."""
    from talib import abstract

    for name in talib().get_functions():
        if name in OWN_ROWS:
            continue
        info = abstract.Function(name).info
        inputs = [v for value in info["input_names"].values() for v in ([value] if isinstance(value, str) else value)]
        count, columns = len(inputs), TWO_SERIES.get(name, " ".join(inputs))
        ours = NAMES.get(name, name.lower())
        outputs = [OUTPUTS.get(out, out) for out in info["output_names"]]
        if outputs in (["real"], ["integer"]):
            outputs = [ours]
        params = tuple(
            (PARAMS.get(param, param), param, default, *limits_of(name, info, param, count))
            for param, default in info["parameters"].items()
        )
        kind, memory = kind_of(name)
        row = (ours, name, info["group"], info["display_name"], columns, " ".join(outputs), params, kind, memory)
        yield f"    {_literal(row)},\n"


def _literal(value: object) -> str:
    """Return the source of a value, with the quotes of this repository."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def table() -> str:
    """Return the source of the table."""
    return HEAD + "".join(rows()) + ")\n"


def page() -> str:
    """Return docs/indicators.md."""
    text = INTRO
    for group in GROUPS:
        found = sorted((row for row in INDICATORS.values() if row.group == group), key=lambda row: row.name)
        text += (
            f"\n## {group}\n\n| Name | What it is | Reads | Parameters | Returns | Bars without a value | Settles |\n"
        )
        text += "|---|---|---|---|---|---|---|\n"
        text += "".join(_line(row) for row in found)
    return text


def _line(row: Indicator) -> str:
    params = {name: param.default for name, param in row.params.items()}
    talib_name = f" (TA-Lib `{row.talib}`)" if row.talib and row.talib.lower() != row.name else ""
    cells = (
        f"`{row.name}`",
        row.summary + talib_name,
        " ".join(row.columns),
        "<br>".join(f"`{name}` {_limits(param)}" for name, param in row.params.items()) or "none",
        " ".join(row.outputs),
        str(row.lookback(params)),
        warmup_text(row),
    )
    return f"| {' | '.join(cells)} |\n"


def _limits(param: Param) -> str:
    if abs(param.least) > 1e30 or abs(param.most) > 1e30:
        return f"{param.default:g}" + (f" (from {param.least:g})" if abs(param.least) < 1e30 else "")
    return f"{param.default:g} ({param.least:g} to {param.most:g})"


COLUMNS = """| Name | What it is | Reads | Parameters | Returns | Bars without a value | Warm-up |
|---|---|---|---|---|---|---|
"""
INTRO = """# Indicators

Written from the registry (`python scripts/indicators.py`). `fks indicators list` and `fks indicators show NAME` print
the same, `--json` too.

```python
from fks.indicators import INDICATORS, compute

compute("macd", bars, fast=8)["histogram"]              # columns of the bars' length, NaN where there is no value yet
compute("sma", bars, period=50, columns=("volume",))    # of other columns than the usual ones, or of your own array
compute("rolling_beta", bars, other=btc, period=240)    # of two series with the same times
INDICATORS["rsi"].lookback({"period": 14})              # bars without a value
INDICATORS["rsi"].settled({"period": 14})               # bars until the first one no longer counts: a warm-up
```

**Warm-up.** *Bars without a value* is for the defaults. How long the first bar counts:

* *window*: a value depends on the last bars only; it settles as soon as there is one.
* *recursive*: what the first bar weighs falls with every bar; after the bars of the last column (for the defaults) it
  is about 1e-7. `settled(params)` gives the bars for your parameters.
* *path*: it depends on every bar since the first (sums from the beginning, trailing stops, positions counted from the
  first bar). No warm-up makes two starts equal for certain: such a strategy can fail the warm-up check.
* *session*: no value until the first session of the bars has begun (VWAP), or a whole one has ended (pivot points).

**Gaps.** For an indicator a row is missing when one of the columns that it reads is NaN or infinite there: a
[further symbol](write-a-strategy.md#further-symbols) has no bar, a division by zero, the first rows of another
indicator. It ends the series. The outputs are NaN on it, and the rows after it are computed as a series that begins
there: first the bars without a value, then values. No number is made of a NaN, or of a 0 in its place, and nothing
before the gap changes.

* *window*: NaN while the window holds a missing row; then what it would be without the gap.
* *recursive*: it begins again. After the bars of the last column it is within 1e-7 of what it would be without the
  gap.
* *path*: it begins again, too. Sums (OBV, A/D, PVT, `cumsum`) begin at their first value, so their level before and
  after a gap cannot be compared; SAR and Supertrend begin a new trend. Positions such as `maxindex` stay rows of the
  whole column.
* *session*: the VWAP is NaN from the missing row to the end of its session. Pivot points are NaN in the session after
  it, and go on in its own.

The functions `sma`, `rsi`, … do the same. `cross_side` and `band_side` are 0 before there are enough values, and NaN
while one of those values is NaN. A bar of `higher` is NaN in the columns that a missing row decides: high, low and
volume; the open if it is the first row, the close if it is the last. Prices with a NaN have no whole ticks
(`to_ticks`, `bars.ticks`): `PRICE_UNKNOWN`.

All modes of FKS start a column at the same anchor bar, so they get the same values to the bit
([write a strategy](write-a-strategy.md)). No indicator uses a later bar: the values of the first k bars never change.
A parameter `ma_type` chooses the average: 0 SMA, 1 EMA, 2 WMA, 3 DEMA, 4 TEMA, 5 TRIMA, 6 KAMA, 7 MAMA, 8 T3, 9 HMA,
10 none, 11 the function's own, 12 ZLEMA, 13 RMA; with a recursive one the indicator is recursive, and with MAMA path.
Candle patterns return 100 (bullish), -100 (bearish) or 0; a few grade them in between or up to 200.
"""

FILES: tuple[tuple[Path, Callable[[], str]], ...] = ((TABLE, table), (PAGE, page))

if __name__ == "__main__":
    for file, make in FILES:
        text = make()
        if file.is_file() and file.read_text() == text:
            continue
        if "--check" in sys.argv:
            sys.exit(f"{file.relative_to(ROOT)} is out of date: run python scripts/indicators.py")
        file.write_text(text)
        if file == TABLE:  # the page is made from the registry, which has the old table in memory
            subprocess.run([sys.executable, *sys.argv], check=True)
            break
