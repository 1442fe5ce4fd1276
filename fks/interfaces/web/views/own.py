"""The reader's own login: password and second factor."""

from __future__ import annotations

from typing import Any

from fks.interfaces.web.client import GatewayRefusal
from fks.interfaces.web.forms import Form
from fks.interfaces.web.page import ActionResult
from fks.interfaces.web.visits import Visit


async def load(visit: Visit) -> dict[str, Any]:
    """Return nothing but what every page has."""
    return {}


async def begin(visit: Visit, form: Form) -> ActionResult:
    """Offer a second factor: the secret as a picture for the authenticator, and as text. It is shown once."""
    body = {"password": _secret(form, "password", "your password")}
    answer = (await visit.change("POST", "/auth/totp", body, csrf=form.text("csrf"))).body
    details = (("Secret", str(answer["secret"])), ("Address", str(answer["otpauth"])))
    text = "Scan the picture with your authenticator, or type the secret. Then write its six digits below."
    return ActionResult(text, details=details, picture=picture_of(str(answer["otpauth"])))


async def confirm(visit: Visit, form: Form) -> ActionResult:
    """Complete the second factor with a first code."""
    answer = (
        await visit.change(
            "POST", "/auth/totp/confirm", {"totp": form.needed("totp", "the code")}, csrf=form.text("csrf")
        )
    ).body
    return ActionResult(f"The second factor is on. Your scope is {answer['scope']} from now on.", kind="good")


async def password(visit: Visit, form: Form) -> ActionResult:
    """Change the own password."""
    body = {
        "password": _secret(form, "password", "your password"),
        "new_password": _secret(form, "new_password", "the new password"),
    }
    await visit.change("POST", "/auth/password", body, csrf=form.text("csrf"))
    return ActionResult("The password is changed; your other sessions have ended.", kind="good")


def picture_of(text: str) -> str:
    """Return a QR code of `text` as the address of a picture: an SVG in a data: URI."""
    import segno

    return str(segno.make(text, error="m").svg_data_uri(scale=5, border=4, dark="#000000", light="#ffffff"))


def _secret(form: Form, name: str, label: str) -> str:
    found = form.fields.get(name, "")  # white space belongs to it
    if not found:
        raise GatewayRefusal(422, "FIELD_MISSING", f"{label} is missing", "fill it in and send the form again")
    return found
