"""Guard of the parts of a loop: the fault of one is reported, and does not end the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fks.model.errors import OutageError
from fks.model.ports import Log, Meter

T = TypeVar("T")


class Guard:
    """Calls parts of one loop. Soft state: the fault that each part had last, so that one that lasts is logged once."""

    def __init__(self, loop: str, log: Log, meter: Meter) -> None:
        self._loop = loop
        self._log = log
        self._meter = meter
        self._faults: dict[str, str] = {}

    async def call(self, part: str, action: Callable[[], Awaitable[T]]) -> T | None:
        """Return what `action` returns; None when it fails.

        Each fault counts in `fks_monitor_faults_total`; a new one is logged, and so is the end of one. An outage is no
        fault. Errors: OutageError.
        """
        try:
            result = await action()
        except OutageError:
            raise
        except Exception as error:  # whatever it is: alerts have to be delivered in spite of it
            name, text = f"{self._loop}.{part}", f"{type(error).__name__}: {error}"[:500]
            self._meter.count("fks_monitor_faults_total", kind=name)
            if self._faults.get(part) != text:
                self._faults[part] = text
                self._log.error("monitor.fault", part=name, error=text)
            return None
        if self._faults.pop(part, None) is not None:
            self._log.info("monitor.fault_over", part=f"{self._loop}.{part}")
        return result
