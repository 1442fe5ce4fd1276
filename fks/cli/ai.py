"""`fks ai`: documents, search, and answers with their sources, through the gateway. Texts are printed as they are
stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fks.cli.base import as_json, emit, table
from fks.cli.client import gateway_of
from fks.cli.shown import time_of

_collection = click.option("--collection", help="fks: FKS's own pages; user: added documents (default: both).")


@click.group()
def ai() -> None:
    """Ask and search documents: FKS's own pages, and those that you add. Nothing is downloaded or sent out."""


@ai.command()
@click.argument("question", nargs=-1, required=True)
@_collection
@as_json
@click.pass_context
def ask(ctx: click.Context, question: tuple[str, ...], collection: str | None, as_json: bool) -> None:
    """Answer QUESTION with quoted passages and their sources. Exit 1 when nothing is found."""
    with gateway_of(ctx) as gateway:
        answer = gateway.post("/answer", {"question": " ".join(question), "collection": collection})
    emit(answer, as_json=as_json, schema="fks.answer/1")
    if not as_json:
        for number, passage in enumerate(answer["passages"], 1):
            click.echo(f"[{number}] {_place(passage)}\n")
            click.echo("\n".join(f"    {line}" for line in passage["quote"].split("\n")) + "\n")
        if not answer["passages"]:
            click.echo("not found: no passage holds enough of the question", err=True)
    if not answer["passages"]:
        ctx.exit(1)


@ai.command()
@click.argument("query", nargs=-1, required=True)
@_collection
@click.option("--limit", type=click.IntRange(1, 50), default=10, show_default=True, help="Most chunks.")
@as_json
@click.pass_context
def search(ctx: click.Context, query: tuple[str, ...], collection: str | None, limit: int, as_json: bool) -> None:
    """List the chunks that fit QUERY, best first."""
    with gateway_of(ctx) as gateway:
        found = gateway.post("/search", {"query": " ".join(query), "collection": collection, "limit": limit})
    emit(found, as_json=as_json, schema="fks.search/1")
    if not as_json:
        rows = [
            (f"{item['coverage']:.0%}", _place(item), " ".join(item["text"].split())[:60]) for item in found["items"]
        ]
        table(rows, ("WORDS", "WHERE", "TEXT"), empty="nothing is found")


@ai.group()
def documents() -> None:
    """List, add, show and remove documents."""


@documents.command("list")
@_collection
@as_json
@click.pass_context
def list_(ctx: click.Context, collection: str | None, as_json: bool) -> None:
    """List documents."""
    items: list[dict[str, Any]] = []
    after = None
    with gateway_of(ctx) as gateway:
        while True:
            page = gateway.get("/documents", collection=collection, after=after, limit=1000)
            items += page["items"]
            after = page["next"]
            if after is None:
                break
    emit(items, as_json=as_json, schema="fks.documents/1")
    if not as_json:
        rows = [
            (i["collection"], i["name"], i["title"], i["version"], i["chunks"], time_of(i["updated_at"]), i["id"])
            for i in items
        ]
        table(rows, ("COLLECTION", "NAME", "TITLE", "VERSION", "CHUNKS", "UPDATED", "ID"), empty="no documents yet")


@documents.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="Name to store it under (default: the file's).")
@as_json
@click.pass_context
def add(ctx: click.Context, file: Path, name: str | None, as_json: bool) -> None:
    """Store FILE (text, Markdown or HTML), or its next version."""
    from fks.ai.chunks import decoded, kind_of_name

    text = decoded(file.read_bytes())
    kind = kind_of_name(file.name)
    with gateway_of(ctx) as gateway:
        stored = gateway.post("/documents", {"name": name or file.name, "text": text, "kind": kind})
    emit(stored, as_json=as_json, schema="fks.document/1")
    if not as_json:
        click.echo(f"{stored['name']}: version {stored['version']}, {stored['chunks']} chunks, id {stored['id']}")


@documents.command()
@click.argument("id")
@as_json
@click.pass_context
def show(ctx: click.Context, id: str, as_json: bool) -> None:
    """Show a document's chunks."""
    with gateway_of(ctx) as gateway:
        found = gateway.get(f"/documents/{id}")
    emit(found, as_json=as_json, schema="fks.document-chunks/1")
    if not as_json:
        for part in found["parts"]:
            click.echo(f"{found['name']} {part['start_at']}-{part['end_at']}  {' > '.join(part['headings'])}\n")
            click.echo(f"{part['text']}\n")


@documents.command()
@click.argument("id")
@as_json
@click.pass_context
def remove(ctx: click.Context, id: str, as_json: bool) -> None:
    """Remove a document."""
    with gateway_of(ctx) as gateway:
        answer = gateway.delete(f"/documents/{id}")
    emit(answer, as_json=as_json, schema="fks.document-removed/1")
    if not as_json:
        click.echo(f"document {id} is removed")


def _place(item: dict[str, Any]) -> str:
    place = item["document"]["name"]
    return f"{place}: {' > '.join(item['headings'])}" if item["headings"] else place
