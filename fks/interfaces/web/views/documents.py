"""Documents: asking them, their list, and one of them; the language models that write answers, and forecasts."""

from __future__ import annotations

from typing import Any

from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit

KINDS = (("", "by its name"), "text", "markdown", "html")
_ROWS = 500


async def load(visit: Visit) -> dict[str, Any]:
    """Return the documents, with those of persons first."""
    found = await visit.read_all(
        own=("/documents", {"collection": "user", "limit": _ROWS}),
        shipped=("/documents", {"collection": "fks", "limit": _ROWS}),
        models="/ai/deployments",
    )
    return {**found, "kinds": KINDS}


async def load_one(visit: Visit) -> dict[str, Any]:
    """Return one document with its passages."""
    return await visit.read_all(document=f"/documents/{visit.request.path_params['id']}")


async def load_models(visit: Visit) -> dict[str, Any]:
    """Return the language models that are served, the versions of models of forecasts, and the newest forecasts."""
    return await visit.read_all(models="/ai/deployments", versions="/ai/models", forecasts="/forecasts")


async def ask(visit: Visit, form: Form) -> ActionResult:
    """Answer a question with quotes of the documents. It changes nothing, so scope read is enough."""
    body = {"question": form.needed("question", "the question")}
    answer = (await visit.change("POST", "/answer", body, csrf=form.text("csrf"))).body
    if answer["state"] == "not_found":
        return ActionResult("Nothing that is stored holds enough of the question.", kind="bad")
    details, links = [], []
    for number, passage in enumerate(answer["passages"], 1):
        source = passage["document"]
        where = " › ".join(passage["headings"] or (source["title"] or source["name"],))
        details.append((f"[{number}] {where}", passage["quote"]))
        links.append((f"[{number}] {source['name']}", f"/documents/{source['id']}#c-{passage['chunk']}"))
    text = answer.get("answer") or "Passages that answer it; no language model wrote a text."
    if "answer" in answer and "provider" in answer:
        text += f" (Written by {answer['model']} at OpenAI.)"
    if answer.get("flagged"):
        text += " (The model gave quotes that are in no passage, or none: check the passages.)"
    return ActionResult(text, details=tuple(details), links=tuple(links))


async def add(visit: Visit, form: Form) -> ActionResult:
    """Store a document, or the next version of the one of this name."""
    body = {"name": form.needed("name", "the name"), "text": form.needed("text", "the text")}
    if kind := form.text("kind"):
        body["kind"] = kind
    answer = await visit.change("POST", "/documents", body, csrf=form.text("csrf"))
    links = ((body["name"], f"/documents/{answer.body['id']}"),)
    return ActionResult("It is stored and can be asked now.", kind="good", links=links)


async def remove(visit: Visit, form: Form) -> ActionResult:
    """Remove a document."""
    await visit.change("DELETE", f"/documents/{form.needed('id', 'the document')}", csrf=form.text("csrf"))
    return ActionResult("It is removed, with everything that was found in it.", kind="good")
