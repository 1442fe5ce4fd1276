"""Builds of FKS beside each other on one machine: ROOT/builds/NAME, a virtualenv each, and the link ROOT/venv to the
one that runs.

A process keeps the build that it was started from. Ray is started through the link, so a child that starts after the
link was switched is of the new build. An installation without the link (a checkout, one virtualenv) has one build.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import sysconfig
from pathlib import Path

from fks.model.errors import ConfigError

FOLDER, LINK, MARK = "builds", "venv", "fks-build"
TRIED_FILE = "build-tried"  # in FKS_HOME/run: the build to which this machine's keeper went over last
KEPT_MAX = 3  # the one that runs, the one before, the one to come
_PREFIX = Path(sys.prefix).resolve()
#: Read by each Python of the build before anything else: what it imports later is of this build, too.
_PIN = (
    "import os, sys; sys.prefix = sys.exec_prefix = os.path.realpath(sys.prefix); "
    "sys.path[:] = dict.fromkeys(map(os.path.realpath, sys.path))\n"
)


def own() -> Path | None:
    """Return the virtualenv of this process's build; None where builds are not installed beside each other."""
    return _PREFIX if _PREFIX.parent.name == FOLDER else None


def current() -> Path | None:
    """Return the virtualenv to which the link of this machine leads; None without one, and where that is gone."""
    link = _link()
    return link.resolve() if link is not None and link.is_symlink() and link.exists() else None


def is_left() -> bool:
    """Return whether the link leads to another build than this process's."""
    return current() not in (None, own())


def switched_s() -> float:
    """Return when the link was switched last, in unix seconds; 0 without one."""
    link = _link()
    with contextlib.suppress(OSError):
        return link.lstat().st_ctime if link is not None else 0.0
    return 0.0


def switch(build: Path) -> None:
    """Have the link lead to `build`. Errors: ConfigError where a virtualenv of an earlier release has its name."""
    link = build.parent.parent / LINK
    if link.exists() and not link.is_symlink():
        raise ConfigError(
            f"{link} is a virtualenv of an earlier release, not a link to one",
            remedy=f"stop FKS on this machine ('fks node stop'), 'mv {link} {link}.old', then 'ray up' again",
        )
    partial = link.with_name(f"{LINK}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(build)
    partial.replace(link)


def seal(build_id: str) -> None:
    """Mark this process's build as complete, and remove the oldest ones that neither run nor ran last."""
    build = own()
    if build is None:
        return
    for file, text in ((Path(sysconfig.get_path("purelib")) / "fks-build.pth", _PIN), (build / MARK, f"{build_id}\n")):
        if not file.exists() or file.read_text() != text:  # a build that runs is left as it is
            partial = file.with_name(f"{file.name}.{os.getpid()}")
            partial.write_text(text)
            partial.replace(file)
    made = {file.parent: file.stat().st_mtime for file in build.parent.glob("*/pyvenv.cfg")}
    older = [place for place in made if made[place] < made[build] and place != current()]
    for place in sorted(older, key=lambda place: -made[place])[KEPT_MAX - 2 :]:
        remove(place)


def remove(build: Path) -> None:
    """Remove a build: first its mark, so that what an interruption leaves is not taken for complete."""
    (build / MARK).unlink(missing_ok=True)
    shutil.rmtree(build, ignore_errors=True)


def find(build_id: str) -> Path | None:
    """Return the complete build of that id, beside this process's."""
    build = own()
    for mark in sorted(build.parent.glob(f"*/{MARK}")) if build is not None else ():
        if mark.parent != build and mark.read_text().strip() == build_id:
            return mark.parent
    return None


def beside() -> list[Path]:
    """Return the installed packages (site-packages) of the other builds of this machine."""
    build = own()
    found = build.parent.glob("*/lib/python*/site-packages") if build is not None else ()
    return [place for place in found if build not in place.parents]


def program(name: str) -> Path:
    """Return a program of this machine's build, by the link; where there is one build, beside this Python."""
    link = _link()
    return (Path(sys.executable).parent if link is None else link / "bin") / name


def own_python() -> str:
    """Return the Python of this process's build, whatever the link leads to now."""
    build = own()
    return str(build / "bin" / "python") if build is not None else sys.executable


def _link() -> Path | None:
    build = own()
    return None if build is None else build.parent.parent / LINK
