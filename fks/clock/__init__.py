"""Clocks are given, never reached for: `Clock` is the port, `RealClock` the real one, `FakeClock` the one tests own,
`WrongClock` the one that `fks chaos` puts wrong in a demo."""

from fks.clock.fake import FakeClock
from fks.clock.real import Clock, RealClock
from fks.clock.wrong import WrongClock

__all__ = ["Clock", "FakeClock", "RealClock", "WrongClock"]
