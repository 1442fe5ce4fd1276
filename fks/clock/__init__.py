"""Clocks are given, never reached for: `Clock` is the port, `RealClock` the real one, `FakeClock` the one tests own."""

from fks.clock.fake import FakeClock
from fks.clock.real import Clock, RealClock

__all__ = ["Clock", "FakeClock", "RealClock"]
