"""Execution of the notebooks in docs/notebooks/. `python -m tests.support.notebooks` runs them whole and stores their
outputs; tests compare the output of each cell with the stored one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))


def executed(path: Path, *, with_long: bool) -> Any:
    """Return a notebook with the outputs of a new run; without the cells tagged long, unless `with_long`."""
    notebook = nbformat.read(path, as_version=4)
    if not with_long:
        notebook.cells = [cell for cell in notebook.cells if "long" not in cell.metadata.get("tags", ())]
    where = {"metadata": {"path": str(path.parent)}}
    with tempfile.TemporaryDirectory(prefix="fks-nb-") as home:  # the kernel's own files, and its sockets
        manager = KernelManager(kernel_name="python3", transport="ipc", connection_file=f"{home}/kernel.json")
        client = NotebookClient(notebook, km=manager, timeout=300, resources=where, coalesce_streams=True)
        client.execute(
            cleanup_kc=True, env=os.environ | {"IPYTHONDIR": home, "FKS_HOME": f"{home}/.fks", "COLUMNS": "100"}
        )
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the run
    return notebook


def outputs(notebook: Any) -> dict[str, list[Any]]:
    """Return each code cell's id -> its outputs: text, or the forms of a value."""
    return {
        cell.id: [one.get("text") or dict(one.data) for one in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def main() -> None:
    for path in NOTEBOOKS:
        print(path.name)
        nbformat.write(executed(path, with_long=True), path)


if __name__ == "__main__":
    main()
