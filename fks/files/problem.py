"""What is wrong with a file, said once and where: file, row, column, what stands there, what to do."""

from __future__ import annotations

from fks.model.errors import InputError


def problem(
    name: str, what: str, *, row: int | None = None, column: str = "", remedy: str = "", code: str = "FILE_BROKEN"
) -> InputError:
    """Return the error to raise. `row` counts lines from 1 as an editor does (in parquet: rows)."""
    place = ", ".join(part for part in (f"row {row}" if row else "", f"column {column}" if column else "") if part)
    return InputError(f"{name}{f' {place}' if place else ''}: {what}", code=code, remedy=remedy)
