"""The folder of the bridge, with a lock."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol

from fks.model.errors import ConfigError


class Disk(Protocol):
    """Files of one folder that one process owns. Errors: OSError from every method."""

    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def append(self, name: str, data: bytes) -> None: ...

    def sync(self, name: str) -> None:
        """Return when everything appended so far survives a crash."""
        ...

    def cut(self, name: str, size: int) -> None:
        """Leave the first `size` bytes of a file."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write a whole file so that a crash leaves the old content or the new one."""
        ...


class Folder:
    """A real folder. Errors: ConfigError when another process holds it."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._files: dict[str, int] = {}
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ConfigError(
                f"another bridge uses the folder {path}", remedy="stop it, or choose another --data-dir"
            ) from error

    def names(self) -> list[str]:
        return sorted(one.name for one in self._path.iterdir() if one.is_file() and one.name != "lock")

    def read(self, name: str) -> bytes:
        file = self._path / name
        return file.read_bytes() if file.exists() else b""

    def append(self, name: str, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._open(name), left) :]

    def sync(self, name: str) -> None:
        os.fdatasync(self._open(name))

    def cut(self, name: str, size: int) -> None:
        os.truncate(self._open(name), size)

    def replace(self, name: str, data: bytes) -> None:
        self._close(name)
        draft = self._path / f"{name}.new"
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path / name)
        folder = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Close the files and release the lock."""
        for name in list(self._files):
            self._close(name)
        os.close(self._lock)

    def _open(self, name: str) -> int:
        if name not in self._files:
            self._files[name] = os.open(self._path / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return self._files[name]

    def _close(self, name: str) -> None:
        if name in self._files:
            os.close(self._files.pop(name))
