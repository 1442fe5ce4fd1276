"""Confinement of a process that runs code of users: no network, no other process, and no files but those it needs.

Landlock (Linux 5.13 and later) limits the files, seccomp the system calls. Both hold for the process until it ends,
whatever its code does; neither needs a privilege. `missing` returns what this machine lacks.

Run as a program (`python -m fks.system.process.confinement MODULE [--read PATH]... [--write PATH]`) it imports a
module, confines the process and calls the module's `main`.

Sources: landlock(7), seccomp(2) and the kernel's documentation of both.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import os
import platform
import resource
import signal
import struct
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

#: environment that such a process keeps: no address of a server and no secret is among it
KEPT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "NO_COLOR")
FILE_MAX_MB: Final = 64  # of the files in its folder for temporary ones
_MEMORY_MIN_MB: Final = 2048

# ── landlock ─────────────────────────────────────────────────────────────────────────────────────
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(6))
_MAKE_DIR, _MAKE_FILE, _TRUNCATE = 1 << 7, 1 << 8, 1 << 14
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_FILE | _TRUNCATE
_ON_FILES = _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE  # the rest holds for folders alone
#: rights on files by version of the interface: 1 has the first 13, 2 adds refer, 3 truncate, 5 ioctl of devices
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_NET_RIGHTS = 3  # TCP bind and connect, from version 4 on
_SCOPES = 3  # abstract UNIX sockets and signals, from version 6 on
_SYSTEM_READ: Final = (
    "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/etc/localtime",
    "/etc/ld.so.cache", "/dev/zero", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo",
    "/sys/devices/system/cpu",
)  # fmt: skip

# ── seccomp ──────────────────────────────────────────────────────────────────────────────────────
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD = 0x00010000
_PR_SET_PDEATHSIG, _FS_IOC_SETFLAGS, _FS_IOC_FSSETXATTR = 1, 0x40086602, 0x401C5820
_NEWER: Final = 463  # the first call that FKS does not know; from 424 on numbers are the same on every architecture
#: architecture -> (its number in seccomp, clone, clone3, prctl, ioctl, the calls allowed for the process itself, the
#: refused calls). The latter are sockets, other processes and programs, what would get around the filter or landlock
#: (io_uring, handles of files, namespaces), modes and owners of files and notices about them (inotify), which landlock
#: does not limit, files in memory, which no limit counts, accounts and sessions, and System V's memory and queues.
_CALLS: Final[Mapping[str, tuple[int, int, int, int, int, tuple[int, ...], tuple[int, ...]]]] = {
    "x86_64": (
        0xC000003E, 56, 435, 157, 16, (302, 203),
        (
            41, 101, 310, 311, 62, 200, 234, 129, 297, 434, 424, 438, 425, 426, 427, 272, 308, 165, 166, 155, 161, 321,
            298, 250, 248, 249, 323, 59, 322, 57, 58, 304, 303, 90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 280, 261,
            188, 189, 190, 197, 198, 199, 141, 142, 144, 29, 30, 31, 67, 64, 65, 66, 220, 68, 69, 70, 71, 240, 241,
            246, 175, 313, 169, 227, 159, 305, 164, 170, 171, 428, 429, 430, 431, 432, 433, 442, 440, 312, 314, 251,
            319, 447, 253, 254, 294, 300, 105, 106, 113, 114, 116, 117, 119, 122, 123, 126, 109, 112, 103, 163, 167,
            168, 179, 443, 176, 320, 172, 173,
        ),
    ),
    "aarch64": (
        0xC00000B7, 220, 435, 167, 29, (261, 122),
        (
            198, 117, 270, 271, 129, 130, 131, 138, 240, 434, 424, 438, 425, 426, 427, 97, 268, 40, 39, 41, 51, 280,
            241, 219, 217, 218, 282, 221, 281, 265, 264, 52, 53, 452, 54, 55, 88, 5, 6, 7, 14, 15, 16, 140, 118, 119,
            194, 195, 196, 197, 190, 191, 192, 193, 186, 187, 188, 189, 180, 181, 104, 105, 273, 142, 112, 171, 266,
            170, 161, 162, 428, 429, 430, 431, 432, 433, 442, 440, 272, 274, 30,
            279, 447, 26, 27, 262, 143, 144, 145, 146, 147, 149, 151, 152, 159, 91, 154, 157, 116, 89, 224, 225, 60,
            443, 106, 294,
        ),
    ),
}  # fmt: skip


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def landlock_version() -> int:
    """Return the version of the kernel's landlock interface; 0 without one."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(_libc().syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def _has_filters() -> bool:
    """Return whether the kernel has seccomp filters: it then finds that none is at address 0."""
    _libc().prctl(_PR_SET_SECCOMP, _FILTER, None, 0, 0)
    return ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS)


