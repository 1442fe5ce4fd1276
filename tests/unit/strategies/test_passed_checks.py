"""A check that was passed is not repeated before the strategy, what it reaches, or the bars change."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

import fks.indicators
from fks.model.bar import Bars, Feature
from fks.research.backtest.run import check_tape, run
from fks.strategies.base import Decisions, StrategyError
from fks.strategies.check import synthetic
from fks.strategies.combination import Combination
from fks.strategies.registry import load_catalogue
from fks.strategies.sma_cross import SmaCross
from tests.support import cheats

HELPER = """\
SHIFT = 0
INNER = 0
def shift():
    return inner()
def inner():
    return INNER
def passed_on():
    return 0
"""
#: each term is 0; one that is 1 looks a bar ahead
MODULE = """\
from functools import partial, wraps
from typing import ClassVar
from dataclasses import dataclass
import numpy as np
from pydantic import PrivateAttr
import fks.indicators
import helper_of_mine
from fks.strategies.base import Decisions, Strategy
from helper_of_mine import shift as imported

CONSTANT = 0
TABLE = {"shift": [0]}
ARRAY = np.zeros(3)

class Thing:
    def __init__(self):
        self.shift = 0

@dataclass(frozen=True)
class Pair:
    shift: int
    def both(self):
        return self.shift

class Slotted:
    __slots__ = ("shift",)
    def __init__(self):
        self.shift = 0

THING, SLOTTED, PAIR = Thing(), Slotted(), Pair(0)

def outer():
    hidden = 0
    def change(value):
        nonlocal hidden
        hidden = value
    return (lambda: hidden), change

closed, change = outer()

def plus():
    return 0

def default(value=0, *, keyword=0):
    return value + keyword

def attributed():
    return attributed.shift
attributed.shift = 0

def decorated(function):
    @wraps(function)
    def wrapper(bars):
        return WRAPPED
    return wrapper
WRAPPED = 0
mean = decorated(np.mean)

def of(module):
    return module.passed_on()

partial_of = [partial(default, 0)]

class Base(Strategy):
    SHIFT: ClassVar[int] = 0
    def based(self):
        return self.SHIFT
    @property
    def asked(self):
        return 0
    @staticmethod
    def static():
        return 0

class Mine(Base):
    name: ClassVar[str] = "mine"
    shift: int = 0
    _kept: int = PrivateAttr(0)
    def keep(self, value):
        self._kept = value
    def warmup(self):
        return 5
    def decide(self, bars):
        shift = (
            self.shift + self._kept + self.based() + self.asked + self.static() + CONSTANT + TABLE["shift"][0] + int(ARRAY[1])
            + THING.shift + SLOTTED.shift + PAIR.both() + closed() + plus() + default() + attributed() + mean(bars) + partial_of[0]()
            + helper_of_mine.SHIFT + helper_of_mine.shift() + imported() + of(helper_of_mine)
            + int(fks.indicators.sma(bars.close, 2)[-1] < 0)
        )
        later = np.concatenate([bars.close[shift:], np.full(shift, bars.close[-1])])
        return Decisions((later > np.concatenate([bars.open[:1], bars.close[:-1]])).astype(float))
