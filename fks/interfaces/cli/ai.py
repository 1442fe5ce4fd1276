"""`fks ai`: documents, search, answers with their sources, and deployed models, through the gateway. Texts are printed
as they are stored. `train`, `evaluate` and `predict` are those of `fks forecast`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

import click

from fks.interfaces.cli.base import Columns, NotRunning, named, result, table
from fks.interfaces.cli.client import GatewaySession, error_of, gateway_of, gateway_result, path_of
from fks.interfaces.cli.doctor import checks_of, show_checks
from fks.interfaces.cli.forecast import evaluate, predict, train
from fks.interfaces.cli.shown import at, time_of
from fks.model.errors import FksError

MODEL_S = 620.0  # the longest ai.answer_timeout_s, and the gateway's own work; also to hash a large file

EMBED_S = 40.0  # the gateway gives up after 30 s

PARSING_S = 60.0  # two files before this one, and its own

_purpose = click.option("--purpose", type=click.Choice(["answer", "embed"]), default="answer", show_default=True)

_collection = click.option("--collection", help="fks: FKS's own pages; user: added documents (default: both).")


@click.group()
def ai() -> None:
    """Ask and search documents, FKS's own pages and those that you add; serve a language model that answers from them.
    Train and evaluate models of forecasts; 'fks forecast' has their other commands. Nothing is downloaded, and nothing
    is sent out without a consent."""


for _command in (train, evaluate, predict):
    ai.add_command(_command)


def _place(item: dict[str, Any]) -> str:
    place = item["document"]["name"]
    return f"{place}: {' > '.join(item['headings'])}" if item["headings"] else place


def _followed(events: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Print the text of a model as it is written, and return the checked answer with it (`printed`)."""
    printed = ""
    for name, found in events:
        if name == "token":
            click.echo(found["text"], nl=False)
            printed += found["text"]
        elif name in ("answer", "error"):
            if printed:
                click.echo("\n")
            if name == "error":
                raise error_of(503, found)
            return {**found, "printed": printed}
    raise NotRunning("the gateway ended the answer before it was whole", remedy="see 'fks status'")


def _show_answer(answer: dict[str, Any], **_: Any) -> None:
    if answer["mode"] == "model":
        if answer["printed"].strip() != answer["answer"]:
            click.echo(f"{answer['answer']}\n")
        numbers = {passage["chunk"]: number for number, passage in enumerate(answer["passages"], 1)}
        for cited in answer["citations"]:
            click.echo(f"    [{numbers[cited['chunk']]}] “{' '.join(cited['quote'].split())}”")
        note = " at OpenAI" if "provider" in answer else ""
        note += "; unconfirmed: it gave no quote, or one that is in no passage" if answer["flagged"] else ""
        click.echo(f"(by the model {answer['model']}{note})\n")
    elif "reason" in answer:
        click.echo(f"the model {answer['model']} did not answer: {answer['reason']}", err=True)
    for number, passage in enumerate(answer["passages"], 1):
        click.echo(f"[{number}] {_place(passage)}\n")
        click.echo("\n".join(f"    {line}" for line in passage["quote"].split("\n")) + "\n")
    if not answer["passages"]:
        click.echo("not found: no passage holds enough of the question", err=True)


@ai.command()
@click.argument("question", nargs=-1, required=True)
@_collection
@click.option("--model", help="Name of the language model (default: the first that serves).")
@gateway_result("fks.answer/1", _show_answer, failed=lambda answer: not answer["passages"])
def ask(gateway: GatewaySession, question: tuple[str, ...], **options: Any) -> Any:
    """Answer QUESTION with quoted passages and their sources, and the text of a language model where one is served,
    which is printed as it is written; Ctrl-C ends it. Exit 1 when nothing is found."""
    body = {"question": " ".join(question), **options}
    if click.get_current_context().params["as_json"]:
        return gateway.post("/answer", body, timeout_s=MODEL_S)
    return _followed(gateway.events("/answer", body, timeout_s=MODEL_S))


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


def _shown_vector(item: dict[str, Any]) -> str:
    if item["embedding"] is None:
        return "(no word of it is known)"
    return " ".join(f"{value:+.4f}" for value in item["embedding"][:6]) + " …"


@ai.command()
@click.argument("text", nargs=-1, required=True)
@click.option("--question", "is_question", is_flag=True, help="Embed TEXT as questions for a search.")
@gateway_result("fks.embeddings/1", {"TEXT": "index", "VECTOR": _shown_vector}, items="data")
def embed(gateway: GatewaySession, text: tuple[str, ...], is_question: bool) -> Any:
    """Turn each TEXT into a vector by the embedder in force; --json has all its numbers, and the embedder's version."""
    body = {"input": list(text), "input_type": "query" if is_question else "document"}
    return gateway.post("/embeddings", body, timeout_s=EMBED_S)


