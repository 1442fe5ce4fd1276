"""Each command prints JSON when asked, but for those that are a conversation or write a file for people."""

from __future__ import annotations

from collections.abc import Iterator

import click

from fks.interfaces.cli import cli

#: command -> why it has no --json
WITHOUT = {
    "fks shell": "a Python prompt",
    "fks db shell": "a psql prompt",
    "fks db revision": "writes a source file for a developer",
    "fks mcp": "speaks a protocol of JSON lines",
    "fks config reference": "prints a page of the docs",
    "fks data continuous": "runs until it is stopped",
    "fks data sync continuous": "runs until it is stopped",
}


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _commands(found, f"{path} {name}")
    else:
        yield path, command


def test_every_command_has_json_or_a_reason() -> None:
    options = {path: {text for p in command.params for text in p.opts} for path, command in _commands(cli, "fks")}
    assert len(options) > 100
    assert {path for path, found in options.items() if "--json" not in found} == set(WITHOUT)
