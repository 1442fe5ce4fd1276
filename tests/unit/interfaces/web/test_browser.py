"""Reads of a page that are polled are repeated when a navigation overtakes them; clicks are not."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from websockets.asyncio.client import ClientConnection

from tests.support.browser import NavigatedError, Page, is_true, says

NAVIGATED: dict[str, Any] = {"error": {"code": -32000, "message": "Inspected target navigated or closed"}}


class Scripted:
    """A DevTools socket that gives these answers in turn."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers, self.asked = list(answers), 0

    async def send(self, text: str) -> None:
        self.asked = json.loads(text)["id"]

    async def recv(self) -> str:
        return json.dumps(self.answers.pop(0) | {"id": self.asked})


def value(found: object) -> dict[str, Any]:
    return {"result": {"result": {"value": found}}}


def tab_of(*answers: dict[str, Any]) -> Page:
    return Page(cast("ClientConnection", Scripted(*answers)))


async def test_polled_read_is_repeated_when_the_page_navigates() -> None:
    await says(tab_of(NAVIGATED, value("Orders")), "Orders")
    await is_true(tab_of(NAVIGATED, value(False), value(True)), "document.hidden")


async def test_click_that_a_navigation_overtakes_is_not_repeated() -> None:
    with pytest.raises(NavigatedError):
        await tab_of(NAVIGATED, value(None)).run("document.querySelector('button').click()")


async def test_other_errors_of_a_polled_read_fail() -> None:
    with pytest.raises(AssertionError, match="no such method"):
        await is_true(tab_of({"error": {"code": -32601, "message": "no such method"}}, value(True)), "true")
