"""Make the virtualenv and install the pinned packages; one clear line when this machine cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM = (3, 11)
TESTED = (3, 11)


def fail(text: str) -> None:
    sys.exit(f"error: {text}")


def add_shims(python: Path, folder: Path) -> None:
    """Put the modules of the replaced services (data_sync_service, db_utils) on the virtualenv's import path."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    place = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    (Path(place) / "fks_shims.pth").write_text(f"{folder}\n")


def main() -> None:
    venv = Path(sys.argv[1])
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if sys.version_info < MINIMUM:
        fail(f"FKS needs Python 3.11 or newer, this is {here}; install one and run: make install PYTHON=python3.11")
    if shutil.disk_usage(".").free < 3 * 10**9:
        fail("less than 3 GB free on this disk, and the packages need about 2 GB; make room and run make install again")
    python = venv / "bin" / "python"
    if not python.exists():
        print(f"making {venv} with Python {here}")
        if subprocess.run([sys.executable, "-m", "venv", str(venv)]).returncode != 0:
            fail("cannot make a virtualenv: install the venv package of your Python (Debian: python3-venv)")
    extras = os.environ.get("FKS_EXTRAS", "dev")
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--prefer-binary",
        "--quiet",
        "-c",
        "constraints.txt",
        "-e",
        f".[{extras}]",
    ]
    print("installing the pinned packages (about a minute)")
    if subprocess.run(command).returncode != 0:
        if sys.version_info[:2] != TESTED:
            fail(
                f"a pinned package has no wheel for Python {here}; FKS is tested on 3.11: make install "
                "PYTHON=python3.11"
            )
        fail("the install failed: see the lines above; without network, set up your package index and run it again")
    add_shims(python, Path(__file__).resolve().parents[1] / "shims")
    print("compiling the engine of backtests (some seconds)")
    loops = ("fks.backtest.kernel", "fks.backtest.curve", "fks.indicators.compiled")
    code = f"import importlib\nfor name in {loops!r}: importlib.import_module(name).load()"
    code += f"\nimportlib.import_module({loops[0]!r}).load_orders()"
    subprocess.run([str(python), "-c", code])  # what fails here is compiled at its first use


if __name__ == "__main__":
    main()
