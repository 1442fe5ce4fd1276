"""The gateway runs on a machine only if that machine can answer as the head does: same address, usable certificate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fks.config.check import problems_of
from fks.config.endpoints import NodeEndpoints as Endpoints
from fks.config.machine_http import (
    can_spread,
    certificate_end,
    certificate_fault,
    differs,
    is_on_fewer,
    lacking,
    listens_at,
    machines_of_gateway,
    report,
)
from fks.config.settings import Http, NodeSettings, Settings
from fks.interfaces.cli.cluster_check import check_nodes
from fks.model.errors import ConfigError
from fks.store.nodes import NodeRow
from fks.system.monitor.status import overall
from fks.system.node.head_driver import GROW_AFTER_S, GatewayGrowth
from tests.support.certificates import certificate

CERT, KEY = Path("/etc/fks/cert.pem"), Path("/etc/fks/key.pem")
TLS = {"host": "127.0.0.1", "port": 8000, "tls_cert": str(CERT), "tls_key": str(KEY), "fault": "", "remedy": ""}
PLAIN = {"host": "127.0.0.1", "port": 8000}
EVERYWHERE = TLS | {"host": "0.0.0.0"}
NOW = datetime.now(UTC)


def settings(role: str = "head", **http: Any) -> Settings:
    return Settings(node=NodeSettings(role=role), http=Http(**http))  # type: ignore[arg-type]


def of_cluster(head: dict[str, Any], **workers: dict[str, Any] | None) -> list[tuple[str, str, dict[str, Any]]]:
    rows = [("h", "head", {"http": head | {"spreads": True}})]
    return rows + [(name, "worker", {"http": own} if own else {}) for name, own in workers.items()]


@pytest.mark.parametrize(
    ("http", "expected"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"spread": False}, False),
        ({"tls_cert": CERT, "tls_key": KEY}, True),
        ({"tls_cert": CERT, "tls_key": KEY, "host": "0.0.0.0"}, True),
        ({"tls_cert": CERT, "tls_key": KEY, "host": "::"}, True),
        ({"tls_cert": CERT, "tls_key": KEY, "host": "10.0.0.1"}, False),
        ({"tls_cert": CERT, "tls_key": KEY, "host": "head.example"}, False),
        ({"host": "0.0.0.0", "behind_proxy": True}, False),
        ({"host": "10.0.0.1", "behind_proxy": True, "trusted_proxies": ("10.0.0.5",)}, False),
    ],
)
def test_gateway_spreads_on_addresses_of_every_machine_and_off_loopback_with_tls(
    http: dict[str, Any], expected: bool
) -> None:
    assert can_spread(settings(**http)) is expected
    assert not can_spread(settings("single", **http))
    assert not can_spread(settings("worker", **http))


def test_usable_certificate_has_no_fault(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "a")
    assert certificate_fault(cert, key, NOW) is None


def test_each_fault_of_a_certificate_is_named(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "a")
    old, old_key = certificate(tmp_path, "old", days=-1.0)
    _, other = certificate(tmp_path, "b")
    open_key = tmp_path / "open.key"
    open_key.write_bytes(key.read_bytes())
    open_key.chmod(0o640)
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    absent = tmp_path / "absent.pem"

    def fault(cert: Path, key: Path, now: datetime = NOW) -> str:
        found = certificate_fault(cert, key, now)
        assert found is not None
        assert found[1], "no remedy"
        return found[0]

    assert fault(absent, key) == f"http.tls_cert = '{absent}' is no file that this user can read"
    assert fault(cert, absent) == f"http.tls_key = '{absent}' is no file that this user can read"
    assert fault(cert, open_key) == f"http.tls_key = '{open_key}' can be read by others"
    assert "cannot be used" in fault(cert, other)
    assert "cannot be used" in fault(text, key)
    assert "expired at" in fault(old, old_key)
    assert "is valid from" in fault(cert, key, NOW - timedelta(days=30))


def test_key_with_a_password_is_a_fault_and_no_question(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    cert, key = certificate(tmp_path, "a")
    made = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass")))
    found = certificate_fault(cert, key, NOW)
    assert found is not None
    assert "without a password" in found[1]


def test_worker_with_the_same_paths_and_usable_files_lacks_nothing() -> None:
    assert lacking(of_cluster(TLS, w1=TLS, w2=TLS)) == {}
    assert lacking(of_cluster(PLAIN, w1=PLAIN)) == {}
    assert lacking(of_cluster(PLAIN, w1=None)) == {}, "a build before the report, and nothing to report"
    assert lacking(of_cluster(EVERYWHERE, w1=EVERYWHERE)) == {}


@pytest.mark.parametrize(
    ("head", "worker", "text"),
    [
        (TLS, None, "does not report its certificate"),
        (TLS, PLAIN, "http.tls_cert is not set there"),
        (TLS, TLS | {"tls_cert": "/home/w1/.fks/cert.pem"}, "http.tls_cert is /home/w1/.fks/cert.pem there"),
        (TLS, TLS | {"fault": "it expired", "remedy": "renew it"}, "it expired"),
        (PLAIN, TLS, "the head has none"),
        (EVERYWHERE, TLS, "http.host is 127.0.0.1 there"),
    ],
)
def test_what_a_worker_lacks_is_named_with_its_remedy(head: Any, worker: Any, text: str) -> None:
    found = lacking(of_cluster(head, w1=worker, w2=head))
    assert list(found) == ["w1"]
    assert text in found["w1"][0]
    assert found["w1"][1]


def test_loopback_addresses_may_differ() -> None:
    assert differs(TLS, TLS | {"host": "localhost"}) is None


def test_nothing_is_lacking_where_the_gateway_does_not_spread() -> None:
    rows = of_cluster(TLS, w1=None)
    rows[0] = ("h", "head", {"http": TLS | {"spreads": False}})
    assert lacking(rows) == {}
    assert lacking(rows[1:]) == {}


@pytest.mark.parametrize(
    ("machines", "now", "may_spread", "is_ready", "expected"),
    [
        (3, 1, True, True, 3),
        (3, 1, True, False, 1),
        (3, 2, True, False, 2),  # a third machine without a certificate takes it from no other
        (2, 3, True, False, 2),
        (3, 0, True, False, 1),  # the first deployment
        (3, 3, False, True, 1),
        (1, 0, True, True, 1),
    ],
)
def test_gateway_stays_where_it_is_until_each_machine_is_ready(
    machines: int, now: int, may_spread: bool, is_ready: bool, expected: int
) -> None:
    assert machines_of_gateway(machines, now, may_spread=may_spread, is_ready=is_ready) == expected


def test_two_replicas_on_the_head_are_not_on_two_machines() -> None:
    assert is_on_fewer(2, 1, 2, 1)
    assert is_on_fewer(3, 3, 3, 2)
    assert is_on_fewer(3, 1, 2, 1)
    assert not is_on_fewer(2, 2, 2, 1)


def test_gateway_grows_once_nothing_is_lacking_for_a_while() -> None:
    growth = GatewayGrowth()
    fault = {"w1": ("it expired", "renew it")}
    assert growth.news(fault) == fault
    assert growth.news(fault) == {}, "reported once"
    assert not growth.is_due(100.0, 0)
    assert growth.news({}) == {}
    assert not growth.is_due(101.0, 2)
    assert not growth.is_due(100.0 + GROW_AFTER_S, 2)
    assert growth.is_due(101.0 + GROW_AFTER_S, 2)
    growth.note_grown()
    assert not growth.is_due(200.0, 2)
    assert growth.news(fault) == fault, "reported again"
    assert not growth.is_due(201.0, 0)
    assert not growth.is_due(202.0, 2)
    assert growth.is_due(202.0 + GROW_AFTER_S, 2)


def test_links_to_a_certificate_stay_links(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "a")
    link = tmp_path / "live.pem"
    link.symlink_to(cert)
    assert listens_at(settings(tls_cert=link, tls_key=key))["tls_cert"] == str(link)


def test_report_has_the_fault_of_this_machines_files(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "a")
    tls = {"tls_cert": cert, "tls_key": key}
    found = report(settings("worker", **tls), NOW) | {"port": 1}
    assert found.pop("ends_s") == certificate_end(cert).timestamp()
    assert found == {
        "host": "127.0.0.1", "port": 1, "tls_cert": str(cert), "tls_key": str(key), "fault": "", "remedy": ""
    }  # fmt: skip
    assert report(settings(**tls), NOW)["spreads"] is True
    key.unlink()
    assert "http.tls_key" in report(settings("worker", **tls), NOW)["fault"]
    assert "fault" not in report(settings("worker"), NOW)


def test_worker_starts_without_its_certificate_and_a_head_does_not() -> None:
    tls = {"tls_cert": CERT, "tls_key": KEY}
    assert problems_of(settings("worker", **tls), {}) == []
    assert len(problems_of(settings("head", **tls), {})) == 2
    assert len(problems_of(settings("worker", tls_cert=CERT), {})) == 1, "a certificate without a key is wrong anywhere"


def test_command_without_the_certificate_gets_a_remedy(tmp_path: Path) -> None:
    http = {"host": "127.0.0.1", "port": 1, "tls_cert": str(tmp_path / "absent.pem"), "tls_key": "k"}
    with pytest.raises(ConfigError, match=r"absent\.pem, the gateway's certificate, cannot be read"):
        Endpoints("", "", "", http).tls_context()


def test_status_and_check_name_the_machine_and_the_remedy() -> None:
    rows = of_cluster(TLS, w1=PLAIN, w2=TLS)
    nodes = [{"name": name, "role": role, "state": "ready", "detail": detail} for name, role, detail in rows]
    well = [{"name": "monitor", "state": "ready"}]
    state, reasons = overall(well, [], [], nodes)
    assert state == "degraded"
    expected = "http.tls_cert is not set there; set http.tls_cert = '/etc/fks/cert.pem' there, and start its node again"
    assert reasons == [f"gateway on w1: {expected}"]
    silent = [node | {"state": "silent"} if node["name"] == "w1" else node for node in nodes]
    assert not any("gateway" in reason for reason in overall(well, [], [], silent)[1])
    checks = {check.name: check for check in check_nodes([NodeRow(n, r, "ready", detail=d) for n, r, d in rows], None)}
    assert (checks["w1 gateway"].status, checks["w2 gateway"].status) == ("down", "healthy")
    assert f"{checks['w1 gateway'].detail}; {checks['w1 gateway'].remedy}" == expected
