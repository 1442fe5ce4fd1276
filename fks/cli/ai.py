"""`fks ai`: documents, search, and answers with their sources, through the gateway. Texts are printed as they are
stored."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fks.cli.base import named
from fks.cli.client import GatewaySession, gateway_result
from fks.cli.shown import at

_collection = click.option("--collection", help="fks: FKS's own pages; user: added documents (default: both).")


@click.group()
def ai() -> None:
    """Ask and search documents: FKS's own pages, and those that you add. Nothing is downloaded or sent out."""


def _place(item: dict[str, Any]) -> str:
    place = item["document"]["name"]
    return f"{place}: {' > '.join(item['headings'])}" if item["headings"] else place


def _show_answer(answer: dict[str, Any], **_: Any) -> None:
    for number, passage in enumerate(answer["passages"], 1):
        click.echo(f"[{number}] {_place(passage)}\n")
        click.echo("\n".join(f"    {line}" for line in passage["quote"].split("\n")) + "\n")
    if not answer["passages"]:
        click.echo("not found: no passage holds enough of the question", err=True)


@ai.command()
@click.argument("question", nargs=-1, required=True)
@_collection
@gateway_result("fks.answer/1", _show_answer, failed=lambda answer: not answer["passages"])
def ask(gateway: GatewaySession, question: tuple[str, ...], collection: str | None) -> Any:
    """Answer QUESTION with quoted passages and their sources. Exit 1 when nothing is found."""
    return gateway.post("/answer", {"question": " ".join(question), "collection": collection})


@ai.command()
@click.argument("query", nargs=-1, required=True)
@_collection
@click.option("--limit", type=click.IntRange(1, 50), default=10, show_default=True, help="Most chunks.")
@gateway_result(
    "fks.search/1",
    {
        "WORDS": lambda i: f"{i['coverage']:.0%}",
        "WHERE": _place,
        "TEXT": lambda i: " ".join(i["text"].split())[:60],
    },
    empty="nothing is found",
)
def search(gateway: GatewaySession, query: tuple[str, ...], **options: Any) -> Any:
    """List the chunks that fit QUERY, best first."""
    return gateway.post("/search", {"query": " ".join(query), **options})


@ai.group()
def documents() -> None:
    """List, add, show and remove documents."""


@documents.command("list")
@_collection
@gateway_result(
    "fks.documents/1",
    {
        **named("collection", "name", "title", "version", "chunks"),
        "UPDATED": at("updated_at"),
        "ID": "id",
    },
    empty="no documents yet",
)
def list_(gateway: GatewaySession, collection: str | None) -> Any:
    """List documents."""
    return gateway.pages("/documents", sys.maxsize, cursor="after", collection=collection)


@documents.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="Name to store it under (default: the file's).")
@gateway_result("fks.document/1", "{0[name]}: version {0[version]}, {0[chunks]} chunks, id {0[id]}")
def add(gateway: GatewaySession, file: Path, name: str | None) -> Any:
    """Store FILE (text, Markdown or HTML), or its next version."""
    from fks.ai.chunks import decoded, kind_of_name

    body = {"name": name or file.name, "text": decoded(file.read_bytes()), "kind": kind_of_name(file.name)}
    return gateway.post("/documents", body)


def _show_parts(found: dict[str, Any], **_: Any) -> None:
    for part in found["parts"]:
        click.echo(f"{found['name']} {part['start_at']}-{part['end_at']}  {' > '.join(part['headings'])}\n")
        click.echo(f"{part['text']}\n")


@documents.command()
@click.argument("id")
@gateway_result("fks.document-chunks/1", _show_parts)
def show(gateway: GatewaySession, id: str) -> Any:
    """Show a document's chunks."""
    return gateway.get(f"/documents/{id}")


@documents.command()
@click.argument("id")
@gateway_result("fks.document-removed/1", "document {id} is removed")
def remove(gateway: GatewaySession, id: str) -> Any:
    """Remove a document."""
    return gateway.delete(f"/documents/{id}")
