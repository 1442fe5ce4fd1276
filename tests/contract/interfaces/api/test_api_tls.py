"""HTTPS by certificate files: the node's own commands trust that very certificate and no other."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
import uvicorn.config
import uvicorn.protocols.http.auto
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from fks.clock import RealClock
from fks.config.endpoints import NodeEndpoints, save_node
from fks.config.paths import Paths
from fks.interfaces.api import serve_proxy
from fks.interfaces.cli.client import GatewaySession
from fks.interfaces.web.client import BrowserCaller, GatewayClient
from fks.lab.chaos.outside import Outside
from fks.model.errors import FksError
from fks.store.db import Database
from fks.system.node.probe import http_get
from tests.support.certificates import certificate
from tests.support.gateway import Running, Server, running
from tests.support.waiting import until


@asynccontextmanager
async def https(gateway: Running, cert: Path, key: Path) -> AsyncIterator[NodeEndpoints]:
    """Serve the gateway with a certificate; give its node."""
    config = uvicorn.Config(
        gateway.app, host="127.0.0.1", port=0, lifespan="off", ssl_certfile=cert, ssl_keyfile=key, proxy_headers=False
    )
    server = Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started or task.done(), deadline_s=20)
    try:
        yield NodeEndpoints(
            "", "", "", {"host": "127.0.0.1", "port": server.port, "tls_cert": str(cert), "tls_key": str(key)}
        )
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 20)


async def test_own_commands_reach_a_gateway_with_a_certificate(gateway: Running, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path / "tls", "fks.example")
    other, _ = certificate(tmp_path / "tls", "other.example")
    async with https(gateway, cert, key) as node:
        http, port = node.http, node.http["port"]
        assert node.gateway_url == f"https://127.0.0.1:{port}"

        def orders(trusted: NodeEndpoints) -> object:
            with GatewaySession(trusted.gateway_url, gateway.tokens["read"], trusted.tls_context()) as client:
                return client.get("/orders")["items"]

        assert await asyncio.to_thread(orders, node) == []
        assert (await http_get("127.0.0.1", port, "/ready", tls=node.tls_context()))[0] == 200
        paths = Paths.of(tmp_path / "chaos").ensure()
        save_node(paths, node)
        outside = Outside(paths, RealClock())
        assert await outside.gateway_answers(), "fks chaos reaches it too"
        await outside.close()
        with pytest.raises(FksError):
            await asyncio.to_thread(orders, NodeEndpoints("", "", "", http | {"tls_cert": str(other)}))
        with pytest.raises((ssl.SSLError, httpx.HTTPError, OSError)):
            await http_get("127.0.0.1", port, "/ready", tls=ssl.create_default_context())


async def test_hsts_and_the_host_prefix_of_the_cookie_come_with_tls(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path / "tls", "fks.example")
    http = {"tls_cert": cert, "tls_key": key}
    async with (
        running(seeded, database_url, redis_url, tmp_path, http=http) as gateway,
        gateway.client("read") as client,
    ):
        answer = await client.get("/orders")
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert gateway.app.state.tokens.cookie_name.startswith("__Host-")


async def test_renewed_certificate_is_presented_and_trusted_without_a_restart(
    gateway: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is made as Serve makes it; clients that live longer than the certificate go on, too."""
    monkeypatch.setattr(uvicorn.config, "create_ssl_context", uvicorn.config.create_ssl_context)
    monkeypatch.setattr(uvicorn.protocols.http.auto, "AutoHTTPProtocol", uvicorn.protocols.http.auto.AutoHTTPProtocol)
    serve_proxy.middlewares()
    serve_proxy.middlewares()  # Serve calls it again in the same process
    cert, key = certificate(tmp_path / "tls", "fks.example")
    async with https(gateway, cert, key) as node:
        # made before, and used for the first time after the renewal
        before, pages = node.tls_context(), GatewayClient(node.gateway_url, forward_key=b"k" * 32, trust=node.trust())
        caller = BrowserCaller(session="", host=f"127.0.0.1:{node.http['port']}", address="127.0.0.1")

        async def presented(name: str | None) -> bytes:
            """Return the certificate that a new connection is shown; one by address names no host."""
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            _, writer = await asyncio.open_connection(
                "127.0.0.1", node.http["port"], ssl=context, server_hostname=name or ""
            )
            found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.close()
            return bytes(found)

        old = await presented(None)
        other, other_key = certificate(tmp_path / "other", "fks.example")
        other.replace(cert)  # its key is not there yet: what is in the files cannot be used
        assert [await presented(name) for name in (None, "fks.example")] == [old, old]
        assert (await http_get("127.0.0.1", node.http["port"], "/ready", tls=before))[0] == 200
        secret = load_pem_private_key(other_key.read_bytes(), None)
        key.write_bytes(secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
        assert await presented(None) == old, "nobody is there to be asked for a password"
        other_key.replace(key)
        new = await presented(None)
        assert new != old
        assert await presented("fks.example") == new
        assert (await http_get("127.0.0.1", node.http["port"], "/ready", tls=node.tls_context()))[0] == 200
        assert (await pages.read(caller, "/health"))["status"]
        with pytest.raises(OSError, match="certificate"):
            await http_get("127.0.0.1", node.http["port"], "/ready", tls=before)
        await pages.close()
