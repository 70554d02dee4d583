"""URLs where nobody listens: given up at once where nobody ever did, waited for where a server went away."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from diva_grpo.pipeline.store import VariantStore
from diva_grpo.pipeline.teacher.meter import Meter, shown
from diva_grpo.pipeline.teacher.wire.live import LiveExchange
from diva_grpo.pipeline.teacher.wire.outcome import Outcome
from diva_grpo.schemas.config import TeacherConfig
from tests.support.endpoints import Endpoint, completion, serving

PARAMETERS: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "1 + 1?"}]}


def _sent(url: str, memory: Path) -> Outcome:
    async def send() -> Outcome:
        config = TeacherConfig(model="m", base_url=url, endpoint="e", max_retries=3)
        exchange = LiveExchange(config, memory)
        try:
            return await exchange.send(PARAMETERS, "key")
        finally:
            await exchange.close()

    return asyncio.run(send())


def test_a_server_that_was_there_is_waited_for_by_a_later_run_too(tmp_path: Path) -> None:
    with serving(Endpoint(completion("2"))) as endpoint:
        url = endpoint.url
        never = _sent("http://127.0.0.1:9/v1", tmp_path / "limits.json")
        assert (never.attempts, never.outcome) == (3, "network")
        assert never.to_do
        assert not (tmp_path / "limits.json").exists(), "nothing is known of a URL that was not reached"
        assert _sent(url, tmp_path / "limits.json").outcome == "ok"
    gone = _sent(url, tmp_path / "limits.json")
    assert (gone.attempts, gone.outcome, gone.to_do) == (4, "network", None)
    assert _sent(url, tmp_path / "nothing.json").to_do


def test_a_wait_is_shown_as_soon_as_it_begins(store: VariantStore) -> None:
    lines: list[str] = []
    meter = Meter("requests")
    with store.run("generate", "{}") as run_id, shown(meter, store, run_id, lines.append, every_s=60.0):
        meter.note = "waits since 12:00:00"
        deadline = time.monotonic() + 30
        while not lines and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        assert len(lines) == 1, "and once"
    assert "waits since 12:00:00" in lines[0]