def missing() -> str:
    """Return what this machine lacks to confine code of users, for a person; "" when nothing is lacking."""
    if not sys.platform.startswith("linux"):
        return f"landlock and seccomp are of Linux, this is {sys.platform}"
    lacking = []
    if (version := landlock_version()) < 1:
        lacking.append("the kernel has no landlock (lsm=landlock,… on its command line, Linux 5.13 or later)")
    elif version < 3:
        lacking.append(f"landlock's version is {version}: files can be cut short (Linux 6.2 has version 3)")
    if platform.machine() not in _CALLS:
        lacking.append(f"the numbers of system calls on {platform.machine()} are not known to FKS")
    elif not _has_filters():
        lacking.append("the kernel has no seccomp filters")
    return "; ".join(lacking)


def confined_command(module: str, readable: Iterable[Path], scratch: Path | None = None) -> list[str]:
    """Return the command that runs a module's `main` in a confined process; `scratch` is its folder for files."""
    options = [text for path in readable for text in ("--read", str(path))]
    options += [] if scratch is None else ["--write", str(scratch)]
    return [sys.executable, "-P", "-m", "fks.system.process.confinement", module, *options]


def environment(scratch: Path | None = None) -> dict[str, str]:
    """Return the environment of a confined process; `scratch` is its folder for temporary files."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    if scratch is not None:
        kept |= {name: str(scratch) for name in ("HOME", "TMPDIR", "NUMBA_CACHE_DIR")}
    return kept


def confine(readable: Iterable[Path], scratch: Path | None = None) -> None:
    """Confine this process and its threads to come: it reads Python, the system's libraries and `readable`, writes
    `scratch`, opens no socket, starts no process and sends no signal. Call it while it has one thread.

    A part that this machine lacks is left out: see `missing`. Errors: OSError when the kernel refuses a part it has.
    """
    _limit_memory()
    if not sys.platform.startswith("linux"):
        return
    libc = _libc()
    _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if version := landlock_version():
        read = dict.fromkeys([*_python(), *map(Path, _SYSTEM_READ), *readable], _READ)
        written = {Path(os.devnull): _READ | _WRITE_FILE} | ({scratch: _WRITE} if scratch else {})
        listed = {Path(place): _READ_DIR for place in sys.path if place}  # the import system lists them
        _limit_files(libc, version, [*listed.items(), *read.items(), *written.items()])
    if platform.machine() in _CALLS and _has_filters():
        program = _filter(*_CALLS[platform.machine()])
        buffer = ctypes.create_string_buffer(program, len(program))
        head = struct.pack("HL", len(program) // 8, ctypes.addressof(buffer))
        _checked(libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.c_char_p(head), 0, 0), "seccomp")


def _python() -> list[Path]:
    """Return the folders of the interpreter, of the installed packages and of FKS itself."""
    import fks

    places = [sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *fks.__path__]
    return [Path(place) for place in dict.fromkeys(places)]


def _limit_memory() -> None:
    """Limit the address space to half of the machine's memory, at least 2 GB, and the size of a file."""
    half_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**21
    for kind, most in (
        (resource.RLIMIT_AS, max(half_mb, _MEMORY_MIN_MB) * 2**20),
        (resource.RLIMIT_FSIZE, FILE_MAX_MB * 2**20),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _limit_files(libc: ctypes.CDLL, version: int, allowed: Iterable[tuple[Path, int]]) -> None:
    handled = _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]
    ruleset = struct.pack("QQQ", handled, _NET_RIGHTS, _SCOPES)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = libc.syscall(_CREATE, ruleset, ctypes.c_size_t(len(ruleset)), ctypes.c_uint32(0))
    _checked(rules, "landlock")
    try:
        for path, rights in allowed:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # it is not on this machine
            try:
                rights &= handled if path.is_dir() else handled & _ON_FILES
                rule = struct.pack("=Qi", rights, place)
                _checked(libc.syscall(_ADD, rules, _PATH_BENEATH, rule, ctypes.c_uint32(0)), f"landlock for {path}")
            finally:
                os.close(place)
        _checked(libc.syscall(_RESTRICT, rules, ctypes.c_uint32(0)), "landlock")
    finally:
        os.close(rules)


