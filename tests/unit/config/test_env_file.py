"""The environment file of a machine: one rule of quoting, which systemd reads the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from fks.config.env_file import parse, read, take
from fks.model.errors import ConfigError

URL = "postgresql://fks:p%23$a&b;c@db.internal/fks?sslmode=verify-full&sslrootcert=/etc/ca.crt"


def test_value_that_a_shell_would_expand_is_taken_as_it_stands() -> None:
    assert parse(f"# a comment\n\n; another\nFKS_DATABASE_URL={URL}\nEMPTY=\n") == {
        "FKS_DATABASE_URL": URL,
        "EMPTY": "",
    }


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A='x # y'", "x # y"),
        ("A='back\\slash \"and\" $more'", 'back\\slash "and" $more'),
        ('A="it\'s"', "it's"),
        ("A=a=b", "a=b"),
        ("A=a#b", "a#b"),
        ("A=  spaces around  ", "spaces around"),
    ],
)
def test_quoted_and_bare_values(line: str, value: str) -> None:
    assert parse(line) == {"A": value}


@pytest.mark.parametrize(
    "line",
    [
        "export A=1",
        "A = 1",
        "A",
        "A=s3cret # a comment",
        "A=s3cret\\s",
        "A='open",
        "A='one' two",
        "A='one''two'",
        'A="$s3cret"',
        'A="s3cret\\"b"',
    ],
)
def test_line_that_systemd_reads_differently_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(ConfigError, match=r"fks\.env:2") as caught:
        parse(f"B=1\n{line}")
    assert "s3cret" not in str(caught.value), "a value may be a secret"


def test_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "fks.env"
    file.write_text("A=1\n")
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="0640"):
        read(file)
    with pytest.raises(ConfigError, match=r"nowhere\.env"):
        read(tmp_path / "nowhere.env")


def test_variable_that_is_set_already_wins(tmp_path: Path) -> None:
    file = tmp_path / "fks.env"
    file.write_text("A=file\nB=file\n")
    file.chmod(0o600)
    environ = {"A": "set"}
    assert take(file, environ) == {"A": "file", "B": "file"}
    assert environ == {"A": "set", "B": "file"}
