"""Processes and places of our own servers: started apart from us, recognised again, stopped for sure; directories and
sockets nobody else can have prepared."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from fks.model.errors import ConfigError
from fks.servers import binaries
from fks.servers.binaries import Account

FREE_MIN_MB = 500
_SOCKET_PATH_MAX = 107  # bytes of sockaddr_un.sun_path


def check_free(home: Path, *, free_min_mb: int = FREE_MIN_MB) -> None:
    """Raise ConfigError when the disk under `home` has less than `free_min_mb` MB free."""
    place = next(parent for parent in (home, *home.parents) if parent.exists())
    free_mb = shutil.disk_usage(place).free // 1_000_000
    if free_mb < free_min_mb:
        raise ConfigError(
            f"only {free_mb} MB free under {place} (at least {free_min_mb} MB)",
            remedy="free some, or set FKS_HOME to another disk",
        )


def check_socket(path: Path) -> None:
    """Raise ConfigError when `path` is too long for a unix socket."""
    size = len(os.fsencode(path))
    if size > _SOCKET_PATH_MAX:
        raise ConfigError(
            f"socket path {path} has {size} bytes (at most {_SOCKET_PATH_MAX})", remedy="set TMPDIR to a short path"
        )


def own_directory(path: Path, *, mode: int, account: Account | None = None) -> None:
    """Make `path` a directory of ours (of `account`), exactly `mode`.

    Errors: ConfigError when somebody else owns it or it is a link: names under /tmp can be guessed.
    """
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    found = path.lstat()
    if path.is_symlink() or found.st_uid not in {os.geteuid(), account.uid if account else os.geteuid()}:
        raise ConfigError(f"{path} belongs to somebody else (uid {found.st_uid})", remedy="remove it, or set TMPDIR")
    if account is not None and found.st_uid != account.uid:
        os.chown(path, account.uid, account.gid)
    if found.st_mode & 0o777 != mode:
        path.chmod(mode)


def spawn(
    command: list[str], *, env: dict[str, str], account: Account | None, log: Path | None, cwd: Path
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own (a Ctrl-C is not for it), its words appended to `log`."""
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(log.open("ab")) if log is not None else subprocess.DEVNULL
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=env,
            cwd=cwd,
            start_new_session=True,
            **binaries.run_as(account),
        )


def runs_in(pid: int, name: str, directory: Path) -> bool:
    """Return whether `pid` is a living `name` whose working directory is `directory`: pids are used again."""
    try:
        process = psutil.Process(pid)
        return (
            process.name() == name
            and process.status() != psutil.STATUS_ZOMBIE
            and Path(process.cwd()).samefile(directory)
        )
    except (psutil.Error, OSError):
        return False


def clear_leftovers(data: Path) -> None:
    """After a kill -9 of the postmaster: wait for its backends (they notice and leave), end those that hang, drop the
    pid file. PostgreSQL itself refuses to start while one lives, or when the pid was given to another process."""
    end = time.monotonic() + 5.0
    while leftovers := [
        p for p in psutil.process_iter(["name"]) if p.info["name"] == "postgres" and runs_in(p.pid, "postgres", data)
    ]:
        if time.monotonic() > end:
            for process in leftovers:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        time.sleep(0.05)
    (data / "postmaster.pid").unlink(missing_ok=True)


def stop(process: subprocess.Popen[bytes] | int, signals: tuple[signal.Signals, ...], timeout_s: float) -> None:
    """Send `signals` one after the other until it ends, giving each `timeout_s`."""
    ended = _waiter(process)
    pid = process if isinstance(process, int) else process.pid
    for number in signals:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if ended(timeout_s):
            return


def _waiter(process: subprocess.Popen[bytes] | int) -> Callable[[float], bool]:
    def ended(timeout_s: float) -> bool:
        try:
            if isinstance(process, int):
                psutil.Process(process).wait(timeout_s)
            else:
                process.wait(timeout_s)
        except psutil.NoSuchProcess:
            return True
        except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
            return False
        return True

    return ended


def last_words(log: Path | None) -> str:
    """Return what a failed server said last, as a remedy."""
    try:
        lines = log.read_text(errors="replace").splitlines() if log is not None else []
    except OSError:
        lines = []
    return f"its last words: {lines[-1].strip()}" if lines else "run 'fks doctor'"
