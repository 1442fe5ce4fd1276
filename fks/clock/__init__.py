"""Clocks, always passed in: the port `Clock`, the machine's `RealClock`, the tests' `FakeClock`, and `WrongClock`,
which `fks chaos` sets wrong in a demo. `ClockSteps` measures the steps of the wall clock."""

from fks.clock.fake import FakeClock
from fks.clock.real import Clock, RealClock
from fks.clock.steps import ClockSteps
from fks.clock.wrong import WrongClock

__all__ = ["Clock", "ClockSteps", "FakeClock", "RealClock", "WrongClock"]
