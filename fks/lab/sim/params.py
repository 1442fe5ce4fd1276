"""The parameters of one request, as text, and the refusals for those that are missing or malformed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from fks.lab.sim.atoms import TooPreciseError, parse
from fks.lab.sim.errors import CLIENT_ID_RANGE, DECIMAL_RANGE, ApiError, illegal, missing, refusal, too_precise

_INTEGER = re.compile(r"[0-9]{1,20}")
_CLIENT_ID = re.compile(r"[a-zA-Z0-9\-_]{1,36}")


class Params:
    """Named texts. Every getter raises the exchange's own error for a value that it cannot parse."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def items(self) -> list[tuple[str, str]]:
        """Return all of them, in the order sent."""
        return list(self._values.items())

    def text(self, name: str) -> str:
        """Return a mandatory parameter."""
        value = self._values.get(name, "")
        if not value:
            raise missing(name)
        return value

    def maybe(self, name: str) -> str:
        """Return an optional parameter, "" when it is not there. Errors: −1105 when it is there and empty."""
        value = self._values.get(name)
        if value == "":
            raise ApiError(-1105, f"Parameter '{name}' was empty.")
        return value or ""

    def number(self, name: str) -> int | None:
        """Return an optional whole number."""
        value = self.maybe(name)
        if not value:
            return None
        if not _INTEGER.fullmatch(value):
            raise illegal(name, "^[0-9]{1,20}$")
        return int(value)

    def limit(self, default: int, most: int, name: str = "limit") -> int:
        """Return the wanted number of rows, at most `most`. Errors: −1130 for 0."""
        value = self.number(name)
        if value is None:
            return default
        if value < 1:
            raise ApiError(-1130, f"Data sent for parameter '{name}' is not valid.")
        return min(value, most)

    def atoms(self, name: str) -> int:
        """Return an optional decimal in atoms, 0 when it is not there."""
        value = self.maybe(name)
        if not value:
            return 0
        try:
            return parse(value)
        except TooPreciseError:
            raise too_precise(name) from None
        except ValueError:
            raise illegal(name, DECIMAL_RANGE) from None

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return an optional boolean."""
        value = self.maybe(name).lower()
        if value not in ("", "true", "false"):
            raise illegal(name, "true|false")
        return value == "true" if value else default

    def client_id(self, name: str) -> str:
        """Return an optional client order id."""
        value = self.maybe(name)
        if value and not _CLIENT_ID.fullmatch(value):
            raise illegal(name, CLIENT_ID_RANGE)
        return value

    def choice(self, name: str, legal: tuple[str, ...], error: str, *, default: str = "") -> str:
        """Return one of `legal` in capitals. Errors: the refusal named `error`, −1102 without a default."""
        value = (self.maybe(name) if default else self.text(name)).upper() or default
        if value not in legal:
            raise refusal(error)
        return value

    def names(self, name: str) -> list[str]:
        """Return a JSON list of texts, empty when it is not there."""
        value = self.maybe(name)
        if not value:
            return []
        try:
            found = json.loads(value)
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise illegal(name, '^\\["[A-Z0-9-_.]{1,20}"(,"[A-Z0-9-_.]{1,20}"){0,}\\]$')
        return found
