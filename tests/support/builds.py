"""Builds of this checkout beside each other, as `ray up` installs them: a virtualenv each, in which FKS is a copy and
the other packages are those of this Python."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

from tests.support.wheel import ROOT

SCRIPT = "#!{python}\nimport sys\nfrom {module} import main\nsys.exit(main())\n"


def make_build(root: Path, name: str, *, change: tuple[str, str] = ("fks/__init__.py", "")) -> Path:
    """Return a new build below `root`, with a text appended to one file. It is not marked as complete."""
    build = root / "builds" / name
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(build)], check=True)
    (place,) = (build / "lib").glob("python*/site-packages")
    for part in ("fks", "actors"):
        shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "serve_app.py", place)
    (place / "others.pth").write_text("".join(f"{entry}\n" for entry in site.getsitepackages()))
    with (place / change[0]).open("a") as file:
        file.write(change[1])
    for program, module in (("fks", "fks.interfaces.cli"), ("ray", "ray.scripts.scripts")):
        script = build / "bin" / program
        script.write_text(SCRIPT.format(python=build / "bin" / "python", module=module))
        script.chmod(0o755)
    return build


def version_of(build: Path) -> str:
    """Return the build's id."""
    command = [str(build / "bin" / "python"), "-P", "-c", "from fks.config.version import VERSION; print(VERSION)"]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout.strip()


def environment(**more: str) -> dict[str, str]:
    """Return our environment without what would have a build import this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more
