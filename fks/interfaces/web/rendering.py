"""Templates: Jinja2 with autoescape, so that every text of a user, a venue or an exchange shows as text."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from fks.interfaces.web import formats
from fks.interfaces.web.assets import AssetFiles
from fks.interfaces.web.glossary import Glossary
from fks.model.codes import MEANING, Code

_EXPLAIN = Markup(
    '<a class="explain" href="{}/glossary#{}" data-term="{}" data-meaning="{}"><span aria-hidden="true">?</span>'
    '<span class="visually-hidden"> Explain {}</span></a>'
)


class Renderer:
    """Renders templates of `fks/interfaces/web/templates`. `root`: path of the application as the browser sees it,
    `/app`."""

    def __init__(self, assets: AssetFiles) -> None:
        self._glossary = Glossary()
        self._environment = Environment(
            loader=PackageLoader("fks.interfaces.web", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters |= {
            "number": formats.number,
            "money": formats.money,
            "percent": formats.percent,
            "tone": formats.tone,
            "at_step": _at_step,
            "iso": formats.iso,
            "span": formats.span,
            "when": _when,
            "age": _age,
            "is_past": _is_past,
            "meaning": meaning,
            "explain": self._explain,
            "short": lambda text: str(text)[:8],
        }
        self._environment.globals |= {"assets": assets, "NOTHING": formats.NOTHING}

    @pass_context
    def _explain(self, context: Context, text: object) -> Markup:
        """Return the link from a term to its entry, which a script opens in place; nothing for any other text."""
        term = self._glossary.find(text)
        if term is None:
            return Markup()
        return _EXPLAIN.format(context["root"], term.slug, term.title, term.meaning, text)  # which escapes each of them

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """Return the text of a template. Errors: jinja2.UndefinedError for a value that the view did not give."""
        return self._environment.get_template(name).render(values)


def meaning(code: object) -> str:
    """Return what a denial code means, as a sentence; "" for a code that is not one of ours."""
    text = str(code or "")
    return MEANING[Code[text]] if text in Code.__members__ else ""


@pass_context
def _at_step(context: Context, value: object, row: Mapping[str, Any], step: str, more: int = 0) -> str:
    """Return a price or a quantity of a row with the digits of its instrument; `step` is tick or lot_step."""
    places: formats.Places = context["places"]
    return formats.at_step(value, places.get((row.get("exchange") or "", row["symbol"]), {}).get(step), more)


@pass_context
def _when(context: Context, value: object) -> str:
    zone: tzinfo = context["zone"]
    now: datetime = context["now"]
    return formats.when(value, zone, now)


@pass_context
def _age(context: Context, value: object) -> str:
    return formats.age(value, context["now"])


@pass_context
def _is_past(context: Context, value: object, limit_s: float) -> bool:
    """Return whether a time is unknown, or longer ago than `limit_s`."""
    found = formats.moment(value)
    now: datetime = context["now"]
    return found is None or now - found > timedelta(seconds=limit_s)
