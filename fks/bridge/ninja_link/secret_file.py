"""The secret that both ends of a link share, read from its file; and the wait of a link until that file can be used."""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fks.bridge.ninja.auth import parse_secret
from fks.bridge.ninja.machine import LinkState
from fks.bridge.ninja_link.link import is_loopback
from fks.model.errors import ConfigError, OutageError
from fks.model.health import Check, failed
from fks.model.ninja import NINJA, BridgePlatform, LinkReport

if TYPE_CHECKING:
    from fks.bridge.ninja_link.service import LinkPorts

LOOK_S: Final = 1.0  # between two looks at a file that cannot be used; the link's row is written as often


class SecretError(ConfigError):
    """A secret that cannot be used. `code`: secret_missing, secret_unreadable, secret_open, secret_invalid."""

    def __init__(self, message: str, *, code: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


def secret_path(secret_file: str | None, home: Path, platform: BridgePlatform = NINJA) -> Path:
    """Return where a group's secret is."""
    return Path(secret_file).expanduser() if secret_file else home / platform.key_file


def load_secret(
    secret_file: str | None, home: Path, host: str, platform: BridgePlatform = NINJA, *, must_be_private: bool = True
) -> bytes:
    """Return the secret of a bridge at `host`, from `secret_file` or the platform's key file in FKS_HOME.

    `must_be_private`: False for the guardian, whose kill must not fail for the mode of a file.
    Errors: SecretError when the file cannot be read, others can read it, or its secret is too short.
    """
    path = secret_path(secret_file, home, platform)
    try:
        mode, text = stat.S_IMODE(path.stat().st_mode), path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error, platform) from None
    if must_be_private and mode & 0o077:
        raise SecretError(
            f"the secret of {platform.title} is open to others: {path} has mode {mode:04o}",
            code="secret_open",
            remedy=f"run 'chmod 600 {path}'; from a drive of Windows copy the file into FKS_HOME first",
        )
    try:
        return parse_secret(text, source=str(path), is_remote=not is_loopback(host), title=platform.title)
    except ConfigError as error:
        raise SecretError(str(error), code="secret_invalid", remedy=error.remedy) from None


def _unreadable(path: Path, error: OSError | UnicodeDecodeError, platform: BridgePlatform) -> SecretError:
    reason = error.strerror if isinstance(error, OSError) else "it is no text"
    is_missing = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR)
    is_closed = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM)
    own = f"let the user of FKS own the file, and run 'chmod 600 {path}'"
    return SecretError(
        f"the secret of {platform.title} cannot be read: {reason}: {path}",
        code="secret_missing" if is_missing else "secret_unreadable",
        remedy=own if is_closed else platform.key_file_remedy,
    )


class SecretWait:
    """Wait of one link for its secret: a missing file must not end the actor, which would count as crashes."""

    def __init__(
        self, group: str, load: Callable[[], bytes], ports: LinkPorts, platform: BridgePlatform = NINJA
    ) -> None:
        self._group, self._load = platform.key(group), load
        self._component = platform.link(group)
        self._rows, self._alerts, self._clock, self._log = ports.rows, ports.alerts, ports.clock, ports.log
        self._error: SecretError | None = None

    async def look(self) -> bytes | None:
        """Return the secret, or None after its fault is in the row and in an alert. Errors: StaleEpochError."""
        try:
            found = self._load()
        except SecretError as error:
            await self._note(error)
            return None
        if self._error is not None:
            self._log.info("ninja.secret_found", group=self._group)
            self._error = None
        return found

    async def secret(self) -> bytes:
        """Return the secret as soon as its file can be used. Errors: StaleEpochError."""
        while (found := await self.look()) is None:
            await self._clock.sleep(LOOK_S)
        return found

    def problems(self) -> list[Check]:
        """Return why there is no secret, with the remedy; nothing while there is no reason to wait."""
        return [] if self._error is None else [failed("ninja_secret", self._text(self._error), self._group)]

    def detail(self) -> dict[str, object]:
        """Return the alarm, in the form of the link's own detail."""
        return (
            {"group": self._group} if self._error is None else {"group": self._group, "alarm": self._text(self._error)}
        )

    async def _note(self, error: SecretError) -> None:
        """Write the row at each look, and page once for each reason."""
        before, self._error = self._error, error
        text = self._text(error)
        with contextlib.suppress(OutageError):
            await self._rows.record_link(self._group, LinkReport(LinkState.IDLE.value, False, False, (), 0, alarm=text))
        if before is not None and before.code == error.code:
            return
        self._log.error("ninja.secret_unusable", group=self._group, code=error.code, message=str(error))
        with contextlib.suppress(OutageError):
            message, payload = f"{self._component}: {text}", {"code": error.code}
            await self._alerts.note_alert("page", "ninja.secret_unusable", message, self._component, payload)

    @staticmethod
    def _text(error: SecretError) -> str:
        return f"{error.code}: {error}; {error.remedy}"