@ai.command()
@click.argument("name")
@click.option(
    "--file",
    type=click.Path(exists=True, path_type=Path),
    help="GGUF file, folder of an ONNX encoder, or with --predict ONNX file, to serve.",
)
@click.option("--sha256", help="Hash that the file, or the files of the folder together, must have.")
@click.option("--engine", type=click.Choice(["llama_cpp", "ollama", "openai_compatible"]), default="llama_cpp")
@click.option("--embed", is_flag=True, help="Make vectors for the search with it, in place of the built-in model.")
@click.option(
    "--predict",
    type=click.File(),
    help="Predict each sealed bar with it, as the column forecast:NAME: JSON with the bars and the features of each "
    "input (docs/ai.md#models-that-trade).",
)
@click.option("--model", help="Name by which the server at --url knows the model.")
@click.option("--url", help="Address of Ollama, or of a server with OpenAI's API.")
@click.option(
    "--gpus",
    type=click.FloatRange(0, 16),
    help="GPUs of each replica: a share such as 0.5, or a whole number; never the CPU in its place.",
)
@click.option("--gpu", is_flag=True, help="As --gpus 1.")
@click.option("--replicas", type=click.IntRange(1, 16), default=1, show_default=True, help="Processes.")
@click.option("--context", type=click.IntRange(2048), default=8192, show_default=True, help="Tokens of one request.")
@click.option("--memory-mb", type=click.IntRange(0), help="Memory that a process may take.  [default: by the file]")
@click.option(
    "--load-s", type=click.FloatRange(0), help="Seconds that a process may take to start.  [default: by the file]"
)
@gateway_result("fks.ai-model/1", lambda one, **_: f"{_shown_deployment(one)}; see 'fks ai models'")
def deploy(
    gateway: GatewaySession,
    name: str,
    file: Path | None,
    model: str | None,
    gpu: bool,
    gpus: float | None,
    context: int,
    embed: bool,
    predict: TextIO | None,
    engine: str,
    **options: Any,
) -> Any:
    """Serve a model as NAME, in place of the one of that name."""
    if (file is None) == (model is None):
        raise click.UsageError("give --file, or --model with --url")
    if gpu and gpus is not None:
        raise click.UsageError("give --gpus or --gpu")
    if embed and predict is not None:
        raise click.UsageError("give --embed or --predict")
    if predict is None and file is not None and file.suffix == ".onnx":
        raise click.UsageError("an ONNX file is served with --predict; an encoder as its folder, with --embed")
    try:
        spec = None if predict is None else json.load(predict)
    except ValueError as error:
        raise click.UsageError(f"the file of --predict is not JSON: {error}") from None
    body = {
        "name": name,
        "model": model or str(file and file.resolve()),
        "gpus": 1.0 if gpu else gpus,
        "context_size": context,
        "engine": "onnx" if spec is not None or (file is not None and file.is_dir()) else engine,
        "purpose": "embed" if embed else "answer" if spec is None else "predict",
        "predict": spec,
    }
    given = {name: value for name, value in (body | options).items() if value is not None}
    return gateway.post("/ai/deployments", given, timeout_s=MODEL_S)


def _shown_deployment(row: dict[str, Any]) -> str:
    history = f"; job {row['job']} fills forecast:{row['name']}" if "job" in row else ""
    return f"{row['name']}: {row['replicas']} × {row['model']} on {_device(row)}{history}"


def _device(row: dict[str, Any]) -> str:
    return f"{row['gpus']:g} GPU" if row.get("gpus") else "CPU"


_MODELS: Columns = {
    **named("name", "state"),
    "READY": lambda i: f"{len(i['ready'])}/{i['replicas']}" if "ready" in i else "",
    **named("purpose", "engine"),
    "DEVICE": _device,
    "MODEL": lambda i: f"{i['model']} at {i['url']}" if i.get("url") else i["model"],
    "REASON": "reason",
    "SINCE": at("state_at"),
}
_PROCESSES: Columns = {
    "PROCESS": "name",
    **named("state", "node"),
    "MEMORY MB": "memory_mb",
    **named("working", "waiting"),
    "TOKENS/S": "tokens_s",
    **named("answered", "busy", "late", "failed"),
    "LAST DEATH": lambda i: f"{time_of(i['died_at'])} {i['death']}" if i["died_at"] else "",
}


def _show_models(found: list[dict[str, Any]], **_: Any) -> None:
    table(found, _MODELS, empty="no model is served; see 'fks ai deploy'")
    if processes := [process for row in found for process in row.get("processes", ())]:
        click.echo()
        table(processes, _PROCESSES)


@ai.command()
@gateway_result("fks.ai-models/1", _show_models)
def models(gateway: GatewaySession) -> Any:
    """List the models that are served and those that cannot be, with the processes of their replicas: memory,
    open requests, tokens a second over the last minute, requests since the process began, and its last death; and the
    versions of models of forecasts in shadow or live, with their drift."""
    versions = [
        one for one in gateway.get("/ai/models")["items"] if one["stage"] in ("shadow", "live") and one["folds"]
    ]
    return [*gateway.get("/ai/deployments")["items"], *map(_served, versions)]


