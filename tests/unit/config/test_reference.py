"""The reference of all settings is complete and docs/configuration.md holds it word for word."""

from __future__ import annotations

from pathlib import Path

from fks.config.load import env_name, sections
from fks.config.reference import reference

DOCS = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_docs_contain_the_reference_verbatim() -> None:
    assert reference() in DOCS.read_text(), "run: python -m tests.support.configuration_docs"


def test_every_setting_is_in_it() -> None:
    text = reference()
    for section, model in sections().items():
        assert f"### [{section}]" in text
        for key in model.model_fields:
            assert f"`{env_name(section, key)}`" in text
