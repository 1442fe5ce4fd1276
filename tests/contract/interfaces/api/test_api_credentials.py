"""`/credentials` and `fks secrets`: keys of venues go in, and are shown nowhere."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from fks.config.credentials import VenueKey, load_keys
from fks.config.paths import Paths
from fks.config.problems import ValueSource
from fks.config.settings import VenueSettings
from fks.interfaces.cli.checkup import plain_keys, stored_faults
from fks.model.health import DEGRADED
from fks.store.credentials import CredentialStore
from fks.store.db import Database
from fks.system.process.log import HIDDEN, Redactor, hide
from tests.support.api_fixtures import Fks
from tests.support.gateway import Running, running
from tests.support.local_exchange import LocalExchange
from tests.support.stored_keys import assert_hidden, at, dumped, made

PATH = "/credentials/main"
PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIyX\n-----END EC PRIVATE KEY-----\n"


@pytest.fixture(scope="module")
def exchange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalExchange]:
    started = LocalExchange(tmp_path_factory.mktemp("exchange"), ["--seed", "7"]).start()
    yield started
    started.stop()


@pytest.fixture
async def gateway(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path, exchange: LocalExchange
) -> AsyncIterator[Running]:
    await seeded.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ('main', 'ccxt', 1000)")
    venue = at(exchange, tmp_path).venue
    venues = {"exchanges": ("kraken",)}
    async with running(seeded, database_url, redis_url, tmp_path, venue=venue, venues=venues) as gateway:
        yield gateway


def body_of(key: VenueKey, **more: str) -> dict[str, str]:
    api_key, api_secret = key.plain()
    return {"api_key": api_key, "api_secret": api_secret, **more}


async def test_a_key_is_stored_listed_rotated_and_removed(
    gateway: Running, exchange: LocalExchange, tmp_path: Path, seeded: Database
) -> None:
    first, second = made(exchange), made(exchange, is_address_bound=False)
    async with gateway.client() as admin:
        assert (await admin.post(f"{PATH}/rotate", json=body_of(first))).status_code == 404
        answer = await admin.post(PATH, json=body_of(first))
        assert answer.status_code == 201, answer.text
        row = answer.json()
        assert (row["account"], row["role"], row["version"], row["state"]) == ("main", "orders", 1, "waiting")
        assert (row["fingerprint"], row["may_withdraw"], row["warnings"]) == (first.fingerprint, False, [])
        assert load_keys(Paths.of(tmp_path).credentials_key).id == row["key_id"]
        assert (await admin.post(PATH, json=body_of(second))).json()["code"] == "CREDENTIAL_EXISTS"
        same = await admin.post(PATH, json=body_of(first, role="guardian"))
        assert (same.status_code, same.json()["code"]) == (409, "CREDENTIAL_SAME")
        rotated = await admin.post(f"{PATH}/rotate", json=body_of(second))
        assert "any address" in rotated.json()["warnings"][0]
        items = (await admin.get("/credentials")).json()["items"]
        assert [(item["version"], item["state"]) for item in items] == [(2, "waiting"), (1, "retired")]
        assert (await admin.delete(f"{PATH}?role=guardian")).status_code == 404
        await seeded.sql("UPDATE accounts SET venue = 'bybit' WHERE name = 'main'")  # it left venues.exchanges
        assert (await admin.post(f"{PATH}/rotate", json=body_of(first))).json()["code"] == "CREDENTIAL_WRONG"
        assert (await admin.delete(PATH)).json()["removed"] is True
        assert (await admin.get("/credentials")).json()["items"] == []


@pytest.mark.parametrize("scope", [None, "read", "signal", "approve", "trade"])
async def test_only_administrators_reach_the_keys(gateway: Running, exchange: LocalExchange, scope: str | None) -> None:
    body = body_of(made(exchange))
    async with gateway.client(scope) as client:
        for answer in (
            await client.get("/credentials"),
            await client.post(PATH, json=body),
            await client.post(f"{PATH}/rotate", json=body),
            await client.delete(PATH),
        ):
            assert answer.status_code in (401, 403)


async def test_a_key_that_may_withdraw_or_is_refused_is_not_stored(
    gateway: Running, exchange: LocalExchange, seeded: Database
) -> None:
    unknown = VenueKey(SecretStr("u" * 64), SecretStr("w" * 64))
    for key, code in ((made(exchange, may_withdraw=True), "KEY_MAY_WITHDRAW"), (unknown, "KEY_REFUSED")):
        async with gateway.client() as admin:
            answer = await admin.post(PATH, json=body_of(key))
        assert (answer.status_code, answer.json()["code"]) == (422, code)
        assert_hidden(key, answer.text)
    assert await CredentialStore(seeded).page() == []


async def test_a_key_crosses_no_network_in_the_clear(
    seeded: Database, database_url: str, redis_url: str, tmp_path: Path, exchange: LocalExchange
) -> None:
    await seeded.sql("INSERT INTO accounts (name, venue, initial_balance) VALUES ('main', 'ccxt', 1000)")
    venue = VenueSettings(rest_url="http://venue.example")
    async with running(seeded, database_url, redis_url, tmp_path, venue=venue) as gateway, gateway.client() as admin:
        answer = await admin.post(PATH, json=body_of(made(exchange)))
    assert (answer.status_code, answer.json()["code"]) == (422, "CREDENTIAL_WRONG")
    assert "without TLS" in answer.text


async def test_an_error_shows_nothing_of_the_body(gateway: Running, exchange: LocalExchange, seeded: Database) -> None:
    for account, change, code in [
        ("nobody", {}, "ACCOUNT_UNKNOWN"),
        ("demo", {}, "CREDENTIAL_WRONG"),
        ("main", {"api_key": "short"}, "CREDENTIAL_WRONG"),
        ("main", {"api_secret": "with a space in it"}, "CREDENTIAL_WRONG"),
        ("main", {"api_secret": "unprintable\u0007key"}, "CREDENTIAL_WRONG"),
        ("main", {"api_secret": "no-text-\u0000-of-json"}, "JSON_MALFORMED"),
        ("main", {"role": "strategy"}, "INVALID"),
        ("main", {"api_key": ["a-list-of-" + "k" * 30]}, "INVALID"),
        ("main", {"api_secret": "long" * 600}, "INVALID"),
        ("main", {"api_secert": "m" * 40}, "INVALID"),
    ]:
        body = body_of(made(exchange)) | change
        async with gateway.client() as admin:
            answer = await admin.post(f"/credentials/{account}", json=body)
            broken = await admin.post(f"/credentials/{account}", content=json.dumps(body)[:-4])
        assert answer.json()["code"] == code
        kept = await dumped(seeded) + str(gateway.log.lines)
        for name in body.keys() - {"role"}:
            text = str(body[name])
            assert text == "short" or text[:30] not in kept, "the audit and the log keep nothing of it"
            assert text == "short" or (text not in answer.text and text[:30] not in broken.text + answer.text)


def texts(folder: Path) -> list[str]:
    return [path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()]


async def test_a_key_is_nowhere_but_in_its_ciphertext(
    gateway: Running, exchange: LocalExchange, seeded: Database, tmp_path: Path
) -> None:
    first, second, bad = made(exchange), made(exchange), made(exchange, may_withdraw=True)
    async with gateway.client() as admin:
        seen = [(await admin.post(PATH, json=body_of(first), headers={"Idempotency-Key": "one"})).text]
        seen += [(await admin.post(f"{PATH}/rotate", json=body_of(key))).text for key in (second, bad)]
        for path in ("/credentials", "/openapi.json", "/accounts", "/config", "/audit", "/api/status", "/docs"):
            seen.append((await admin.get(path)).text)
        graphql = await admin.post("/graphql", json={"query": "{ credentials }"})
        seen.append(graphql.text)
    assert first.fingerprint in graphql.text, "it shows what GET /credentials shows"
    async with gateway.client("trade") as trader:
        refused = await trader.post("/graphql", json={"query": "{ credentials }"})
    assert first.fingerprint not in refused.text
    audit = await seeded.sql("SELECT * FROM audit_log WHERE action LIKE '%credentials%' ORDER BY id")
    details = [row["detail"] for row in audit if row["phase"] == "answered"]
    assert [detail["fingerprint"] for detail in details] == [key.fingerprint for key in (first, second, bad)]
    places = [*seen, await dumped(seeded), str(gateway.log.lines), *texts(tmp_path)]
    for key in (first, second, bad):
        assert_hidden(key, *places)


async def test_the_openapi_form_has_no_example_and_is_write_only(gateway: Running) -> None:
    async with gateway.client() as admin:
        document = (await admin.get("/openapi.json")).json()
    schema = document["paths"]["/credentials/{account}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for name in ("api_key", "api_secret"):
        field = schema["properties"][name]
        assert (field["format"], field["writeOnly"]) == ("password", True)
        assert "example" not in field
        assert "examples" not in field


def test_a_key_that_arrived_later_is_hidden_in_logs() -> None:
    redactor = Redactor()
    hide("a-later-secret", "short")
    assert redactor.text("GET /x?k=a-later-secret short") == f"GET /x?k={HIDDEN} short"
    for number in range(300):
        hide(f"secret-{number:04}")
    assert redactor.text("secret-0299") == HIDDEN


def test_no_line_of_a_private_key_is_logged() -> None:
    body = PEM.splitlines()[1]
    for value in (PEM, PEM.replace("\n", "\\n")):
        assert body not in Redactor([value]).text(f"cannot load {PEM!r}: {PEM}: {body}")
    hide(PEM.replace("\n", "\\n").replace(body, "laterMHcCAQEE"))
    assert "laterMHcCAQEE" not in Redactor().text("bad key\nlaterMHcCAQEE\n")


# ── the commands ─────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no order manager: none runs."""
    monkeypatch.setattr("fks.interfaces.cli.secrets.WAIT_S", 0.1)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("way", ["pipe", "file"])
