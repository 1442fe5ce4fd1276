"""Shared parts of all commands: settings of this node, output, errors and exit codes."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fks.model.errors import ConfigError, FksError, InputError, OutageError

if TYPE_CHECKING:
    from fks.config.paths import Paths
    from fks.config.settings import Settings

OK, FAILED, USAGE, NOT_RUNNING, DENIED = 0, 1, 2, 3, 4

#: heading -> name of an item's field, or a function of the item
Columns = Mapping[str, str | Callable[[Any], object]]
#: a template of the document (`{0[name]}`) and the options (`{name}`), the columns of its items, or a function of the
#: document and the options that prints it, or returns the line to print
Text = str | Columns | Callable[..., str | None]
Command = Callable[..., Any]


class NotRunning(FksError):
    """The system, or the component in question, does not run."""


class CommandDenied(FksError):
    """FKS or the gateway refused: a denial code, a missing scope."""


def run(command: click.Command, argv: Sequence[str] | None = None) -> int:
    """Run `command` and return the exit code; print every expected error as one line with its remedy."""
    out = sys.stdout
    try:
        result = command.main(args=list(argv) if argv is not None else None, standalone_mode=False, prog_name="fks")
        return result if isinstance(result, int) else OK
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:  # a group without its command: the list of them, no complaint
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.Abort:
        _complain("stopped")
        return FAILED
    except click.ClickException as error:
        _complain(error.format_message())
        return USAGE
    except FksError as error:
        _complain(str(error))
        return exit_code(error)
    except SystemExit:
        if sys.stdout is not out:  # click met a closed pipe (`fks … | head`) and put a silent stream in its place
            return OK
        raise
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        _complain(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        return FAILED


def exit_code(error: FksError) -> int:
    """Return the stable exit code of an error's class."""
    if isinstance(error, NotRunning):
        return NOT_RUNNING
    if isinstance(error, CommandDenied):
        return DENIED
    if isinstance(error, InputError | ConfigError):
        return USAGE
    return NOT_RUNNING if isinstance(error, OutageError) else FAILED


def _complain(text: str) -> None:
    click.echo(f"{click.style('error:', fg='red')} {text}", err=True)


def home_of(ctx: click.Context) -> str | None:
    """Return --home or FKS_HOME, or None for the default."""
    root = ctx.find_root()
    return (root.obj or {}).get("home") if isinstance(root.obj, dict) or root.obj is None else None


def settings_of(ctx: click.Context) -> Settings:
    """Return this node's checked settings, with those that its environment gave it while it runs. Errors: ConfigError
    naming key, value and remedy."""
    from fks.config import env_file
    from fks.config.endpoints import load_node
    from fks.config.load import ENV_FILE, load
    from fks.system.node.lock import has_keeper

    paths, given = paths_of(ctx), {}
    with contextlib.suppress(OutageError, PermissionError):  # it does not run, or is another user's
        if has_keeper(paths.run):  # a killed node leaves its file, and a copied home carries one
            given = load_node(paths).environ
        if (file := Path(given.get(ENV_FILE, ""))).is_file():
            given = env_file.read(file) | given
    try:
        return load(home_of(ctx), {**given, **os.environ}).settings
    except ConfigError:  # `venue.live`, with keys that the node's environment alone has?
        if given.pop("FKS_VENUE_LIVE", None) is None:
            raise
    return load(home_of(ctx), {**given, **os.environ}).settings


def paths_of(ctx: click.Context) -> Paths:
    """Return this node's paths without reading the whole configuration."""
    from fks.config.paths import Paths

    return Paths.of(Path(home_of(ctx) or ".fks"))


def emit(data: Any, *, as_json: bool, schema: str) -> None:
    """Print `data` as one JSON document with its versioned `schema` name (`fks.status/1`), when asked for JSON.

    Mappings get the key "schema" added; lists become {"schema", "items"}.
    """
    if not as_json:
        return
    import orjson

    document = {"schema": schema, **data} if isinstance(data, Mapping) else {"schema": schema, "items": data}
    click.echo(orjson.dumps(document, default=_plain, option=orjson.OPT_INDENT_2).decode())


def _plain(value: object) -> object:
    from decimal import Decimal
    from enum import Enum

    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    return str(value)


def table(rows: Iterable[Any], headers: Sequence[str] | Columns, *, empty: str = "nothing yet") -> None:
    """Print rows as a table that fits the terminal; colour only on a terminal. `empty` is printed without rows.

    A row is a sequence of cells; under `Columns` it is an item that has them.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if isinstance(headers, Mapping):
        cells = [(lambda item, of=of: item[of]) if isinstance(of, str) else of for of in headers.values()]
        rows = [[cell(item) for cell in cells] for item in rows]
    listed = [[("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not listed:
        click.echo(empty)
        return
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for header in headers:
        grid.add_column(header, overflow="fold")
    for row in listed:
        grid.add_row(*(Text.from_ansi(cell) for cell in row))  # never as markup: an error may say "[http]"
    # into a pipe a row stays one line, however long: `fks orders list | grep` must work
    Console(width=None if sys.stdout.isatty() else 1000).print(grid)


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def options(*given: Command) -> Command:
    """Return a decorator that adds these options and arguments to a command, in this order."""
    return lambda command: functools.reduce(lambda made, add: add(made), reversed(given), command)


def named(*names: str) -> dict[str, str | Callable[[Any], object]]:
    """Return columns of the fields of these names, under their own names as headings."""
    return {name.upper().replace("_", " "): name for name in names}


def result(
    schema: str,
    text: Text | None = None,
    *,
    items: str = "items",
    empty: str | Callable[..., str] = "nothing yet",
    err: bool = False,
    failed: Callable[[Any], bool] | None = None,
) -> Callable[[Command], Command]:
    """Make a command of a function of the context and the options that returns a document: it is printed as JSON with
    --json, else as `text`.

    Columns show the document itself, or its field `items`; without `text` the fields of the items are the columns.
    `empty`, text or a function of the options, is printed when there are no items. `err` sends a line to stderr. The
    exit code is FAILED for a document that has `failed`. A group shows its document when it is called without a
    command.
    """

    def show(found: Any, options: Mapping[str, Any]) -> None:
        if text is None or isinstance(text, Mapping):
            rows = found[items] if isinstance(found, Mapping) else found
            columns = text or (named(*rows[0]) if rows else {})
            table(rows, columns, empty=empty if isinstance(empty, str) else empty(**options))
            return
        line = text.format(found, **options) if isinstance(text, str) else text(found, **options)
        if line is not None:
            click.echo(line, err=err)

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(*, as_json: bool, **options: Any) -> int:
            ctx = click.get_current_context()
            if ctx.invoked_subcommand is not None:
                return OK
            found = function(ctx, **options)
            emit(found, as_json=as_json, schema=schema)
            if not as_json:
                show(found, options)
            return FAILED if failed is not None and failed(found) else OK

        return as_json(command)

    return decorate
