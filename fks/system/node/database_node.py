"""A machine of its own for PostgreSQL and Redis: the embedded servers, TLS in front of them, and the files that the
other machines need."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

from fks.clock import RealClock
from fks.config.environment import passed_on
from fks.config.paths import Paths
from fks.config.python import module
from fks.config.secrets import Secrets, write_private
from fks.config.settings import Settings
from fks.model.errors import ConfigError
from fks.model.timeframe import to_datetime
from fks.system.node import probe
from fks.system.node.cluster_driver import ClusterDriver, ClusterState
from fks.system.node.service import ServiceStatus, ServiceTree
from fks.system.node.spec import ServiceSpec
from fks.system.process.handle import Launch, ProcessHandle, find_by_command
from fks.system.servers.embedded import PostgresServer, RedisServer
from fks.system.servers.tls_front import TlsFront

SERVICE = "tls"
VALID_DAYS = 3650
_MODULE = "fks.system.servers.tls_front"


class DatabaseDriver(ClusterDriver):
    """The keeper of such a machine: it runs its services, no cluster, and writes no rows."""

    async def beat(self, statuses: Sequence[tuple[str, ServiceStatus]]) -> ClusterState:
        """Return that nothing is missing."""
        return ClusterState(0.0)

    async def write_history(self, tree: ServiceTree) -> None:
        """Write nothing: the tables are the head's to make."""


def certificate_files(paths: Paths) -> tuple[Path, Path]:
    """Return the files of this machine's certificate and its key."""
    return paths.home / "database.pem", paths.home / "database.key"


def fronts(paths: Paths, settings: Settings, secrets: Secrets) -> tuple[TlsFront, TlsFront]:
    """Return the addresses with TLS, and the unix sockets of the servers behind them."""
    node = settings.node
    return (
        TlsFront("postgres", node.address, node.postgres_port, str(PostgresServer(paths, secrets).socket)),
        TlsFront("redis", node.address, node.redis_port, str(RedisServer(paths, secrets).socket)),
    )


def ports_of(settings: Settings) -> dict[str, tuple[str, int]]:
    """Return the ports that such a machine needs."""
    node = settings.node
    return {
        "node.postgres_port": (node.address, node.postgres_port),
        "node.redis_port": (node.address, node.redis_port),
    }


def tls_service(paths: Paths, settings: Settings, secrets: Secrets) -> ServiceSpec:
    """Return the service that is TLS in front of both servers. Errors: ConfigError (`check_certificate`)."""
    cert, key = certificate_files(paths)
    check_certificate(paths, settings.node.address)
    served = fronts(paths, settings, secrets)
    log = paths.logs / f"{SERVICE}.log"

    def launch() -> Launch:
        ensure_certificate(paths, settings.node.address)
        write_environment(paths, settings, secrets)
        return Launch(module(_MODULE, str(cert), str(key), *map(str, served)), passed_on(os.environ), err=log)

    async def is_ready(process: ProcessHandle) -> bool:
        return all([await probe.listens(front.host, front.port) for front in served])

    def find() -> int | None:
        return next(iter(find_by_command(f"{_MODULE}\0{cert}\0")), None)

    return ServiceSpec(
        name=SERVICE,
        launch=launch,
        is_ready=is_ready,
        find=find,
        log=log,
        ports=ports_of(settings),
        wave=1,
        hang_s=10.0,
    )


def ensure_certificate(paths: Paths, address: str) -> None:
    """Make this machine's certificate, signed by itself, unless it has one. The others pin the file itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    cert, private = certificate_files(paths)
    if cert.exists() and private.exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FKS database")])
    now = to_datetime(RealClock().now_ns())
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .sign(key, SHA256())
    )
    write_private(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    write_private(cert, made.public_bytes(Encoding.PEM).decode())


def check_certificate(paths: Paths, address: str) -> None:
    """Refuse a certificate of another address: the other machines would refuse it. Errors: ConfigError."""
    from cryptography import x509

    cert, key = certificate_files(paths)
    if not (cert.exists() and key.exists()):
        return
    try:
        found = x509.load_pem_x509_certificate(cert.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        addresses = names.get_values_for_type(x509.IPAddress)
    except (ValueError, x509.ExtensionNotFound):
        addresses = []
    if ipaddress.ip_address(address) not in addresses:
        raise ConfigError(
            f"{cert} is not for {address}, this machine's address, but for "
            f"{', '.join(map(str, addresses)) or 'no address'}",
            remedy=f"'rm {cert} {key}', start again, and copy the new {cert.name} to the other machines",
        )


def environment_file(paths: Paths) -> Path:
    """Return the file with the URLs, passwords in them, for the environment of the other machines."""
    return paths.home / "database.env"


def write_environment(paths: Paths, settings: Settings, secrets: Secrets) -> None:
    """Write the lines that the other machines' environment file needs (0600)."""
    node = settings.node
    host = f"[{node.address}]" if ":" in node.address else node.address
    pinned = quote(node.certificate_at or str(certificate_files(paths)[0]))
    passwords = [
        quote(found.get_secret_value(), safe="") for found in (secrets.postgres_password, secrets.redis_password)
    ]
    text = (
        f"FKS_DATABASE_URL=postgresql://fks:{passwords[0]}@{host}:{node.postgres_port}/fks"
        f"?sslmode=verify-full&sslrootcert={pinned}\n"
        f"FKS_REDIS_URL=rediss://:{passwords[1]}@{host}:{node.redis_port}/0?ssl_ca_certs={pinned}\n"
    )
    write_private(environment_file(paths), text)
