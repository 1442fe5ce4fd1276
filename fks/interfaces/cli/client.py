"""The command line's HTTP client of the gateway: this node's own 0600 token, and errors as exit codes."""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from fks.interfaces.cli.base import Command, CommandDenied, NotRunning, paths_of, result
from fks.model.errors import FksError, InputError

if TYPE_CHECKING:
    import ssl

    import httpx

    from fks.config.paths import Paths
    from fks.config.settings import Settings
    from fks.interfaces.cli.base import Text

TIMEOUT_S = 15.0


class GatewaySession:
    """A client of the running gateway. One request at a time; use it as a context manager.

    Errors of every call: NotRunning when there is no answer, CommandDenied for a denial code or a missing right,
    InputError for input that the gateway refuses, FksError for anything else, each with the gateway's own message.
    """

    def __init__(self, base_url: str, token: str, tls: ssl.SSLContext | None = None) -> None:
        import httpx

        self.base_url = base_url
        self._http = httpx.Client(
            base_url=base_url,
            timeout=TIMEOUT_S,
            trust_env=False,
            headers={"Authorization": f"Bearer {token}"},
            verify=tls or base_url.startswith("https:"),  # authorities are read for TLS alone: that takes 40 ms
        )

    def __enter__(self) -> GatewaySession:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: object) -> Any:
        """Return the JSON of a GET; a query value of None is left out."""
        return self._call("GET", path, params=_plain(query))

    def post(
        self,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        key: str | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Any:
        """Return the JSON of a POST. `key` is the Idempotency-Key; None values of the body are left out."""
        headers = {"Idempotency-Key": key} if key else {}
        kept = None if body is None else _given(body)
        return self._call("POST", path, json=kept, headers=headers, timeout=timeout_s)

    def events(self, path: str, body: Mapping[str, object], *, timeout_s: float) -> Iterator[tuple[str, Any]]:
        """Yield name and JSON of each server-sent event of a POST. The request ends with the iterator, and with the
        session."""
        import orjson

        self._connect()
        headers = {"Accept": "text/event-stream"}
        asked = self._http.stream("POST", path, json=_given(body), headers=headers, timeout=timeout_s)
        with self._failures(timeout_s), asked as response:
            if not response.is_success:
                response.read()
                self._read(response)
            text = b""
            for part in response.iter_bytes():  # its lines would also end at U+2028, which JSON may hold
                *whole, text = (text + part).split(b"\n\n")
                for event in whole:
                    name, _, data = event.partition(b"\n")
                    yield name.removeprefix(b"event: ").decode(), orjson.loads(data.removeprefix(b"data: "))

    def upload(self, path: str, content: bytes, media_type: str, *, timeout_s: float, **query: object) -> Any:
        """Return the JSON of a POST of a file's bytes."""
        headers = {"Content-Type": media_type}
        return self._call("POST", path, params=_plain(query), content=content, headers=headers, timeout=timeout_s)

    def patch(self, path: str, body: Mapping[str, object]) -> Any:
        """Return the JSON of a PATCH; None values of the body are left out."""
        return self._call("PATCH", path, json=_given(body))

    def put(self, path: str, body: Mapping[str, object]) -> Any:
        """Return the JSON of a PUT."""
        return self._call("PUT", path, json=body)

    def delete(self, path: str, **query: object) -> Any:
        """Return the JSON of a DELETE; a query value of None is left out."""
        return self._call("DELETE", path, params=_plain(query))

    def pages(self, path: str, limit: int, *, cursor: str = "before", **query: object) -> list[dict[str, Any]]:
        """Return up to `limit` items of a paged list, however many pages that takes; `cursor` names its parameter."""
        found: list[dict[str, Any]] = []
        place: object = None
        while len(found) < limit:
            answer = self.get(path, **query, **{cursor: place}, limit=min(limit - len(found), 1000))
            found += answer["items"]
            place = answer["next"]
            if place is None:
                break
        return found

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        self._connect()
        with self._failures(kwargs.get("timeout", TIMEOUT_S)):
            response = self._http.request(method, path, **kwargs)
        return self._read(response)

    def _connect(self) -> None:
        """Find the gateway, where that was put off."""

    @contextlib.contextmanager
    def _failures(self, waited_s: float) -> Iterator[None]:
        import httpx

        try:
            yield
        except httpx.ConnectError:
            raise NotRunning(f"the gateway at {self.base_url} does not answer", remedy="see 'fks status'") from None
        except httpx.TimeoutException:
            raise NotRunning(f"the gateway sent no answer for {waited_s:g} s", remedy="see 'fks status'") from None
        except httpx.HTTPError as error:
            raise NotRunning(f"the gateway broke off ({type(error).__name__})", remedy="see 'fks status'") from None

    def _read(self, response: httpx.Response) -> Any:
        import orjson

        try:
            body = orjson.loads(response.content) if response.content else None
        except orjson.JSONDecodeError:
            body = None
        if response.is_success:
            return body
        raise error_of(response.status_code, body)


def error_of(status: int, body: object) -> FksError:
    """Return a problem document as the error whose exit code fits."""
    problem = body if isinstance(body, dict) else {}
    text = str(problem.get("detail") or f"the gateway answered {status}")
    code, remedy = str(problem.get("code", "")), str(problem.get("remedy", ""))
    if code and code not in text and (status == 422 or status == 409):
        text = f"{code}: {text}"
    if _is_denial(code):
        from fks.model.codes import MEANING, Code

        detail = str(problem.get("detail") or "")
        return CommandDenied(f"{code}: {MEANING[Code[code]]}{f' ({detail})' if detail else ''}", remedy=remedy)
    if status in (401, 403, 429):
        return CommandDenied(text, remedy=remedy)
    if status in (502, 503, 504) or (status == 404 and not code):
        return NotRunning(text, remedy=remedy or "see 'fks status'")
    if 400 <= status < 500:
        return InputError(text, code=code, status=status, remedy=remedy)
    return FksError(text, remedy=remedy)


def _is_denial(code: str) -> bool:
    from fks.model.codes import Code

    return code in Code.__members__


def _given(body: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if value is not None}


def _plain(query: Mapping[str, object]) -> dict[str, str]:
    texts = {True: "true", False: "false"}
    return {
        name.rstrip("_"): texts[value]
        if isinstance(value, bool)
        else value.isoformat()
        if isinstance(value, datetime)
        else str(value)
        for name, value in query.items()
        if value is not None
    }


class OwnGateway(GatewaySession):
    """The gateway of the node at `paths`. With `is_late` it is found at the first request: a wrong option is refused
    before.

    Errors of finding it: NotRunning when the node is down, ConfigError on a bad token file.
    """

    def __init__(self, paths: Paths, *, is_late: bool = False) -> None:
        self._paths: Paths | None = paths
        if not is_late:
            self._find(paths)

    def __exit__(self, *_: object) -> None:
        if self._paths is None:
            super().__exit__()

    def _connect(self) -> None:
        if self._paths is not None:
            self._find(self._paths)

    def _find(self, paths: Paths) -> None:
        from fks.config.endpoints import load_node

        node = load_node(paths)
        super().__init__(node.gateway_url, local_token(paths), node.tls_context())
        self._paths = None


def gateway_of(ctx: click.Context) -> GatewaySession:
    """Return the client of this node's gateway. Errors: those of `OwnGateway`."""
    return OwnGateway(paths_of(ctx))


def gateway_result(schema: str, text: Text, **more: Any) -> Callable[[Command], Command]:
    """Make a command of a function of the gateway and the options that returns a document; see `result`."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def ask(ctx: click.Context, **options: Any) -> Any:
            with OwnGateway(paths_of(ctx), is_late=True) as gateway:
                return function(gateway, **options)

        return result(schema, text, **more)(ask)

    return decorate


def path_of(*parts: str) -> str:
    """Return the path of these parts; a name may hold any character."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def base_url_of(paths: Paths) -> str:
    """Return the URL of this node's gateway. Errors: OutageError (exit 3) when the node does not run."""
    from fks.config.endpoints import load_node

    return load_node(paths).gateway_url


def monitor_page(base: str, settings: Settings) -> str:
    """Return the address of the monitor page; "" while the pages are off."""
    return f"{base}/app/monitor" if settings.web.enabled else ""


def local_token(paths: Paths) -> str:
    """Return the local command line's token. Errors: NotRunning when there is none, ConfigError when others can read
    it."""
    from fks.config.secrets import check_private

    try:
        check_private(paths.cli_token_file)
        return paths.cli_token_file.read_text().strip()
    except FileNotFoundError:
        raise NotRunning(f"there is no token in {paths.cli_token_file}", remedy="'fks up' makes one") from None


def new_key() -> str:
    """Return a fresh Idempotency-Key."""
    return str(uuid.uuid4())