def _filter(
    architecture: int, clone: int, clone3: int, prctl: int, ioctl: int, own: Sequence[int], refused: Sequence[int]
) -> bytes:
    """Return the program of the filter, 8 bytes an instruction: it ends the process on another architecture, refuses
    new processes but not new threads, and has clone3 as not implemented, so that libc uses clone, and the calls newer
    than this module. `own` calls take a process as their first argument, and only 0, the caller, is allowed. prctl may
    not undo the end with the parent, ioctl not change attributes of files."""
    load, jump_eq, jump_ge, jump_set, end = 0x20, 0x15, 0x35, 0x45, 0x06
    denied, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    numbers = sorted(set(refused))
    program = [
        (load, 0, 0, 4),  # the architecture
        (jump_eq, 1, 0, architecture),
        (end, 0, 0, _KILL),
        (load, 0, 0, 0),  # the number of the call
        (jump_ge, 0, 1, 0x40000000),  # x32, where the same calls have other numbers
        (end, 0, 0, _KILL),
        (jump_eq, 0, 1, clone3),
        (end, 0, 0, absent),
        (jump_eq, 0, 4, clone),
        (load, 0, 0, 16),  # its first argument: the flags
        (jump_set, 0, 1, _CLONE_THREAD),
        (end, 0, 0, _ALLOW),
        (end, 0, 0, denied),
    ]
    program += [(jump_ge, 0, 1, _NEWER), (end, 0, 0, absent)]
    for number, argument, value in (
        (prctl, 0, _PR_SET_PDEATHSIG), (ioctl, 1, _FS_IOC_SETFLAGS), (ioctl, 1, _FS_IOC_FSSETXATTR)
    ):  # fmt: skip
        program += [(jump_eq, 0, 4, number), (load, 0, 0, 16 + 8 * argument), (jump_eq, 0, 1, value)]
        program += [(end, 0, 0, denied), (load, 0, 0, 0)]
    for number in own:
        program += [(jump_eq, 0, 4, number), (load, 0, 0, 16), (jump_eq, 0, 1, 0), (end, 0, 0, _ALLOW)]
        program += [(end, 0, 0, denied)]
    program += [(jump_eq, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    program += [(end, 0, 0, _ALLOW), (end, 0, 0, denied)]
    return b"".join(struct.pack("HBBI", *line) for line in program)


def ends_with_parent() -> None:
    """End this process with the thread that started it, where the system can: elsewhere a hung one stays."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _checked(result: int, part: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{part}: {os.strerror(number)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Import a module, call its `prepare` if it has one, confine the process and call the module's `main`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    module, options = given[0], dict[str, list[Path]]()
    for option, path in zip(given[1::2], given[2::2], strict=True):
        options.setdefault(option, []).append(Path(path))
    program = importlib.import_module(module)
    ends_with_parent()  # the filter refuses to undo it
    getattr(program, "prepare", lambda: None)()
    confine(options.get("--read", ()), next(iter(options.get("--write", ())), None))
    program.main()


if __name__ == "__main__":
    main()
