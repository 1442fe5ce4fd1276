"""Keys of venues: which are stored and used, without the keys; storing, replacing and removing them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit

ROLES = (("orders", "order manager"), ("guardian", "guardian, a key of its own"))


async def load(visit: Visit) -> dict[str, Any]:
    """Return the stored keys, newest version first."""
    return {**await visit.read_all(keys="/credentials", accounts="/accounts"), "roles": ROLES}


async def store(visit: Visit, form: Form) -> ActionResult:
    """Store an account's first key, or its next one. What was typed is shown nowhere again."""
    account, path = form.needed("account", "the account"), ""
    if form.is_ticked("replaces"):
        path = "/rotate"
    body = {
        "role": form.text("role") or "orders",
        "api_key": form.needed("api_key", "the API key"),
        "api_secret": form.needed("api_secret", "the secret"),
    }
    stored = (await visit.change("POST", f"{_path(account)}{path}", body, csrf=form.text("csrf"))).body
    details = tuple(("Warning", str(warning)) for warning in stored.get("warnings", ()))
    text = f"The key of {account} is stored as version {stored['version']}. The process that uses it tries it now."
    return ActionResult(text, kind="good", details=details)


async def remove(visit: Visit, form: Form) -> ActionResult:
    """Remove an account's stored keys of a role."""
    account, role = form.needed("account", "the account"), form.text("role") or "orders"
    await visit.change("DELETE", f"{_path(account)}?role={quote(role, safe='')}", csrf=form.text("csrf"))
    return ActionResult(f"The stored keys of {account} are removed.", kind="good")


def _path(account: str) -> str:
    return f"/credentials/{quote(account, safe='')}"