"""


@pytest.fixture(scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine_of_mine.py").write_text(MODULE)
    (folder / "helper_of_mine.py").write_text(HELPER)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture
def mine(_files: Path) -> Iterator[ModuleType]:
    yield importlib.import_module("mine_of_mine")
    for name in ("mine_of_mine", "helper_of_mine"):
        sys.modules.pop(name, None)


@pytest.fixture
def bars() -> Bars:
    return synthetic(700)


def _edited(mine: ModuleType) -> None:
    file = Path(str(mine.helper_of_mine.__file__))
    file.write_text(HELPER.replace("INNER = 0", "INNER = 1  # edited"))
    importlib.reload(mine.helper_of_mine)
    file.write_text(HELPER)


def _set(path: str, value: Any) -> Callable[[ModuleType], None]:
    *places, name = path.split(".")

    def change(mine: ModuleType) -> None:
        one: Any = mine
        for place in places:
            one = getattr(one, place)
        setattr(one, name, value)

    return change


def _rewritten(mine: ModuleType) -> None:
    """The class again, as an edited cell of a notebook defines it: under its name, in its module."""
    source = MODULE[MODULE.index("class Mine(") :].replace("return 5", "return 6").replace("self.shift +", "1 +")
    exec(compile(source, "<cell>", "exec"), vars(mine))


def _rewrapped(mine: ModuleType) -> None:
    @wraps(mine.plus)
    def plus() -> int:
        return 1

    vars(mine)["plus"] = plus


CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "a method": lambda mine: setattr(mine.Mine, "based", lambda self: 1),
    "a method of a base": lambda mine: setattr(mine.Base, "based", lambda self: 1),
    "a variable of the class": _set("Mine.SHIFT", 1),
    "a variable of a base": _set("Base.SHIFT", 1),
    "a property": lambda mine: setattr(mine.Base, "asked", property(lambda self: 1)),
    "a static method": lambda mine: setattr(mine.Base, "static", staticmethod(lambda: 1)),
    "a global": _set("CONSTANT", 1),
    "a global, of another type": _set("CONSTANT", True),
    "a list in a dictionary": lambda mine: mine.TABLE["shift"].__setitem__(0, 1),
    "an array": lambda mine: mine.ARRAY.__setitem__(1, 1.0),
    "an object": _set("THING.shift", 1),
    "a method of an object": lambda mine: setattr(mine.Pair, "both", lambda self: 1),
    "an object of a frozen dataclass": lambda mine: setattr(mine, "PAIR", mine.Pair(1)),
    "an object with slots": _set("SLOTTED.shift", 1),
    "a closure": lambda mine: mine.change(1),
    "a function": lambda mine: setattr(mine, "plus", lambda: 1),
    "a function that wraps it": _rewrapped,
    "the code of a function": lambda mine: setattr(mine.plus, "__code__", (lambda: 1).__code__),
    "a default": lambda mine: setattr(mine.default, "__defaults__", (1,)),
    "a keyword's default": lambda mine: setattr(mine.default, "__kwdefaults__", {"keyword": 1}),
    "an attribute of a function": _set("attributed.shift", 1),
    "a function that wraps an installed one": _set("WRAPPED", 1),
    "a partial": lambda mine: mine.partial_of.__setitem__(0, partial(mine.default, 1)),
    "a global of an own module": _set("helper_of_mine.SHIFT", 1),
    "a global that its function reads": _set("helper_of_mine.INNER", 1),
    "a function of an own module": lambda mine: setattr(mine.helper_of_mine, "inner", lambda: 1),
    "a module that is passed on": lambda mine: setattr(mine.helper_of_mine, "passed_on", lambda: 1),
    "an own module, edited and loaded again": _edited,
    "a cell of a notebook": _rewritten,
    "a built-in function": lambda mine: setattr(mine, "int", lambda value: 1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_code_is_checked_again(mine: ModuleType, bars: Bars, change: Callable[[ModuleType], None]) -> None:
    check_tape(mine.Mine(), bars)
    check_tape(mine.Mine(), bars)
    assert len(bars.passed) == 1  # remembered
    change(mine)
    for _ in range(2):  # and a refusal is not
        with pytest.raises(StrategyError, match="looks ahead"):
            check_tape(mine.Mine(), bars)


def test_function_of_fks_that_is_replaced_is_checked_again(
    mine: ModuleType, bars: Bars, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_tape(mine.Mine(), bars)
    monkeypatch.setattr(fks.indicators, "sma", lambda close, length: np.full(len(close), -1.0))
    with pytest.raises(StrategyError, match="looks ahead"):
        check_tape(mine.Mine(), bars)


def test_built_in_strategy_that_is_changed_is_checked_again(bars: Bars, monkeypatch: pytest.MonkeyPatch) -> None:
    check_tape(SmaCross(), bars)
    assert len(bars.passed) == 1

    def cheat(self: Any, given: Bars) -> Decisions:
        return Decisions((cheats.ahead(given.close) > given.close).astype(float))

    monkeypatch.setattr(SmaCross, "decide", cheat)
    with pytest.raises(StrategyError, match="looks ahead"):
        check_tape(SmaCross(), bars)


def test_other_parameters_and_memory_are_checked_again(mine: ModuleType, bars: Bars) -> None:
    strategy = mine.Mine()
    check_tape(strategy, bars)
    with pytest.raises(StrategyError, match="looks ahead"):
        check_tape(mine.Mine(shift=1), bars)
    strategy.keep(1)
    with pytest.raises(StrategyError, match="looks ahead"):
        check_tape(strategy, bars)


def test_changed_part_of_a_combination_is_checked_again(mine: ModuleType, bars: Bars) -> None:
    check_tape(Combination.of([mine.Mine(), SmaCross()]), bars)
    assert len(bars.passed) == 1
    vars(mine)["CONSTANT"] = 1
    with pytest.raises(StrategyError, match="looks ahead"):
        check_tape(Combination.of([mine.Mine(), SmaCross()]), bars)


# ── what is not remembered ───────────────────────────────────────────────────────────────────────
class Clocked(SmaCross):
    """It reads a file, in a function that is never called."""

    name: ClassVar[str] = "clocked"

    def decide(self, bars: Bars) -> Decisions:
        return super().decide(bars) if math.pi else Decisions(np.array(eval("1")))


class Counting(SmaCross):
    """It changes a variable of its class each time."""

    name: ClassVar[str] = "counting"
    calls: ClassVar[list[int]] = [0]

    def decide(self, bars: Bars) -> Decisions:
        self.calls[0] += 1
        return super().decide(bars)


def test_strategy_that_cannot_be_seen_through_is_checked_each_time(bars: Bars) -> None:
    check_tape(Clocked(), bars)
    assert not bars.passed
    calls = []
    for _ in range(2):
        before = Counting.calls[0]
        check_tape(Counting(), bars)
        calls.append(Counting.calls[0] - before)
    assert calls[0] == calls[1] > 40


class Asking(cheats.Ruled):
    """It reads a column beside the bars."""

    name: ClassVar[str] = "asking"

    def features(self) -> tuple[str, ...]:
        return ("own",)


def _late(bars: Bars) -> Any:
    return (bars.close > 1e6) & (cheats.ahead(bars.close) > bars.close)


def test_check_is_of_these_bars_alone(bars: Bars) -> None:
    strategy = cheats.Ruled(rule=_late)
    check_tape(strategy, bars)
    assert len(bars.passed) == 1
    for other in (bars[:], copy.copy(bars[:]), copy.deepcopy(bars), pickle.loads(pickle.dumps(bars)), replace(bars)):
        assert not other.passed
    memory = np.array([bars.open, bars.high, bars.low, bars.close])
    view = replace(bars, open=memory[0], high=memory[1], low=memory[2], close=memory[3])
    check_tape(strategy, view)
    check_tape(strategy, view)
    assert len(view.passed) == 1
    memory *= 1e4
    with pytest.raises(StrategyError, match="looks ahead"):
        check_tape(strategy, view)


def test_changed_columns_beside_the_bars_are_checked_again(bars: Bars) -> None:
    own = Feature(np.zeros(len(bars)), bars.time_ns)
    with_own = bars.with_features({"own": own})
    strategy = Asking(rule=lambda b: (b.features["own"].values > 1e6) & (cheats.ahead(b.close) > b.close))
    check_tape(strategy, with_own)
    check_tape(strategy, with_own)
    assert len(with_own.passed) == 1
    own.values[:] = 1e9
    with pytest.raises(StrategyError, match="looks ahead"):
        check_tape(strategy, with_own)


def test_repeated_run_evaluates_the_strategy_once(bars: Bars) -> None:
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code is SmaCross.decide.__code__

    made = []
    for _ in range(3):
        calls = 0
        sys.setprofile(count)
        try:
            run(load_catalogue().make("sma_cross", {"fast": 5}), bars)
        finally:
            sys.setprofile(None)
        made.append(calls)
    assert made[0] > 40
    assert made[1:] == [1, 1]
