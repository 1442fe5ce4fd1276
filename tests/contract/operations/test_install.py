"""Packages that `make install` gets are those whose hashes the checkout holds, and no others."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts import install

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def make_wheel(folder: Path, name: str, text: str) -> str:
    """Write a wheel with one module and return its SHA-256."""
    file, info = folder / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    members = {f"{name}.py": text, f"{info}/METADATA": METADATA.format(name=name), f"{info}/WHEEL": WHEEL}
    record = "".join(f"{member},,\n" for member in (*members, f"{info}/RECORD"))
    with zipfile.ZipFile(file, "w") as archive:
        for member, content in (members | {f"{info}/RECORD": record}).items():
            archive.writestr(zipfile.ZipInfo(member), content)
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """Return a folder of wheels, beside a checkout with their hashes."""
    folder, hashes = tmp_path / "wheels", tmp_path / "checkout" / "deploy" / "hashes"
    folder.mkdir()
    hashes.mkdir(parents=True)
    for file, name in (("build", "backend"), ("fks", "traded"), ("ai", "asked")):
        digest = make_wheel(folder, name, "REAL = True\n")
        (hashes / f"{file}.txt").write_text(f"{name}==1.0 \\\n    --hash=sha256:{digest}\n")
    return folder


def installed(wheels: Path) -> tuple[list[tuple[int, str]], set[str]]:
    """Run the commands that install packages, without an index; return their results, and the modules installed."""
    place, checkout = wheels.parent / "installed", wheels.parent / "checkout"
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    results = []
    for command in install.pip_commands(sys.executable, ["ai"], checkout, hashed=True)[:-1]:
        done = subprocess.run(
            [*command, "--target", str(place)],
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        results.append((done.returncode, done.stdout))
    return results, {file.stem for file in place.glob("*.py")}


def test_packages_are_installed_from_a_folder_without_an_index(wheels: Path) -> None:
    results, modules = installed(wheels)
    assert [status for status, _ in results] == [0, 0], results
    assert modules == {"backend", "traded", "asked"}


def test_changed_wheel_is_refused_and_named(wheels: Path) -> None:
    make_wheel(wheels, "asked", "REAL = False\n")
    results, modules = installed(wheels)
    assert [status for status, _ in results] == [0, 1]
    assert "asked" in results[1][1]
    assert "not the one that FKS was tested with" in install.cause_of(results[1][1], "3.11")
    assert modules == {"backend"}, "nothing beside it was installed either"


def test_package_without_a_hash_is_refused(wheels: Path) -> None:
    with (wheels.parent / "checkout" / "deploy" / "hashes" / "fks.txt").open("a") as file:
        file.write("added==1.0\n")
    make_wheel(wheels, "added", "")
    results, modules = installed(wheels)
    assert results[1][0] == 1
    assert "added" in results[1][1]
    assert modules == {"backend"}
