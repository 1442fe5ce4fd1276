"""Write the generated part of docs/configuration.md again: `python -m tests.support.configuration_docs`."""

from __future__ import annotations

from pathlib import Path

from fks.config.reference import reference

MARK = "## All settings\n\n"


def main() -> None:
    """Replace everything below the mark."""
    file = Path(__file__).parents[2] / "docs" / "configuration.md"
    head, mark, _ = file.read_text().partition(MARK)
    file.write_text(head + mark + reference())


if __name__ == "__main__":
    main()