def _served(version: dict[str, Any]) -> dict[str, Any]:
    findings = {} if version["drift"] is None else version["drift"]["findings"]
    return {
        "kind": "forecast",
        "name": f"{version['model']} {version['version']}",
        "state": version["stage"],
        "purpose": "forecast",
        "engine": version["spec"].get("trainer", "lightgbm"),
        "gpus": 0.0,
        "model": f"{' '.join(version['symbols'])} {version['timeframe']}",
        "reason": f"drifts: {'; '.join(findings.values())}" if findings else "",
        "deployed_at": version["staged_at"],
        "state_at": version["staged_at"],
    }


@ai.command()
@click.argument("name")
@gateway_result("fks.ai-model-removed/1", "{name} is no longer served")
def undeploy(gateway: GatewaySession, name: str) -> Any:
    """End the processes of the model NAME; its file and its predictions stay."""
    return gateway.delete(path_of("ai", "deployments", name))


@ai.command()
@click.option("--gpu", is_flag=True, help="Fail where no model can run on a GPU.")
@result("fks.ai-doctor/1", show_checks, failed=lambda found: found["state"] == "fail")
def doctor(ctx: click.Context, gpu: bool) -> Any:
    """Check this machine for language models: GPU, driver, llama.cpp, and the models that are served."""
    from fks.ai.machine import engine_row, gpu_rows, has_gpu_build

    rows, engine = gpu_rows(), engine_row()
    if gpu and engine["state"] == "ok" and not has_gpu_build():
        remedy = "install xllamacpp's build for CUDA; see docs/ai.md"
        engine |= {"state": "fail", "detail": f"{engine['detail']}: no GPU", "remedy": remedy}
    if not gpu:  # the CPU will do
        rows = [row | {"state": "warn" if row["state"] == "fail" else row["state"]} for row in rows]
    return checks_of([*rows, engine, _deployments_row(ctx)])


def _deployments_row(ctx: click.Context) -> dict[str, str]:
    try:
        with gateway_of(ctx) as gateway:
            found = gateway.get("/ai/deployments")["items"]
    except FksError as error:
        return {"name": "deployments", "state": "warn", "detail": error.message, "remedy": "start it: 'fks up'"}
    ill = [f"{one['name']} is {one['state']}: {one['reason']}" for one in found if one["reason"]]
    detail = "; ".join([f"{len(found)} deployment{'s' * (len(found) != 1)}", *ill])
    return {"name": "deployments", "state": "warn" if ill else "ok", "detail": detail, "remedy": "see 'fks ai models'"}


@ai.group()
def consent() -> None:
    """Give consents to have answers written, or vectors made, by OpenAI, list them, and take them back."""


@consent.command("list")
@gateway_result(
    "fks.ai-consents/1",
    {
        **named("collection", "purpose", "model", "daily_budget", "spent_today", "calls_today", "given_by"),
        "GIVEN": at("given_at"),
        "REASON": "reason",
    },
    empty="no consent was given: nothing is sent to OpenAI",
)
def consents(gateway: GatewaySession) -> Any:
    """List the consents, with today's calls and cost (USD), and why nothing is sent at present."""
    return gateway.get("/ai/consents")["items"]


@consent.command()
@click.argument("collection", type=click.Choice(["fks", "user"]))
@click.option("--model", required=True, help="OpenAI's name of the model.")
@click.option("--budget", "daily_budget", required=True, help="USD a day (UTC).")
@click.option("--input-price", required=True, help="USD for a million tokens of requests.")
@click.option("--output-price", help="USD for a million tokens of answers.")
@_purpose
@gateway_result(
    "fks.ai-consent/1", "{0[collection]}: passages may be sent to {0[model]}, for {0[daily_budget]} USD a day"
)
def give(gateway: GatewaySession, **options: Any) -> Any:
    """Let questions with passages of COLLECTION be sent to OpenAI, while no model is deployed here that answers; with
    --purpose embed all its chunks and the questions of searches, while none is deployed that embeds. It needs
    OPENAI_API_KEY, too."""
    return gateway.post("/ai/consents", {name: value for name, value in options.items() if value is not None})


@consent.command()
@click.argument("collection")
@_purpose
@gateway_result("fks.ai-consent-revoked/1", "nothing of {collection} is sent any longer for this purpose")
def revoke(gateway: GatewaySession, collection: str, purpose: str) -> Any:
    """Take the consent for COLLECTION back."""
    return gateway.delete(path_of("ai", "consents", collection, purpose))


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
    """Store FILE (text, Markdown, HTML or PDF), or its next version."""
    from fks.ai.chunks import decoded, kind_of_name

    if file.suffix.lower() == ".pdf":
        pdf = name or file.name
        return gateway.upload("/documents", file.read_bytes(), "application/pdf", timeout_s=PARSING_S, pdf=pdf)
    body = {"name": name or file.name, "text": decoded(file.read_bytes()), "kind": kind_of_name(file.name)}
    return gateway.post("/documents", body, timeout_s=PARSING_S)


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
