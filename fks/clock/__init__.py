"""Clocks, passed in where time decides something: the machine's, the tests', and one that is wrong on purpose.

`RealClock` is the machine's, `FakeClock` is moved by a test, `WrongClock` is set wrong by `fks chaos` in a demo.
`ClockSteps` measures the steps of the wall clock. `waiting` waits on such a clock.

Imported by: bridge, store, lab, system, market, trading, data, research, interfaces
Begin with: `real.py`
Most important: `real.py`, `fake.py`, `steps.py`
"""

from fks.clock.fake import FakeClock
from fks.clock.real import Clock, RealClock
from fks.clock.steps import ClockSteps
from fks.clock.wrong import WrongClock

__all__ = ["Clock", "ClockSteps", "FakeClock", "RealClock", "WrongClock"]