async def test_a_command_takes_a_key_from_a_pipe_or_a_private_file(
    fks: Fks, exchange: LocalExchange, tmp_path: Path, given: Callable[[str], None], way: str
) -> None:
    key, arguments = made(exchange), ["secrets", "set", "main", "--json"]
    lines = "\n".join(key.plain()) + "\n"
    given(lines if way == "pipe" else "")
    if way == "file":
        file = tmp_path / "key.txt"
        file.write_text(lines)
        file.chmod(0o644)
        arguments += ["--file", str(file)]
        code, out, err = await fks(*arguments)
        assert code != 0
        assert "others can read it" in err
        assert_hidden(key, out, err)
        file.chmod(0o600)
    code, out, err = await fks(*arguments)
    assert code == 0, err
    assert json.loads(out)["fingerprint"] == key.fingerprint
    listed = [await fks("secrets", "list"), await fks("secrets", "list", "--json")]
    assert key.fingerprint in listed[0][1]
    for _, text, error in listed:
        assert_hidden(key, out, err, text, error)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("way", ["pipe", "file"])
async def test_a_private_key_of_several_lines_is_read_to_its_end(
    fks: Fks, exchange: LocalExchange, tmp_path: Path, given: Callable[[str], None], way: str
) -> None:
    text, arguments = f"{made(exchange).plain()[0]}\n{PEM}the next line\n", ["secrets", "set", "main"]
    given(text if way == "pipe" else "")
    if way == "file":
        file = tmp_path / "key.txt"
        file.touch(mode=0o600)
        file.write_text(text)
        arguments += ["--file", str(file)]
    code, _, err = await fks(*arguments)
    assert (code, "KEY_REFUSED" in err) == (2, True), f"the exchange was asked, and knows no such key: {err}"


