"""Description of a page: the registry's entry, and the application's routes for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fks.interfaces.web.forms import Form
from fks.interfaces.web.visits import Visit

Loader = Callable[[Visit], Awaitable[dict[str, Any]]]
Performer = Callable[[Visit, Form], Awaitable["ActionResult"]]


@dataclass(frozen=True, slots=True)
class ConfirmForm:
    """A second step of an action: a button that posts these fields, the token of the form among them, to `action`."""

    action: str  # path within the application
    label: str
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ActionResult:
    """The outcome of an action, as the gateway reported it: a sentence, and the id to follow until it ends.

    `follow` is the id of a signal or an order; the page then asks for its state until that is final.
    """

    text: str
    follow: str | None = None
    kind: str = "info"  # info, good or bad
    details: tuple[tuple[str, str], ...] = ()
    links: tuple[tuple[str, str], ...] = ()  # (text, path within the application)
    picture: str = ""  # address of a picture of what the details say
    confirm: ConfirmForm | None = None


@dataclass(frozen=True, slots=True)
class WebPage:
    """One page. `load` gives the template `pages/NAME.html` its values.

    `scope` is what its reads need; the gateway checks it. `live` are channels of `/ws` whose messages make it load its
    region again, at most twice a second, and besides that every `every_s` seconds (0: never). `actions` are POSTed to
    PATH/NAME. `is_early`: head and navigation are sent while its reads are under way, as `load` refuses nothing.
    """

    name: str
    path: str
    title: str
    load: Loader
    group: str = ""  # of the navigation; "" is in none
    scope: str = "read"
    live: tuple[str, ...] = ()
    every_s: float = 5.0
    actions: Mapping[str, Performer] = field(default_factory=dict)
    scripts: tuple[str, ...] = ()  # modules of fks/interfaces/web/static
    is_early: bool = False
