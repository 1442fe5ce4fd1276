"""Binary COPY streams: encoded values are decoded again, in the very bytes that PostgreSQL's documentation gives."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fks.model.errors import BugError
from fks.store import copy

COLUMNS = [("time", copy.TIME), ("price", copy.FLOAT), ("count", copy.INT4), ("flag", copy.BOOL)]
DAY_NS = 86_400_000_000_000


def test_the_bytes_are_those_of_the_documentation() -> None:
    columns = [("time", copy.TIME), ("symbol", copy.text_form("ÄB"))]
    stream = copy.encoded(columns, {"time": copy.pg_time(np.array([946_684_800_000_001_000])), "symbol": "ÄB"}, 1)
    row = struct.pack(">hiqi", 2, 8, 1, 3) + "ÄB".encode()
    assert bytes(stream) == b"PGCOPY\n\xff\r\n\0" + bytes(8) + row + b"\xff\xff"


@given(
    st.lists(
        st.tuples(st.integers(-100_000, 100_000), st.floats(), st.integers(-(2**31), 2**31 - 1), st.booleans()),
        max_size=20,
    )
)
def test_any_rows_come_back(rows: list[tuple[int, float, int, bool]]) -> None:
    time_ns = np.array([row[0] * DAY_NS // 1000 for row in rows], dtype=np.int64) * 1000
    price = np.array([row[1] for row in rows], dtype=np.float64)
    values = {
        "time": copy.pg_time(time_ns),
        "price": price,
        "count": [row[2] for row in rows],
        "flag": [row[3] for row in rows],
    }
    found = copy.decoded(copy.row_form(COLUMNS), copy.encoded(COLUMNS, values, len(rows)))
    assert copy.time_ns_of(found).tolist() == time_ns.tolist()
    assert found["price"].astype(np.float64).tobytes() == price.tobytes()  # NaNs and signs of zero too
    assert [(int(row["count"]), bool(row["flag"])) for row in found] == [(row[2], row[3]) for row in rows]


@pytest.mark.parametrize(
    "stream", [b"", b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"x\xff\xff", b"something else of nineteen bytes or more"]
)
def test_another_form_is_a_bug(stream: bytes) -> None:
    with pytest.raises(BugError, match="no rows of"):
        copy.decoded(copy.row_form(COLUMNS), stream)
