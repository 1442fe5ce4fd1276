"""Users and API tokens: made, changed, ended."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import SCOPES, Visit

_DAY_S = 86_400


async def load(visit: Visit) -> dict[str, Any]:
    """Return users and tokens. Both need scope admin."""
    found = await visit.read_all(users="/users", tokens="/tokens", accounts="/accounts")
    names = {row["id"]: row["name"] for row in found["accounts"].items}
    return {**found, "scopes": SCOPES, "names": names}


async def add(visit: Visit, form: Form) -> ActionResult:
    """Make a user."""
    body: dict[str, Any] = {
        "name": form.needed("name", "the name"),
        "password": form.fields.get("password", ""),
        "scope": form.text("scope") or "read",
    }
    if not body["password"]:
        raise GatewayRefusal(422, "FIELD_MISSING", "the password is missing", "fill it in and send the form again")
    if form.text("accounts"):
        body["accounts"] = form.text("accounts").replace(",", " ").split()
    answer = (await visit.change("POST", "/users", body, csrf=form.text("csrf"))).body
    needs = " It needs a second factor before it may act: fks users totp." if body["scope"] in SCOPES[3:] else ""
    return ActionResult(f"User {answer['name']} is made, with scope {answer['scope']}.{needs}", kind="good")


async def change(visit: Visit, form: Form) -> ActionResult:
    """Change a user's scope."""
    name, scope = form.needed("name", "the user"), form.needed("scope", "the scope")
    await visit.change("POST", _user(name), {"scope": scope}, csrf=form.text("csrf"))
    return ActionResult(f"{name} has scope {scope} from now on.", kind="good")


async def switch(visit: Visit, form: Form) -> ActionResult:
    """Disable or enable a login."""
    name, is_on = form.needed("name", "the user"), form.text("on") == "1"
    await visit.change("POST", _user(name), {"disabled": not is_on}, csrf=form.text("csrf"))
    return ActionResult(f"{name} {'may log in again' if is_on else 'is logged out and cannot log in'}.", kind="good")


async def unlock(visit: Visit, form: Form) -> ActionResult:
    """Forget the failed logins of a user."""
    name = form.needed("name", "the user")
    await visit.change("POST", f"{_user(name)}/unlock", csrf=form.text("csrf"))
    return ActionResult(f"{name} may try to log in again.", kind="good")


async def logout(visit: Visit, form: Form) -> ActionResult:
    """End every session of a user."""
    name = form.needed("name", "the user")
    answer = (await visit.change("DELETE", f"{_user(name)}/sessions", csrf=form.text("csrf"))).body
    return ActionResult(f"{answer['ended']} sessions of {name} have ended.", kind="good")


async def token(visit: Visit, form: Form) -> ActionResult:
    """Make an API token; it is shown once."""
    body: dict[str, Any] = {"name": form.needed("name", "the name"), "scope": form.text("scope") or "read"}
    if form.text("days"):
        body["expires_in_s"] = _DAY_S * form.whole("days", "number of days", "write 1 to 3660, or leave it empty")
    answer = (await visit.change("POST", "/tokens", body, csrf=form.text("csrf"))).body
    details = (("Token", str(answer["token"])), ("Scope", str(answer["scope"])))
    return ActionResult("The token is made. Copy it now: it is not shown again.", kind="good", details=details)


async def revoke(visit: Visit, form: Form) -> ActionResult:
    """End a token."""
    name = form.needed("name", "the token")
    await visit.change("DELETE", f"/tokens/{quote(name, safe='')}", csrf=form.text("csrf"))
    return ActionResult(f"Token {name} has ended.", kind="good")


def _user(name: str) -> str:
    return f"/users/{quote(name, safe='')}"
