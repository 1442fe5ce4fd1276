"""The folder of a simulated bridge in memory: it loses what was not synced."""

from __future__ import annotations

import random


class MemoryDisk:
    """A folder in memory. `crash` keeps what was synced and, by chance, a part of the rest: a torn last line."""

    def __init__(self, seed: int = 1) -> None:
        self._dice = random.Random(seed)
        self._synced: dict[str, bytes] = {}
        self._written: dict[str, bytes] = {}
        self.is_full = False
        self.syncs = 0

    def names(self) -> list[str]:
        return sorted(self._written)

    def read(self, name: str) -> bytes:
        return self._written.get(name, b"")

    def append(self, name: str, data: bytes) -> None:
        if self.is_full:
            raise OSError(28, "no space left on device")
        self._written[name] = self.read(name) + data

    def sync(self, name: str) -> None:
        if self.is_full:
            raise OSError(28, "no space left on device")
        self.syncs += 1
        self._synced[name] = self.read(name)

    def cut(self, name: str, size: int) -> None:
        self._written[name] = self.read(name)[:size]

    def replace(self, name: str, data: bytes) -> None:
        self.append(name, b"")
        self._written[name] = self._synced[name] = data

    def crash(self) -> None:
        """Lose what was not synced, except a random beginning of it."""
        for name, written in list(self._written.items()):
            kept = len(self._synced.get(name, b""))
            kept += self._dice.randint(0, len(written) - kept)
            self._written[name] = self._synced[name] = written[:kept]

    def damage(self, name: str, position: int) -> None:
        """Change one byte of a file: a bad sector."""
        data = bytearray(self._written[name])
        data[position] ^= 0xFF
        self._written[name] = self._synced[name] = bytes(data)

    def delete(self, name: str) -> None:
        self._written.pop(name, None)
        self._synced.pop(name, None)