@pytest.mark.usefixtures("quick")
async def test_a_key_is_no_argument_of_a_command(fks: Fks, given: Callable[[str], None]) -> None:
    given("")
    code, _, err = await fks("secrets", "set", "main", "a-key", "a-secret")
    assert code == 2
    code, _, err = await fks("secrets", "set", "main")
    assert code == 2
    assert "first line" in err


@pytest.mark.usefixtures("quick")
async def test_keys_of_a_file_are_imported_and_their_place_is_named(
    fks: Fks, exchange: LocalExchange, tmp_path: Path
) -> None:
    key = made(exchange)
    env_file = tmp_path / ".env"
    env_file.write_text("BINANCE_API_KEY={}\nBINANCE_API_SECRET={}\n".format(*key.plain()))
    env_file.chmod(0o600)
    code, out, err = await fks("secrets", "list", "--json")
    (row,) = json.loads(out)["items"]
    assert (row["state"], row["fingerprint"]) == ("plain text", key.fingerprint)
    assert ".env" in row["source"]
    code, out, err = await fks("accounts", "create", "at-kraken", "--venue", "kraken", "--json")
    assert code == 0, err
    for account in ("at-kraken", str(json.loads(out)["id"])):
        code, _, err = await fks("secrets", "import", account)
        assert code != 0
        assert "keys of [venue] are those of the venue ccxt" in err
    code, out, err = await fks("secrets", "import", "main")
    assert code == 0, err
    assert "now delete it from" in err
    assert ".env" in err
    listed = await fks("secrets", "list", "--json")
    states = {row["source"]: row["state"] for row in json.loads(listed[1])["items"]}
    assert states["database"] == "waiting"
    assert "not used: a stored one wins" in states.values()
    assert_hidden(key, out, err, *listed[1:])


