"""Choosing futures contracts: every spelling of a contract is one asset, and a root alone names none."""

from __future__ import annotations

import pytest

from fks.config.settings import Data
from fks.market.exchanges.registry import EXCHANGES
from fks.market.history.assets import AssetSelection, Choice
from fks.model.errors import InputError
from fks.store.db import Database


async def test_spellings_of_a_contract_are_one_asset(database: Database) -> None:
    selection = AssetSelection(database, Data(), EXCHANGES)
    for text in ("ES 12-26", "esz26", "ninja:ES 12-26"):
        (row,) = await selection.enable(Choice((text,), "ninja"))
        assert (row["exchange"], row["symbol"], row["is_enabled"]) == ("ninja", "ES 12-26", True)
    assert len(await selection.enable(Choice(("ninja:ESZ26",)))) == 1


async def test_a_name_without_a_known_contract_is_refused(database: Database) -> None:
    for text in ["ES", "ES ##-##", "ESA26", "BTCUSDT", "XX 12-26"]:
        with pytest.raises(InputError, match="ES 03-25") as refused:
            await AssetSelection(database, Data(), EXCHANGES).enable(Choice((text,), "ninja"))
        assert refused.value.status == 404
