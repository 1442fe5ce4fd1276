"""Files that the pages load: our own in `static/`, and in `vendor/` those of other projects (`make install`).

They are read once, at the start, and served with a hash in their address: a browser keeps them for a year, and a new
version has a new address. Where `vendor/` is empty the pages are plain HTML, and say so.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent
#: file in `vendor/` -> file of the npm package
VENDOR: dict[str, str] = {
    "bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
    "htmx.min.js": "htmx.org/dist/htmx.min.js",
    "lightweight-charts.mjs": "lightweight-charts/dist/lightweight-charts.standalone.production.mjs",
    "mermaid.tiny.js": "@mermaid-js/tiny/dist/mermaid.tiny.js",
    "swagger-ui.css": "swagger-ui-dist/swagger-ui.css",
    "swagger-ui-bundle.js": "swagger-ui-dist/swagger-ui-bundle.js",
    "bootstrap.LICENSE": "bootstrap/LICENSE",
    "htmx.LICENSE": "htmx.org/LICENSE",
    "lightweight-charts.LICENSE": "lightweight-charts/LICENSE",
    "mermaid.LICENSE": "@mermaid-js/tiny/LICENSE",
    "swagger-ui.LICENSE": "swagger-ui-dist/LICENSE",
}
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}
#: Files that are served as one, in this order, as far as they are there: each request before the first paint costs.
JOINED: dict[str, tuple[str, ...]] = {
    "pages.css": ("bootstrap.min.css", "fks.css"),
    "pages.js": ("live.js", "shell.js", "explain.js"),
}
#: Scripts of a sandboxed frame, which has no origin: the browser loads them as from elsewhere.
FRAMED = frozenset({"mermaid.tiny.js", "diagram.js"})
_GZIP_LEAST = 1024


@dataclass(frozen=True, slots=True)
class AssetFile:
    """One file: its bytes, the same compressed where that is shorter, its media type and the hash in its address."""

    body: bytes = field(repr=False)
    zipped: bytes | None = field(repr=False)
    media_type: str
    digest: str


class AssetFiles:
    """The files of both folders by name. A file of `static/` wins over one of `vendor/`."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._found: dict[str, AssetFile] = {}
        for part in ("vendor", "static"):
            for path in sorted((folder / part).glob("*")):
                if path.is_file() and path.suffix in _TYPES:
                    self._found[path.name] = _asset(path.read_bytes(), path.suffix)
        for name, parts in JOINED.items():
            bodies = [self._found[part].body for part in parts if part in self._found]
            if name.endswith(".js"):
                bodies = [b"{\n%b}" % body for body in bodies]  # names of their own, as they have as modules
            self._found[name] = _asset(b"\n".join(bodies), Path(name).suffix)

    @property
    def missing(self) -> list[str]:
        """Return the files of other projects that are not installed."""
        return [name for name in VENDOR if name not in self._found]

    def has(self, name: str) -> bool:
        """Return whether the file is there."""
        return name in self._found

    def get(self, name: str) -> AssetFile | None:
        """Return a file, or None."""
        return self._found.get(name)

    def url(self, name: str) -> str:
        """Return the address of a file, relative to the application. Errors: KeyError."""
        return f"static/{name}?v={self._found[name].digest}"


def _asset(body: bytes, suffix: str) -> AssetFile:
    zipped = gzip.compress(body, 6, mtime=0) if len(body) >= _GZIP_LEAST else None
    return AssetFile(body, zipped, _TYPES[suffix], digest(body))


def digest(body: bytes) -> str:
    """Return the hash that stands in a file's address."""
    return hashlib.sha256(body).hexdigest()[:12]
