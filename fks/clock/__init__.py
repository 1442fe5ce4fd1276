"""Clocks, always passed in: the port `Clock`, the machine's `RealClock`, the tests' `FakeClock`, and `WrongClock`,
which `fks chaos` sets wrong in a demo."""

from fks.clock.fake import FakeClock
from fks.clock.real import Clock, RealClock
from fks.clock.wrong import WrongClock

__all__ = ["Clock", "FakeClock", "RealClock", "WrongClock"]
