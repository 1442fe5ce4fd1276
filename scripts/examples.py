"""Run every command of the tutorial and of the pages in docs/examples/ on a system of their own, and write what they
print into the pages.

`python scripts/examples.py` (two minutes; the ports of `fks up` must be free); `--check` writes nothing. In a block
```console each line after `$ ` is a command, up to the next one stands its output. `<!-- until: REGEX -->` before a
block repeats each of its commands for up to 90 s until its output matches; `<!-- exit: N -->` is the status it ends
with. The sample report is written and photographed too, where chromium is found.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
#: in this order, on one system
PAGES = ("tutorial.md", "examples/why.md", "examples/incident.md")
PATIENCE_S = 90.0
_BLOCK = re.compile(r"((?:<!-- (?:until|exit): .*? -->\n)*)```console\n(.*?)```", re.DOTALL)
#: file -> the command that writes it, in the order of its pages
REPORTS = {
    "report": "fks backtest run donchian --timeframe 1h --tape sample --set sl_pct=2",
    "search": "fks optimize run sma_cross -p fast=5:50:5 -p slow=20:200:20 --timeframe 15m --tape sample "
    "--validation combinatorial --folds 5",
}
KEPT = ("report.html", "report.png", "search.png")


def run(command: str, folder: Path, until: str, exit_code: int) -> str:
    """Run one command line as a person would, and return what it prints. Errors: SystemExit with its output."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FKS_") and name != "VIRTUAL_ENV"
    }
    environment |= {"FKS_HOME": str(folder / ".fks"), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    deadline = time.monotonic() + PATIENCE_S
    while True:
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        text = done.stdout + done.stderr
        if done.returncode == exit_code and re.search(until, text):
            return text.rstrip()
        if time.monotonic() > deadline or not until:
            for more in ("fks signals list -n 8", "fks orders list -n 8", "fks alerts"):
                text += subprocess.run(
                    ["bash", "-c", more], cwd=folder, env=environment, capture_output=True, text=True
                ).stdout
            sys.exit(f"$ {command}\nended with {done.returncode}, expected {exit_code} and /{until}/:\n{text}")
        time.sleep(0.5)


def page(text: str, folder: Path) -> str:
    """Return a page with the outputs of its commands, run in order."""

    def block(match: re.Match[str]) -> str:
        rules = dict(re.findall(r"<!-- (until|exit): (.*?) -->", match[1]))
        parts = []
        for command in re.findall(r"^\$ (.*)$", match[2], flags=re.MULTILINE):
            print(f"$ {command}", flush=True)
            output = run(command, folder, rules.get("until", ""), int(rules.get("exit", 0)))
            lines = [line.rstrip() for line in output.splitlines()]
            parts.append("\n".join([f"$ {command}", *lines]) + "\n")
        return f"{match[1]}```console\n{''.join(parts)}```"

    return _BLOCK.sub(block, text)


def reports(folder: Path) -> None:
    """Write the sample reports and their pictures."""
    browser = shutil.which("chromium")
    for name, command in REPORTS.items():
        target = folder / f"{name}.html"
        run(f"{command} --report {target}", folder, "report", 0)
        if browser is None:
            continue
        options = ("--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1280,900")
        picture = f"--screenshot={folder / name}.png"
        subprocess.run(
            [browser, *options, "--virtual-time-budget=4000", picture, target.as_uri()],
            check=True,
            capture_output=True,
            timeout=120,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="run the commands and write nothing")
    is_check = parser.parse_args().check
    with tempfile.TemporaryDirectory(prefix="fks-examples-") as name:
        folder = Path(name)
        try:
            for place in PAGES:
                written = page((DOCS / place).read_text(), folder)
                if not is_check:
                    (DOCS / place).write_text(written)
        finally:
            run("fks down", folder, "", 0)
        reports(folder)
        for made in KEPT:
            if not is_check and (folder / made).is_file():
                shutil.copyfile(folder / made, DOCS / "examples" / made)


if __name__ == "__main__":
    main()
