"""Child processes are given what they need of the environment, and no credential of another program; secrets of the
settings are in no log."""

from __future__ import annotations

from fks.config.environment import passed_on
from fks.config.secrets import secret_values
from fks.config.settings import Settings
from fks.system.process.log import HIDDEN, Redactor

NEEDED = {
    "PATH": "/bin",
    "FKS_HOME": "/x",
    "FKS_VENUE_API_KEY": "k",
    "BINANCE_API_SECRET": "s",
    "POSTGRES_PASSWORD": "p",
    "https_proxy": "http://proxy",
    "NO_PROXY": "localhost",
    "SSL_CERT_FILE": "/ca.pem",
    "REQUESTS_CA_BUNDLE": "/ca.pem",
    "PGSSLROOTCERT": "/ca.pem",
    "PGPASSFILE": "/home/fks/.pgpass",
    "TZ": "UTC",
    "LC_ALL": "C",
    "CUDA_VISIBLE_DEVICES": "0",
    "LD_LIBRARY_PATH": "/lib",
    "PYTHONPATH": "/src",
    "RAY_CGRAPH": "1",
}
FOREIGN = {
    "AWS_SECRET_ACCESS_KEY": "a",
    "GITHUB_TOKEN": "g",
    "SSH_AUTH_SOCK": "/agent",
    "MODEL_DIR": "/models",
    "PGPASSWORD": "p",
    "DJANGO_SECRET_KEY": "d",
}


def test_what_is_needed_is_passed_on_and_nothing_else() -> None:
    assert passed_on(NEEDED | FOREIGN) == NEEDED


def test_what_the_settings_name_is_passed_on_too() -> None:
    found = passed_on(NEEDED | FOREIGN, ("MODEL_DIR", "AWS_*", "NONE"))
    assert found == NEEDED | {name: FOREIGN[name] for name in ("MODEL_DIR", "AWS_SECRET_ACCESS_KEY")}


def test_every_secret_of_a_node_is_hidden_in_its_logs() -> None:
    settings = Settings.model_validate(
        {
            "venue": {"api_key": "the-key-of-the-venue", "api_secret": "the-secret-of-the-venue"},
            "database": {"url": "postgresql://fks:p%40ss-word-1@db/fks"},
            "alerts": {"discord_webhook_url": "https://discord.test/api/webhooks/1/token-of-the-hook"},
            "chat": {"telegram_token": "123456789:token-of-the-bot"},
        }
    )
    line = (
        "the-key-of-the-venue the-secret-of-the-venue p%40ss-word-1 p@ss-word-1 123456789:token-of-the-bot"
        " https://discord.test/api/webhooks/1/token-of-the-hook"
    )
    assert set(Redactor(secret_values(settings)).text(line).split()) == {HIDDEN}