@pytest.mark.usefixtures("quick")
async def test_a_command_encrypts_all_keys_anew(
    fks: Fks,
    exchange: LocalExchange,
    tmp_path: Path,
    given: Callable[[str], None],
    database_url: str,
    seeded: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key, file = made(exchange), Paths.of(tmp_path).credentials_key
    given("\n".join(key.plain()))
    assert (await fks("secrets", "set", "main"))[0] == 0
    before = load_keys(file).id
    assert (await fks("secrets", "rotate"))[0] == 2
    assert (await fks("secrets", "rotate", "main", "--key"))[0] == 2
    monkeypatch.setenv("FKS_DATABASE_URL", database_url)
    code, out, err = await fks("secrets", "rotate", "--key", "--json")
    assert code == 0, err
    assert json.loads(out)["count"] == 1
    assert json.loads(out)["key_id"] == load_keys(file).id != before
    assert (await CredentialStore(seeded).page())[0].key_id == load_keys(file).id
    (noted,) = await seeded.sql("SELECT detail FROM audit_log WHERE action = 'secrets rotate --key'")
    assert noted["detail"] == {"fingerprint": load_keys(file).id, "count": 1}


@pytest.mark.usefixtures("quick")
async def test_the_doctor_names_plain_keys_and_a_lost_key_file(
    fks: Fks, exchange: LocalExchange, tmp_path: Path, given: Callable[[str], None]
) -> None:
    paths, key = Paths.of(tmp_path), made(exchange)
    given("\n".join(key.plain()))
    assert (await fks("secrets", "set", "main"))[0] == 0
    assert await stored_faults(paths) == ""
    paths.credentials_key.unlink()
    assert "credentials.key" in await stored_faults(paths)
    settings = at(exchange, tmp_path, api_key=key.api_key, api_secret=key.api_secret)
    (check,) = plain_keys(settings, {("venue", "api_key"): ValueSource(".env:1", "BINANCE_API_KEY")})
    assert (check.status, ".env:1" in check.detail) == (DEGRADED, True)
    assert "fks secrets import" in check.remedy
    assert_hidden(key, check.detail, check.remedy)
    assert list(plain_keys(at(exchange, tmp_path), {})) == []
