"""GET /system/logs: the last lines of one component, chosen by level, without a secret."""

from __future__ import annotations

import json

from tests.support.gateway import Running


async def test_last_lines_of_one_component_come_without_secrets(gateway: Running) -> None:
    folder = gateway.app.state.gateway.deps.paths.logs
    rows = [
        {"ts": f"2026-01-01T00:00:0{n}.000Z", "level": level, "component": "orders", "event": f"e{n}", "pid": 7, "n": n}
        for n, level in enumerate(("INFO", "WARNING", "INFO", "ERROR"))
    ]
    (folder / "orders.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "postgres.log").write_text("2026-01-01 00:00:01 LOG: connect postgresql://fks:hunter2222@127.0.0.1\n")
    async with gateway.client("admin") as client:
        every = (await client.get("/system/logs/orders", params={"lines": 3})).json()
        bad = (await client.get("/system/logs/orders", params={"level": "WARNING"})).json()
        raw = (await client.get("/system/logs/postgres")).json()
        none = await client.get("/system/logs/nothing")
        outside = await client.get("/system/logs/..%2F..%2Fetc%2Fpasswd")
    assert [item["event"] for item in every["items"]] == ["e1", "e2", "e3"]
    assert every["items"][-1]["fields"] == {"n": 3}
    assert [item["event"] for item in bad["items"]] == ["e1", "e3"]
    assert "***" in raw["items"][0]["fields"]["message"]
    assert "hunter2222" not in json.dumps(raw)
    assert (none.status_code, none.json()["code"]) == (404, "COMPONENT_UNKNOWN")
    assert outside.status_code == 404
