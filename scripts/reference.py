"""Write docs/cli.md from the commands themselves. `python scripts/reference.py --check` fails when it is out of
date."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from fks.interfaces.cli import COMMANDS, cli

FILE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = """# The fks command

Made from the code (`python scripts/reference.py`). Every command that prints data takes `--json` and then prints one
document with a versioned `schema`. Exit codes: 0 ok, 1 failed, 2 usage or bad input, 3 not running or unreachable,
4 denied.
"""


def describe(command: click.Command, name: str, context: click.Context) -> str:
    """Return the help of a command and of its subcommands."""
    own = click.Context(command, info_name=name, parent=context, max_content_width=100, terminal_width=100)
    text = f"\n## {own.command_path}\n\n```\n{command.get_help(own).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for sub in command.list_commands(own):
            found = command.get_command(own, sub)
            if found is not None:
                text += describe(found, sub, own).replace("\n## ", "\n### ", 1)
    return text


def render() -> str:
    """Return the whole page."""
    context = click.Context(
        cli, info_name="fks", max_content_width=100, terminal_width=100, help_option_names=["-h", "--help"]
    )
    parts = [HEAD]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        parts.append(describe(command, name, context))
    return "".join(parts)


if __name__ == "__main__":
    page = render()
    if "--check" in sys.argv:
        sys.exit(0 if FILE.read_text() == page else "docs/cli.md is out of date: run python scripts/reference.py")
    FILE.write_text(page)
