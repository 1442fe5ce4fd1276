"""Settings that change while the system runs: their values, and each version with its author and reason."""

from __future__ import annotations

from typing import Any

import orjson

from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit


async def load(visit: Visit) -> dict[str, Any]:
    """Return the settings and their versions."""
    return await visit.read_all(config="/config", versions=("/config/versions", {"limit": 50}))


async def change(visit: Visit, form: Form) -> ActionResult:
    """Set one setting, or unset it so that the file's value holds again."""
    key, text = form.needed("key", "the setting"), form.text("value")
    body: dict[str, Any] = {"reason": form.needed("reason", "a reason"), "base_version": _version(form, "base")}
    body |= {"unset": [key]} if not text else {"set": {key: _value(text)}}
    return _made((await visit.change("POST", "/config/versions", body, csrf=form.text("csrf"))).body)


async def rollback(visit: Visit, form: Form) -> ActionResult:
    """Take the values of an earlier version."""
    version = _version(form, "version")
    body = {
        "rollback_to": version,
        "reason": form.needed("reason", "a reason"),
        "base_version": _version(form, "base"),
    }
    return _made((await visit.change("POST", "/config/versions", body, csrf=form.text("csrf"))).body)


def _made(answer: dict[str, Any]) -> ActionResult:
    details = (("Changes", orjson.dumps(answer["changes"]).decode()), ("State", str(answer["state"])))
    text = f"Version {answer['version']} is rolled out, one part at a time, and rolled back if it does not take."
    return ActionResult(text, details=details)


def _version(form: Form, name: str) -> int:
    return form.whole(name, "version", "load the page again")


def _value(text: str) -> Any:
    """Return a value as JSON has it; a text that is no JSON stays a text, so that decimals keep their digits."""
    if text in ("true", "false", "null") or text[:1] in '[{"':
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            return text
    return text
