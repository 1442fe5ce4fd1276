"""`fks mcp`: tools for an agent on standard input and output, by the Model Context Protocol."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from fks.interfaces.cli.base import paths_of


@click.command()
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="0600 file with the agent's token: 'fks token create --name agent --scope read'.",
)
@click.option("--url", metavar="URL", help="Address of the gateway (default: this node's).")
@click.pass_context
def mcp(ctx: click.Context, token_file: Path, url: str | None) -> None:
    """Serve tools to an agent on standard input and output: reads, and with a token of scope signal a proposal of a
    signal, which waits until a person approves it. Higher scopes count as signal. Ends with its input."""
    from fks.config.endpoints import load_node
    from fks.config.secrets import check_private
    from fks.interfaces.mcp import check_installed, serve_stdio

    check_installed()
    check_private(token_file)
    tls = None
    if url is None:
        node = load_node(paths_of(ctx))
        url, tls = node.gateway_url, node.tls_context()
    asyncio.run(serve_stdio(url, token_file.read_text().strip(), tls))
