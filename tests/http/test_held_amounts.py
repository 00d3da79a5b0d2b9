"""Parallel calls behind a limit that holds few of them at once, over real sockets."""

import asyncio
import json
from pathlib import Path

from tests.http.running_gateway import running_gateway
from tests.stores.servers import until

# A call without an output limit holds 4,000 tokens of output: 0.008 USD, and a little for its input.
TWO_CALLS = "sessions: {caps: {usd: 0.02}, hold: worst_case}"
ONE_CALL = "budgets: {all: {limit: {usd: 0.01}, window: day}}"
PROMPT = [{"role": "user", "content": "hi"}]


async def test_parallel_calls_of_a_session_take_turns(tmp_path: Path):
    async with running_gateway(tmp_path, more=TWO_CALLS, rate=400.0) as gateway:
        calls = [
            gateway.post("/v1/chat/completions", {"model": "openai", "messages": PROMPT}, x_session_id="run")
            for _ in range(4)
        ]
        assert [status for status, _, _ in await asyncio.gather(*calls)] == [200] * 4
        assert sum(entry.charge_nusd for entry in await gateway.ledger()) < 1_000_000


async def test_a_call_that_waited_in_vain_is_asked_to_retry_in_every_dialect(tmp_path: Path):
    async with running_gateway(tmp_path, more=ONE_CALL) as gateway:
        hanging = [{"role": "user", "content": '[[sim {"fault": "hang"}]]'}]
        holding = asyncio.ensure_future(
            gateway.post("/v1/chat/completions", {"model": "openai", "messages": hanging, "max_tokens": 4000})
        )

        async def is_dialed() -> bool:
            return bool(gateway.providers["openai"].request_bodies)

        await until(is_dialed)
        answers = await asyncio.gather(
            gateway.post("/v1/chat/completions", {"model": "openai", "messages": PROMPT, "max_tokens": 4000}),
            gateway.post("/v1/responses", {"model": "openai", "input": "hi", "max_output_tokens": 4000}),
            gateway.post("/v1/messages", {"model": "anthropic", "messages": PROMPT, "max_tokens": 4000}),
            gateway.post(
                "/v1/messages", {"model": "anthropic", "messages": PROMPT, "max_tokens": 4000, "stream": True}
            ),
        )
        for status, headers, content in answers:
            error = json.loads(content)["error"]
            assert (status, error["code"]) == (429, "budget_held")
            assert headers["retry-after"] in ("1", "2") and "x-should-retry" not in headers
            assert error["details"]["used"] == 0 and error["details"]["held"] >= 0.008
        assert json.loads(answers[2][2])["error"]["type"] == "rate_limit_error"
        holding.cancel()
