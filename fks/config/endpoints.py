"""Endpoints of a running node: written by the keeper (0600), read by every local process. Also the ports of a node
whose settings leave them open."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fks.config.paths import Paths
from fks.config.secrets import check_private, write_private
from fks.config.settings import Http, Ray, Settings, Sim
from fks.model.errors import ConfigError, OutageError

if TYPE_CHECKING:
    import ssl

PORT_FIRST, PORT_LAST = 21000, 31999  # below the kernel's ephemeral ports
_BLOCK = 32  # a node's ports are one block: two nodes share all of them or none


def port_settings() -> list[tuple[str, str]]:
    """Return (section, key) of every port a node opens, in the order in which its block is dealt out."""
    return [
        (section, key)
        for section, model in (("http", Http), ("sim", Sim), ("ray", Ray))
        for key in model.model_fields
        if key.endswith("port")
    ]


@dataclass(frozen=True, slots=True)
class NodeEndpoints:
    """The endpoints of a running node. The URLs carry passwords: never log them. `sim` has rest, ws, ws_api, api_key,
    api_secret, pid and port; `pids` the keeper's children; `environ` the settings that its environment gave it."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    ray_address: str
    http: dict[str, Any]
    dashboard_url: str = ""
    sim: dict[str, Any] | None = field(default=None, repr=False)
    pids: dict[str, int] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def gateway_url(self) -> str:
        """Return the gateway's address as this host reaches it: https when it has a certificate."""
        host = str(self.http["host"])
        if host in ("0.0.0.0", "::"):  # noqa: S104 - bound everywhere, so loopback reaches it
            host = "127.0.0.1"
        scheme = "https" if self.tls_cert else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.http['port']}"

    @property
    def tls_cert(self) -> str | None:
        """Return the file with the gateway's certificate; None when it speaks plain HTTP."""
        found: str | None = self.http.get("tls_cert")
        return found

    def tls_context(self) -> ssl.SSLContext | None:
        """Return how this node's own commands verify the gateway: it must have the key of the very certificate in the
        file, whatever name is on it. None for plain HTTP. Errors: ConfigError when that file cannot be used."""
        if self.tls_cert is None:
            return None
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.tls_cert)
        except OSError as error:  # SSLError is one
            raise ConfigError(
                f"{self.tls_cert}, the gateway's certificate, cannot be read: {error.strerror or error}",
                remedy="put the certificate of this machine there",
            ) from error
        context.check_hostname = False  # loopback is in no certificate of a public name
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the server's own certificate is trusted, not its issuer
        return context

    def trust(self) -> TrustedFile | None:
        """Return `tls_context` for a client that lives longer than a certificate. Errors: ConfigError."""
        context = self.tls_context()
        return None if context is None or self.tls_cert is None else TrustedFile(context, self.tls_cert)


class TrustedFile:
    """A client's trust in the certificates of one file. `refresh` trusts what the file holds now as well: for clients
    that live longer than a certificate."""

    def __init__(self, context: ssl.SSLContext, file: str) -> None:
        """`context` trusts what is in the file."""
        self.context = context
        self._file = file
        self._seen_ns = self._changed_ns()

    def refresh(self) -> None:
        """Look at the file. One that cannot be used changes nothing."""
        changed_ns = self._changed_ns()
        if changed_ns in (0, self._seen_ns):
            return
        try:
            self.context.load_verify_locations(self._file)
        except OSError:  # half of it is written: the next call looks again
            return
        self._seen_ns = changed_ns

    def _changed_ns(self) -> int:
        try:
            return os.stat(self._file).st_mtime_ns
        except OSError:
            return 0


def save_node(paths: Paths, node: NodeEndpoints) -> None:
    """Write the endpoints, whole or not at all, for this user only."""
    write_private(paths.node_file, json.dumps(asdict(node), indent=1) + "\n")


def load_node(paths: Paths, kind: str = "") -> NodeEndpoints:
    """Return the endpoints of the running node: for a `kind` of process that has a database role, with its URL.

    Errors: OutageError when it does not run, ConfigError when the file is damaged or others may read it.
    """
    try:
        check_private(paths.node_file)
        content = json.loads(paths.node_file.read_text())
        known = {name: content[name] for name in NodeEndpoints.__dataclass_fields__ if name in content}
        node = NodeEndpoints(**known)
        if kind and paths.database_roles.exists():  # without it the server has no roles of ours
            check_private(paths.database_roles)
            urls = json.loads(paths.database_roles.read_text())
            node = replace(node, database_url=urls.get(kind, node.database_url))
        return node
    except FileNotFoundError:
        raise OutageError(f"FKS is not running at {paths.home}", remedy="start it with 'fks up'") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{paths.node_file} is damaged", remedy="run 'fks down', then 'fks up'") from error


def clear_node(paths: Paths) -> None:
    """Remove the endpoints: the node is down."""
    paths.node_file.unlink(missing_ok=True)


def resolve_ports(settings: Settings, paths: Paths, *, attempt: int = 0) -> Settings:
    """Return settings whose open ports (0) are numbers derived from FKS_HOME: the same at every start, no two alike.

    The keeper checks whether they are free; `attempt` 1, 2, … gives other blocks of ports.
    ray.worker_port_min and max stay 0: Ray takes any free one.
    """
    blocks = (PORT_LAST - PORT_FIRST + 1) // _BLOCK
    first = PORT_FIRST + (int(paths.key, 16) + attempt) % blocks * _BLOCK
    wanted = port_settings()
    fixed = {getattr(getattr(settings, section), key) for section, key in wanted}
    spare = [port for port in range(first, first + _BLOCK) if port not in fixed]
    changes: dict[str, dict[str, int]] = {}
    for (section, key), port in zip(wanted, spare, strict=False):
        if getattr(getattr(settings, section), key) == 0:
            changes.setdefault(section, {})[key] = port
    return _replaced(settings, changes)


def _replaced(settings: Settings, changes: Mapping[str, Mapping[str, int]]) -> Settings:
    updated = {section: getattr(settings, section).model_copy(update=dict(keys)) for section, keys in changes.items()}
    return settings.model_copy(update=updated)
