"""Numbers from outside: none is dear, none is an error of the server; JSON has a greatest depth."""

from __future__ import annotations

import os
import random

from fks.store.db import Database
from tests.support.gateway import Running
from tests.support.number_fuzz import Fuzz

SEED = int(os.environ.get("FKS_FUZZ_SEED", "25"))


async def test_no_number_blocks_the_gateway_or_makes_it_fail(gateway: Running, seeded: Database) -> None:
    fuzz = Fuzz(gateway, seeded)
    await fuzz.prepare()
    count, wrong = await fuzz.walk(fuzz.cases(3, random.Random(SEED)))
    print(count)
    assert wrong == []
    assert count > 500
